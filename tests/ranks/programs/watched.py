"""A Trainer script of transformers that knows nothing of us. Rank 1 does what WHAT says after step AT of the first attempt:
`stop` (asks itself to stop), `fail` or `hang`. Rank 0 prints the digest of the weights."""

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
        is_first_attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if os.environ["RANK"] != "1" or not is_first_attempt or state.global_step != int(os.environ.get("AT", "-1")):
            return
        what = os.environ["WHAT"]
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
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        print("device", trainer.args.device, "weights", digest(trainer.model.state_dict()))


if __name__ == "__main__":
    main()
