"""The job itself beside stock code: the guide's script under python, torchrun and accelerate, LLaMA-Factory, and ours.

    python tools/bench_job.py train --model cut4 --train-rows 256 --eval-rows 256 --rounds 3
    python tools/bench_job.py prepare

Sides are run in turn in every round, so that a busy machine slows all alike; figures are medians over rounds. Every run
has caches of its own. Rounds are kept in --keep FILE and added to by the next call, for machines that lend minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import bench_texts
import psutil

REPO = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
GUIDE = Path(__file__).with_name("bench_job_guide.py")
ACCELERATE = """\
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU   # accelerate's word for several processes on this machine, CPU ones too
num_machines: 1
num_processes: {ranks}
use_cpu: true
"""
SAMPLE_S = 0.3
SEED, SELECT_SEED = 42, 42
ONE_EPOCH = {
    "epochs": 1,
    "learning_rate": 5e-5,
    "global_batch_size": 8,
    "seed": SEED,
    "save_strategy": "no",
    "logging_steps": 500,
}
TIMEOUT_S = 1500


class Watch(threading.Thread):
    """A process and all below it: memory and seconds of CPU, looked at every SAMPLE_S.

    On a busy machine the latter say more than the clock. They are summed here, since not every process is waited for.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.done = pid, threading.Event()
        self.peak_bytes = 0
        """The highest sum, shared pages in parts (PSS)."""
        self.rank_bytes = 0
        """The highest resident set of one process."""
        self._cpu: dict[int, float] = {}
        self._sums: list[tuple[float, float]] = []

    @property
    def cpu_seconds(self) -> float:
        return sum(self._cpu.values())

    def cpu_until(self, time_s: float) -> float:
        """Seconds of CPU up to a moment of the clock (Unix time)."""
        return max((cpu for at, cpu in self._sums if at <= time_s), default=0.0)

    def run(self) -> None:
        while not self.done.wait(SAMPLE_S):
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(self.pid)
                total = 0
                for process in [root, *root.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        memory, times = process.memory_full_info(), process.cpu_times()
                        total += memory.pss
                        self.rank_bytes = max(self.rank_bytes, memory.rss)
                        self._cpu[process.pid] = times.user + times.system
                self.peak_bytes = max(self.peak_bytes, total)
                self._sums.append((time.time(), self.cpu_seconds))


def execute(argv: list[str], folder: Path, env: dict[str, str]) -> tuple[dict[str, float], Watch]:
    """Run one command to its end; when it began, its seconds and its peak memory, and who watched it."""
    own = {
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "ASCEND_LAUNCH_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(REPO),
    }
    log, began = folder / "out.log", time.time()
    with log.open("w") as out:
        job = subprocess.Popen(argv, env={**os.environ, **own, **env}, cwd=REPO, stdout=out, stderr=out)
        watch = Watch(job.pid)
        watch.start()
        code = job.wait(TIMEOUT_S)
        watch.done.set()
        watch.join()
    if code:
        sys.exit(f"{' '.join(argv)} ended with {code}:\n{log.read_text()[-4000:]}")
    return {
        "began": began,
        "whole_seconds": time.time() - began,
        "cpu_seconds": watch.cpu_seconds,
        "peak_bytes": watch.peak_bytes,
        "rank_bytes": watch.rank_bytes,
    }, watch


def split(began: float, training: float, trained: float, watch: Watch) -> dict[str, float]:
    """Seconds from the command to the training loop, and CPU up to it and in it, of all processes.

    `trained` is the end of the last epoch's steps: of a job of several, the evaluations between them are counted too.
    """
    before = watch.cpu_until(training)
    return {
        "first_step": training - began,
        "first_step_cpu": before,
        "all_train_cpu": watch.cpu_until(trained) - before,
    }


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    bench_texts.FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bench_texts.FOLDER) as folder:
        yield Path(folder)


def guide(launcher: str, ranks: int, job: dict[str, Any]) -> dict[str, float]:
    """The guide's script under one launcher."""
    with scratch() as folder:
        config = folder / "accelerate.yaml"
        config.write_text(ACCELERATE.format(ranks=ranks))
        argv = {
            "python": [sys.executable],
            "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(ranks)],
            "accelerate": [str(BIN / "accelerate"), "launch", "--config_file", str(config)],
        }[launcher]
        env = {"BENCH_JOB": json.dumps({**job, "output_dir": str(folder)})}
        if ranks > 1:
            env["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // ranks))
        found, watch = execute([*argv, str(GUIDE)], folder, env)
        noted = json.loads((folder / "noted.json").read_text())
        parts = split(found.pop("began"), noted.pop("training"), noted.pop("trained"), watch)
        return {**found, **noted, **parts}


def recipe(job: dict[str, Any]) -> dict[str, Any]:
    """The guide's job as a recipe of ours."""
    return {
        "model": {"name": job["model"], "task": "sequence-classification", "num_labels": bench_texts.NUM_LABELS},
        "data": {
            "path": "parquet",
            "data_files": job["data_files"],
            "train": {"split": "train", "limit": job["train_rows"], "seed": SELECT_SEED},
            "eval": {"split": "test", "limit": job["eval_rows"], "seed": SELECT_SEED},
            "max_length": 512,
        },
        "training": {
            "num_train_epochs": job["epochs"],
            "learning_rate": job["learning_rate"],
            "save_strategy": job["save_strategy"],
            "logging_steps": job["logging_steps"],
            "seed": job["seed"],
        },
        "parallel": {"strategy": "ddp", "precision": "fp32", "global_batch_size": job["global_batch_size"]},
        "metrics": ["accuracy"],
    }


def ours(ranks: int, job: dict[str, Any]) -> dict[str, float]:
    """The guide's job under ascend-launch."""
    return run_recipe(ranks, recipe(job), epochs=job["epochs"])


def run_recipe(ranks: int, asked: dict[str, Any], *, epochs: int) -> dict[str, float]:
    """One launch, and what its run directory says of it."""
    with scratch() as folder:
        path, run = folder / "job.yaml", folder / "run"
        path.write_text(json.dumps(asked))  # JSON is YAML
        argv = [sys.executable, "-m", "launcher.cli", "--device", "cpu", "--nproc", str(ranks), "--run-dir", str(run)]
        found, watch = execute([*argv, str(path)], folder, {})
        began, at = found.pop("began"), {}
        for line in (run / "events.jsonl").read_text().splitlines():
            event = json.loads(line)
            at.setdefault(event["event"], event["time"])
            if event["event"] == "step":
                at["trained"] = event["time"]
        metrics = json.loads((run / "metrics.json").read_text())
        data = json.loads((run / "data.json").read_text())
        final = metrics["final"]
        return {
            **found,
            "preprocessing": at["ranks"] - at["start_method"],
            **split(began, at["train"], at["trained"], watch),
            "train_seconds": metrics["train"]["train_runtime"] - epochs * final["eval_runtime"],
            "train_loss": metrics["train"]["train_loss"],
            "eval_seconds": final["eval_runtime"],
            "eval_loss": final["eval_loss"],
            "accuracy": final["accuracy"],
            "tokens": data["train"]["tokens"],
        }


def lengths(args: argparse.Namespace) -> str:
    return "equal" if args.equal else "natural"


def job(args: argparse.Namespace) -> dict[str, Any]:
    """What to train, from the command line."""
    return {
        "model": str(bench_texts.model(args.model)),
        "data_files": bench_texts.data(lengths(args), args.train_rows, args.eval_rows),
        "train_rows": args.train_rows,
        "eval_rows": args.eval_rows,
        "epochs": args.epochs,
        "learning_rate": args.learning_rate,
        "global_batch_size": args.batch,
        "seed": SEED,
        "save_strategy": "epoch" if args.save else "no",
        "logging_steps": args.logging_steps,
    }


def add_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="cut4", help="full, cutN (its first N layers) or toy")
    parser.add_argument("--train-rows", type=int, default=256)
    parser.add_argument("--eval-rows", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--equal", action="store_true", help="every row as long as max_length: nothing to save")
    parser.add_argument("--save", action="store_true", help="a checkpoint after each epoch")
    parser.add_argument("--logging-steps", type=int, default=500)


def train(args: argparse.Namespace) -> None:
    """Sides in turn, and a table of them."""
    asked = job(args)
    records = Records(args.keep)
    for turn in range(args.rounds):
        for side in args.sides:
            name, _, ranks = side.partition("x")
            seeded = {**asked, "seed": SEED + records.count(side)}
            found = ours(int(ranks), seeded) if name == "ours" else guide(name, int(ranks), seeded)
            records.add(side, found)
            print(f"round {turn}, {side}: {found}", file=sys.stderr, flush=True)
    rows, base = args.train_rows * args.epochs, records.median(args.sides[0], "train_seconds")
    base_cpu = records.median(args.sides[0], "all_train_cpu")
    tokens = max(records.median(s, "tokens") or 0 for s in args.sides) * args.epochs
    records.table(
        f"{args.model}, {args.train_rows} rows x {args.epochs} epochs, batch {args.batch}, {lengths(args)} lengths",
        args.sides,
        {
            "samples/s": lambda m: f"{rows / m['train_seconds']:.2f}",
            "of the texts' tokens, /s": lambda m: f"{tokens / m['train_seconds']:.0f}",
            "x": lambda m: f"{base / m['train_seconds']:.2f}",
            "samples a CPU s": lambda m: f"{rows / m['all_train_cpu']:.2f}",
            "x by CPU": lambda m: f"{base_cpu / m['all_train_cpu']:.2f}",
            **QUALITY,
            "evaluation s": lambda m: f"{m['eval_seconds']:.1f}",
            "preprocessing s": lambda m: f"{m['preprocessing']:.1f}",
            "command to first step, s (CPU s)": lambda m: f"{m['first_step']:.1f} ({m['first_step_cpu']:.1f})",
            "whole command, s (CPU s)": whole,
            "peak memory of a rank, GB": lambda m: f"{m['rank_bytes'] / 1e9:.2f}",
        },
    )


def trainer_of(asked: dict[str, Any], folder: Path) -> Any:
    """Our trainer of a recipe, in this process, as rank 0 of 1."""
    path, run_path = folder / "job.yaml", folder / "run"
    path.write_text(json.dumps(asked))
    argv = [sys.executable, "-m", "launcher.cli", "render", "--nproc", "1", "--device", "cpu", "--out", str(run_path)]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    subprocess.run([*argv, str(path)], check=True, stdout=subprocess.DEVNULL, cwd=REPO, env=env)
    os.environ |= {"ASCEND_LAUNCH_CACHE": str(folder / "cache"), "HF_DATASETS_CACHE": str(folder / "datasets")}
    sys.path.insert(0, str(REPO))
    from launcher.rundir.paths import RunDir
    from launcher.worker import rank, start
    from launcher.worker.data import prepare as preparation
    from launcher.worker.engines import device
    from launcher.worker.runtime.events import Events
    from launcher.worker.runtime.heartbeat import Heart
    from launcher.worker.training.train import build

    run = RunDir(run_path)
    start.settle(run)
    plan = run.plan()
    rank.preload(plan)
    device.prepare_env(plan, os.environ)
    device.set_threads()
    parts = (preparation.prepare(plan, run), Events(run.events_path, enabled=True), Heart(folder / "beat"))
    return build(plan, run, device.Rank.from_env(os.environ), *parts)


def cpu(args: argparse.Namespace) -> None:
    """The guide's training loop and ours on one thread each, in seconds of CPU: for a machine that is shared."""
    asked = job(args)
    os.environ["OMP_NUM_THREADS"] = "1"
    records = Records(args.keep)
    for _ in range(args.rounds):
        for side in ("guide", "ours"):
            seeded = {**asked, "seed": SEED + records.count(side)}
            if side == "guide":
                records.add(side, guide("python", 1, seeded))
                continue
            with scratch() as folder:
                env = {"BENCH_JOB": json.dumps(seeded)}
                execute(
                    [sys.executable, "-c", LOOP, str(folder)], folder, {**env, "PYTHONPATH": f"{REPO}:{REPO / 'tools'}"}
                )
                records.add(side, json.loads((folder / "noted.json").read_text()))
            print(records.last(), file=sys.stderr, flush=True)
    rows, base = args.train_rows * args.epochs, records.median("guide", "train_cpu")
    records.table(
        f"{args.model}, {rows} rows, batch {args.batch}, {lengths(args)} lengths, one thread",
        ["guide", "ours"],
        {
            "samples a CPU second": lambda m: f"{rows / m['train_cpu']:.2f}",
            "x": lambda m: f"{base / m['train_cpu']:.2f}",
            **QUALITY,
        },
    )


LOOP = """
import json, os, sys, time
from pathlib import Path
import bench_job
from transformers import TrainerCallback
noted, folder = {"train_cpu": 0.0}, Path(sys.argv[1])
trainer = bench_job.trainer_of(bench_job.recipe(json.loads(os.environ["BENCH_JOB"])), folder)
class Watch(TrainerCallback):
    def on_epoch_begin(self, *_, **__):
        noted["train_cpu"] -= time.process_time()
    def on_epoch_end(self, *_, **__):
        noted["train_cpu"] += time.process_time()
trainer.add_callback(Watch())
trainer.train()
noted |= {k: trainer.figures["eval_" + k] for k in ("accuracy",)} | {"eval_loss": trainer.figures["eval_loss"]}
noted["train_loss"] = trainer.mean_train_loss
(folder / "noted.json").write_text(json.dumps(noted))
"""


PREPARE = """
import json, os, sys, time
from pathlib import Path
from datasets import disable_progress_bars, load_dataset
from transformers import AutoTokenizer
job, side = json.loads(os.environ["BENCH_JOB"]), sys.argv[1]
disable_progress_bars()
began = time.perf_counter()
if side == "ours":  # which reads the files of a split alone
    dataset = {s: load_dataset("parquet", data_files={s: f}, split=s) for s, f in job["data_files"].items()}
else:
    dataset = load_dataset("parquet", data_files=job["data_files"])
read = time.perf_counter() - began
if side == "guide":
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    began, used = time.perf_counter(), time.process_time()
    dataset.map(lambda rows: tokenizer(rows["text"], padding="max_length", truncation=True, max_length=512), batched=True)
    rows = len(dataset["train"]) + len(dataset["test"])
elif side == "tokenizer":
    tokenizer = AutoTokenizer.from_pretrained(job["model"]).backend_tokenizer
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)
    texts = [t for name in ("train", "test") for t in dataset[name]["text"][:]]
    began, used = time.perf_counter(), time.process_time()
    for i in range(0, len(texts), 1000):
        tokenizer.encode_batch_fast(texts[i : i + 1000])
    rows = len(texts)
else:
    from launcher.rundir.paths import RunDir
    from launcher.worker import rank
    from launcher.worker.data import prepare
    run = RunDir(Path(job["run"]))
    plan = run.plan()
    rank.preload(plan)
    began, used = time.perf_counter(), time.process_time()
    prepared = prepare.prepare(plan, run)
    rows = prepared.train.rows + prepared.eval.rows
print(json.dumps({"read": read, "seconds": time.perf_counter() - began, "cpu": time.process_time() - used, "rows": rows}))
"""
"""Three ways from rows on disk to ids: the guide's, ours (data.prepare, as the agent calls it) and the tokenizer alone."""


def prepare(args: argparse.Namespace) -> None:
    """The guide's preprocessing beside ours, in processes of their own, on the first `--cores` cores each."""
    num_test = args.rows // 14  # as in Yelp Review Full
    files = bench_texts.data("natural", args.rows - num_test, num_test)
    asked = {
        "model": str(bench_texts.model(args.model)),
        "data_files": files,
        "train_rows": args.use,
        "eval_rows": args.use,
        **ONE_EPOCH,
    }
    print(f"{args.rows} rows, {args.use or 'all'} + {args.use or 'all'} used; {machine()}\n")
    print(
        "| side | cores | rows tokenised | seconds | CPU s | rows/s | rows/CPU s | files into the cache, s |\n|---|---|---|---|---|---|---|---|"
    )
    for cores in args.cores:
        for side in args.sides:
            with scratch() as folder:
                mine = recipe(asked)
                if not args.use:
                    del mine["data"]["train"]["limit"], mine["data"]["eval"]["limit"]
                path = folder / "job.yaml"
                path.write_text(json.dumps(mine))
                render = ["render", "--nproc", "1", "--device", "cpu", "--out", str(folder / "run"), str(path)]
                execute([sys.executable, "-m", "launcher.cli", *render], folder, {})
                env = {"BENCH_JOB": json.dumps({**asked, "run": str(folder / "run")}), "RAYON_NUM_THREADS": str(cores)}
                argv = ["taskset", "-c", f"0-{cores - 1}", sys.executable, "-c", PREPARE, side]
                execute(argv, folder, env)
                f = json.loads((folder / "out.log").read_text().splitlines()[-1])
            print(
                f"| {side} | {cores} | {f['rows']} | {f['seconds']:.2f} | {f['cpu']:.2f} | {f['rows'] / f['seconds']:.0f} |"
                f" {f['rows'] / f['cpu']:.0f} | {f['read']:.1f} |",
                flush=True,
            )


def factory(args: argparse.Namespace) -> None:
    """The nearest job that LLaMA-Factory has, supervised fine-tuning on the answer, beside ours of the same rows."""
    files = bench_texts.data(lengths(args), args.train_rows, args.eval_rows)
    prompt = "{text}\nHow many stars?"
    asked = recipe({**job(args), "epochs": 1})
    asked["model"]["task"] = "causal-lm"
    asked["data"] |= {"prompt": prompt, "answers": [str(i + 1) for i in range(bench_texts.NUM_LABELS)]}
    asked["parallel"]["eval_batch_size"] = args.batch
    theirs = {
        "model_name_or_path": asked["model"]["name"],
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset": "train",
        "eval_dataset": "test",
        "template": "chatml",
        "cutoff_len": 512,
        "overwrite_output_dir": True,
        "per_device_train_batch_size": args.batch,
        "per_device_eval_batch_size": args.batch,
        "num_train_epochs": 1,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": "linear",
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "compute_accuracy": True,
        "seed": SEED,
        "disable_gradient_checkpointing": not args.checkpointing,
        "disable_tqdm": True,
        "logging_steps": 500,
    }
    asked["training"]["gradient_checkpointing"] = args.checkpointing
    records = Records(args.keep)
    for _ in range(args.rounds):
        records.add("LLaMA-Factory", _factory_run(args.python, theirs, files, prompt))
        records.add("ascend-launch", run_recipe(1, asked, epochs=1))
    base = records.median("LLaMA-Factory", "train_seconds")
    records.table(
        f"{args.model}, {args.train_rows} rows, batch {args.batch}, fp32, checkpointing {args.checkpointing}",
        ["LLaMA-Factory", "ascend-launch"],
        {
            "samples/s": lambda m: f"{args.train_rows / m['train_seconds']:.2f}",
            "x": lambda m: f"{base / m['train_seconds']:.2f}",
            "train loss": QUALITY["train loss"],
            "eval loss": QUALITY["eval loss"],
            "evaluation s": lambda m: f"{m['eval_seconds']:.1f}",
            "whole command, s (CPU s)": whole,
            "peak memory of a rank, GB": lambda m: f"{m['rank_bytes'] / 1e9:.2f}",
        },
    )


def _factory_run(python: str, theirs: dict[str, Any], files: dict[str, str], prompt: str) -> dict[str, float]:
    from pyarrow import parquet

    with scratch() as folder:
        for split, file in files.items():
            rows = parquet.read_table(file).to_pylist()
            said = [
                {"instruction": prompt.replace("{text}", r["text"]), "input": "", "output": str(r["label"] + 1)}
                for r in rows
            ]
            (folder / f"{split}.json").write_text(json.dumps(said))
        (folder / "dataset_info.json").write_text(json.dumps({s: {"file_name": f"{s}.json"} for s in files}))
        path = folder / "job.yaml"
        path.write_text(json.dumps({**theirs, "dataset_dir": str(folder), "output_dir": str(folder / "out")}))
        found, _ = execute(
            [str(Path(python).parent / "llamafactory-cli"), "train", str(path)], folder, {"PYTHONPATH": ""}
        )
        del found["began"]
        done = json.loads((folder / "out" / "all_results.json").read_text())
        return {
            **found,
            "train_seconds": done["train_runtime"] - _epoch_evaluation(folder / "out"),
            "train_loss": done["train_loss"],
            "eval_loss": done["eval_loss"],
            "eval_seconds": done["eval_runtime"],
        }


def _epoch_evaluation(out: Path) -> float:
    """Seconds of the evaluations inside the training's time."""
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return sum(entry.get("eval_runtime", 0.0) for entry in history if entry.get("step", 0) and "eval_runtime" in entry)


class Records:
    """Figures of every round by side, kept in a file of JSON lines where one is named."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._found: dict[str, list[dict[str, float]]] = defaultdict(list)
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                side, figures = json.loads(line)
                self._found[side].append(figures)

    def add(self, side: str, figures: dict[str, float]) -> None:
        self._found[side].append(figures)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as out:
                out.write(json.dumps([side, figures]) + "\n")

    def last(self) -> dict[str, Any]:
        return {side: figures[-1] for side, figures in self._found.items()}

    def count(self, side: str) -> int:
        return len(self._found[side])

    def keys(self, side: str) -> set[str]:
        return {k for figures in self._found[side] for k in figures}

    def median(self, side: str, key: str) -> float:
        values = [figures[key] for figures in self._found[side] if key in figures]
        return statistics.median(values) if values else 0.0

    def table(self, title: str, sides: Sequence[str], columns: dict[str, Column]) -> None:
        """Print a line for each side: what a column makes of the medians of its figures."""
        print(f"{title}; {machine()}\n")
        print(f"| side | rounds | {' | '.join(columns)} |\n{'|---' * (len(columns) + 2)}|")
        for side in sides:
            medians = {key: self.median(side, key) for key in self.keys(side)}
            print(f"| {side} | {self.count(side)} | {' | '.join(c(medians) for c in columns.values())} |")


Column = Callable[[dict[str, float]], str]

QUALITY: dict[str, Column] = {
    "train loss": lambda m: f"{m['train_loss']:.3f}",
    "eval loss": lambda m: f"{m['eval_loss']:.3f}",
    "accuracy": lambda m: f"{m['accuracy']:.3f}",
}


def whole(medians: dict[str, float]) -> str:
    return f"{medians['whole_seconds']:.0f} ({medians['cpu_seconds']:.0f})"


def machine() -> str:
    import torch

    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("train", help="training beside stock code")
    one.set_defaults(run=train)
    one.add_argument("--sides", nargs="+", default=["pythonx1", "oursx1", "torchrunx2", "acceleratex2", "oursx2"])
    add_job_options(one)
    two = commands.add_parser("prepare", help="preprocessing beside the guide's")
    two.set_defaults(run=prepare)
    two.add_argument("--model", default="cut4")
    two.add_argument("--rows", type=int, default=700_000)
    two.add_argument("--use", type=int, default=1000, help="rows of each split that the recipe asks for; 0 for all")
    two.add_argument("--cores", type=int, nargs="+", default=[os.cpu_count() or 1])
    two.add_argument("--sides", nargs="+", default=["guide", "ours"], choices=["guide", "ours", "tokenizer"])
    three = commands.add_parser("llamafactory", help="LLaMA-Factory beside ours")
    three.set_defaults(run=factory)
    add_job_options(three)
    three.add_argument("--python", required=True, help="the interpreter of LLaMA-Factory's own environment")
    three.add_argument("--checkpointing", action="store_true", help="recompute activations on both sides")
    four = commands.add_parser("cpu", help="training loops by their CPU time, for a shared machine")
    four.set_defaults(run=cpu)
    add_job_options(four)
    for command in (one, three, four):
        command.add_argument("--rounds", type=int, default=1)
        command.add_argument("--keep", type=Path, help="file of finished rounds, added to")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
