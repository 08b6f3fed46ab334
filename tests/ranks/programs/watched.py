"""A Trainer script of transformers that knows nothing of us. Rank 1 does what WHAT says after step AT of the first attempt:
`stop` (asks itself to stop), `stop in evaluation`, `fail` or `hang`. Rank 0 prints the digest of the weights."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from figures import digest
from hf_trainer import Sentences
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    HfArgumentParser,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)


class Act(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.act(state.global_step, os.environ.get("WHAT", ""))

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if os.environ.get("WHAT") == "stop in evaluation":
            self.act(state.global_step, "stop")

    def act(self, step: int, what: str) -> None:
        is_first_attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if os.environ["RANK"] != "1" or not is_first_attempt or step != int(os.environ.get("AT", "-1")):
            return
        if what == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        elif what == "fail":
            raise ValueError("a row too many")
        elif what == "hang":
            time.sleep(1000)


def main() -> None:
    (arguments,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
    set_seed(arguments.seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(os.environ["MODEL"]))
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Sentences(), eval_dataset=Sentences(), callbacks=[Act()]
    )
    trainer.train()
    state = trainer.accelerator.get_state_dict(trainer.model)  # whole, whatever the strategy
    if trainer.is_world_process_zero():
        print("device", trainer.args.device, type(trainer.model).__name__, "weights", digest(state))


if __name__ == "__main__":
    main()
