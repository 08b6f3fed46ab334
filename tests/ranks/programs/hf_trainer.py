"""A Trainer script of transformers as people write them; rank 0 prints each loss and norm, and the weights' digest."""

from __future__ import annotations

import argparse

import torch
from figures import digest
from transformers import AutoConfig, AutoModelForCausalLM, HfArgumentParser, Trainer, TrainingArguments, set_seed


class Sentences(torch.utils.data.Dataset):
    """Tokens that follow from one another."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = (torch.arange(24) * (index % 5 + 1)) % 512
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}


def main() -> None:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--model_name_or_path", required=True)
    options, words = own.parse_known_args()
    (arguments,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(words)
    set_seed(arguments.seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(options.model_name_or_path))
    trainer = Trainer(model=model, args=arguments, train_dataset=Sentences())
    trainer.train()
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        for row in trainer.state.log_history:
            if "loss" in row:
                print(f"loss {row['loss']!r} norm {row['grad_norm']!r}", flush=True)
        print("device", trainer.args.device, "weights", digest(trainer.model.state_dict()))


if __name__ == "__main__":
    main()
