"""The well-known fine-tuning guide as one script: stock Trainer, every row padded to 512, all rows tokenised.

Corrected only so that it runs on a Llama: a classification head instead of a causal one, a pad token for tokenizer and
model, a max_length for the padding that it asks for, and local files, rows and model from the environment. It notes
what tools/bench_job.py asks about, and nothing else: run it with python, torchrun or accelerate launch.
"""

import json
import os
import time
from pathlib import Path

import evaluate
import numpy as np
from datasets import disable_progress_bars, load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

import launcher.worker.tasks.metrics

JOB = json.loads(os.environ["BENCH_JOB"])
RANK, WORLD_SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def main() -> None:
    disable_progress_bars()
    noted = {"imported": time.time()}
    tokenizer = AutoTokenizer.from_pretrained(JOB["model"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def tokenize_function(examples):
        return tokenizer(examples["text"], padding="max_length", truncation=True, max_length=512)

    dataset = load_dataset("parquet", data_files=JOB["data_files"])
    began = time.perf_counter()
    tokenized_datasets = dataset.map(tokenize_function, batched=True)
    noted["preprocessing"] = time.perf_counter() - began
    small_train_dataset = tokenized_datasets["train"].shuffle(seed=42).select(range(JOB["train_rows"]))
    small_eval_dataset = tokenized_datasets["test"].shuffle(seed=42).select(range(JOB["eval_rows"]))

    model = AutoModelForSequenceClassification.from_pretrained(JOB["model"], num_labels=5)
    model.config.pad_token_id = tokenizer.pad_token_id
    metric = evaluate.load(
        str(launcher.worker.tasks.metrics.MODULE), "accuracy"
    )  # the hub's "accuracy" wants a network

    def compute_metrics(eval_pred):
        logits, labels = eval_pred
        predictions = np.argmax(logits, axis=-1)
        return metric.compute(predictions=predictions, references=labels, num_labels=5)

    training_args = TrainingArguments(
        output_dir=JOB["output_dir"],
        eval_strategy="epoch",
        num_train_epochs=JOB["epochs"],
        learning_rate=JOB["learning_rate"],
        per_device_train_batch_size=JOB["global_batch_size"] // WORLD_SIZE,
        save_strategy=JOB["save_strategy"],
        logging_steps=JOB["logging_steps"],
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=JOB["seed"],
    )

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            noted["training"] = time.time()

        def on_epoch_begin(self, args, state, control, **_):
            noted["train_cpu"] = noted.get("train_cpu", 0.0) - time.process_time()

        def on_epoch_end(self, args, state, control, **_):  # the epoch's evaluation comes after it
            noted["train_cpu"] += time.process_time()
            noted["trained"] = time.time()

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=small_train_dataset,
        eval_dataset=small_eval_dataset,
        compute_metrics=compute_metrics,
        callbacks=[Watch()],
    )
    train = trainer.train().metrics
    evaluations = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    noted |= {
        "train_seconds": train["train_runtime"] - sum(e["eval_runtime"] for e in evaluations),
        "train_loss": train["train_loss"],
        "eval_seconds": evaluations[-1]["eval_runtime"],
        "eval_loss": evaluations[-1]["eval_loss"],
        "accuracy": evaluations[-1]["eval_accuracy"],
    }
    if RANK == 0:
        Path(JOB["output_dir"], "noted.json").write_text(json.dumps(noted))


main()
