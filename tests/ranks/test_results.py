"""What is done with a trained model: evaluated again, asked for labels, exported; on real ranks, from real checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.support import launch
from tests.support.launch import REPO

pytestmark = pytest.mark.ranks

SAVING = ("training.num_train_epochs=2", "training.save_strategy=epoch", "data.train.limit=200")
TINY = "recipes/tiny-cpu.yaml"
TEST = REPO / "recipes/tiny/test.jsonl"
FIGURES = ("eval_loss", "accuracy", "f1", "mae")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
PIPES = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)


@pytest.fixture
def evaluated(ascend_launch, tmp_path):
    """Evaluate weights on the tiny recipe; the metrics and predictions."""

    def run(weights, nproc=1, *words, recipe=TINY):
        folder = tmp_path / f"eval-{len(list(tmp_path.iterdir()))}"
        done = ascend_launch(
            "eval",
            "--device",
            "cpu",
            "--nproc",
            str(nproc),
            "--run-dir",
            folder,
            recipe,
            "--checkpoint",
            weights,
            *words,
            **ONE_THREAD,
        )
        assert 0 == done.code, done.out + done.err
        return json.loads((folder / "metrics.json").read_text()), (folder / "predictions.jsonl").read_text()

    return run


@pytest.fixture
def exported(ascend_launch, tmp_path):
    def run(weights, *words):
        folder = tmp_path / f"export-{len(list(tmp_path.iterdir()))}"
        done = ascend_launch("export", weights, "--out", folder, *words)
        assert 0 == done.code, done.out + done.err
        return folder

    return run


def figures(metrics):
    return {name: metrics[name] for name in FIGURES}


@pytest.mark.parametrize("nproc", [1, 2, 3])
def test_eval_repeats_the_training_to_the_last_digit(job, evaluated, nproc):
    """A checkpoint of two ZeRO-2 ranks gives on any number of ranks the very figures that the training had there."""
    trained = job(2, *SAVING, "parallel.strategy=zero2")

    metrics, _ = evaluated(trained.dir / "checkpoints" / "checkpoint-17", nproc)

    assert figures(trained.metrics["epochs"][0]) == figures(metrics["final"])
    assert (101, nproc) == (metrics["final"]["eval_samples"], metrics["world_size"])
    assert 17 == metrics["checkpoint"]["step"]


def test_eval_of_a_run_directory_is_of_its_final_model(job, evaluated):
    """Under ZeRO-3 the weights stay in shards; another eval split comes from the command line."""
    trained = job(2, *SAVING, "parallel.strategy=zero2")
    metrics, predictions = evaluated(trained.dir, 2, "parallel.strategy=zero3")
    fewer, _ = evaluated(trained.dir, 2, "data.eval.limit=10")

    assert figures(trained.metrics["final"]) == figures(metrics["final"])
    assert (trained.dir / "predictions.jsonl").read_text() == predictions
    assert "zero3" == metrics["strategy"]
    assert 10 == fewer["final"]["eval_samples"]


def test_an_unfinished_run_stands_for_its_newest_whole_checkpoint(job, evaluated, ascend_launch, tmp_path):
    """A damaged newest checkpoint is passed over, as in resuming, and said."""
    trained = job(2, *SAVING, "parallel.strategy=zero2")
    copy = tmp_path / "copy"
    shutil.copytree(trained.dir, copy)
    (copy / "metrics.json").unlink()
    (copy / "checkpoints" / "checkpoint-34" / "config.json").write_text("{}")

    metrics, _ = evaluated(copy)
    ran = ascend_launch("export", copy, "--out", tmp_path / "exported", **ONE_THREAD)

    assert figures(trained.metrics["epochs"][0]) == figures(metrics["final"])
    assert 0 == ran.code, ran.err
    assert "passed over checkpoint-34: config.json" in ran.out


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero3", "fsdp2"])
def test_an_export_gives_the_metrics_of_the_run(job, evaluated, exported, strategy):
    """Sharded training → one folder → the same figures; transformers finds every key; labels have their names."""
    trained = job(2, *SAVING, f"parallel.strategy={strategy}")
    folder = exported(trained.dir, "--max-shard-size", "200KB")

    metrics, predictions = evaluated(folder)
    model, found = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)

    assert figures(trained.metrics["final"]) == figures(metrics["final"])
    assert (trained.dir / "predictions.jsonl").read_text() == predictions
    assert not any(found.values())
    assert "excellent" == model.config.id2label[4]
    assert 3 == len(list(folder.glob("model-*.safetensors")))
    assert str(trained.metrics["final"]["accuracy"]) in (folder / "README.md").read_text()


@pytest.mark.slow
def test_a_bf16_training_exports_its_fp32_weights(job, exported):
    """ZeRO computes in bf16 and keeps fp32 weights in pieces: joined, they are the saved ones, before rounding."""
    trained = job(2, *SAVING, "parallel.strategy=zero2", "parallel.precision=bf16")

    plain = load_file(exported(trained.dir, "--checkpoint", "17") / "model.safetensors")
    wide = load_file(exported(trained.dir, "--checkpoint", "17", "--dtype", "fp32") / "model.safetensors")

    assert {torch.bfloat16} == {t.dtype for t in plain.values()}
    assert {torch.float32} == {t.dtype for t in wide.values()}
    assert plain.keys() == wide.keys()
    assert all(torch.equal(wide[name].bfloat16(), plain[name]) for name in plain)
    assert any(not torch.equal(wide[name], plain[name].float()) for name in plain)


@pytest.mark.slow
def test_lora_is_evaluated_as_it_is_and_exported_merged(job, evaluated, exported):
    """The adapter's figures are the training's; merged into its model only the loss's last digits differ."""
    pytest.importorskip("peft", reason="the lora extra is not installed")
    trained = job(2, *SAVING, "adapter.r=4", "training.learning_rate=0.01")
    merged, adapter = exported(trained.dir), exported(trained.dir, "--adapter-only")

    (metrics, _), (whole, predictions), (apart, _) = evaluated(trained.dir, 2), evaluated(merged), evaluated(adapter)

    assert figures(trained.metrics["final"]) == figures(metrics["final"]) == figures(apart["final"])
    assert (trained.dir / "predictions.jsonl").read_text() == predictions
    assert pytest.approx(metrics["final"]["eval_loss"], rel=1e-5) == whole["final"]["eval_loss"]
    assert not (merged / "adapter_config.json").exists()


def test_predict_answers_in_order_at_any_number_of_ranks(job, ascend_launch, tmp_path):
    """The labels of predictions.jsonl, with probabilities that add up to 1 and the input beside them."""
    trained = job(2, *SAVING, "parallel.strategy=zero2")
    outs = [tmp_path / f"{n}.jsonl" for n in (1, 3)]
    for nproc, out in zip((1, 3), outs, strict=True):
        done = ascend_launch(
            "predict",
            "--device",
            "cpu",
            "--nproc",
            str(nproc),
            "--model",
            trained.dir,
            "--input",
            TEST,
            "--output",
            out,
            "--keep",
            "--batch-size",
            "2",
            **ONE_THREAD,
        )
        assert 0 == done.code, done.err

    answers = [json.loads(line) for line in outs[0].read_text().splitlines()]

    assert outs[0].read_text() == outs[1].read_text()
    assert [json.loads(line) for line in TEST.read_text().splitlines()] == [a["input"] for a in answers]
    assert [row["prediction"] for row in trained.predictions] == [a["label"] for a in answers]
    assert all(abs(sum(a["probabilities"]) - 1) < 1e-5 for a in answers)
    assert all(max(a["probabilities"]) == a["probabilities"][a["label"]] for a in answers)


@pytest.mark.slow
def test_a_causal_lm_gives_its_answers_probabilities_through_a_pipe(job):
    """An answer comes while the input is still open; the exported folder alone knows prompt and answers."""
    chat = ("model.task=causal-lm", 'data.prompt="Review: {text} How good was it?"')
    trained = job(2, *SAVING, *chat)
    argv = launch.command("predict", "--device", "cpu", "--model", trained.dir / "model")
    with launch.popen(argv, launch.environment(**ONE_THREAD), **PIPES) as ran:
        ran.stdin.write(b"The soup was cold and the waiter rude.\n")
        ran.stdin.flush()
        first = json.loads(ran.stdout.readline())
        ran.stdin.write("Lovely 面 and great staff!".encode())
        rest, err = ran.communicate()

    assert 0 == ran.returncode, err
    assert ["terrible", "poor", "average", "good", "excellent"][first["label"]] == first["label_name"]
    assert 1 == len(rest.splitlines())
    assert 1 == pytest.approx(sum(json.loads(rest)["probabilities"]), abs=1e-5)


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_killed_rank_of_a_prediction_is_named_or_started_again(job, tmp_path, restarts):
    """The other rank leaves because it is told to, which is no reason to call the job stopped."""
    trained = job(2, *SAVING)
    argv = launch.command("predict", "--device=cpu", "--nproc=2", f"--max-restarts={restarts}")
    argv += ["--model", str(trained.dir / "model"), "--format=text"]
    with launch.popen(argv, launch.environment(**ONE_THREAD, TMPDIR=str(tmp_path)), **PIPES) as ran:
        ran.stdin.write(b"The soup was cold.\n")
        ran.stdin.flush()
        ran.stdout.readline()
        (events,) = tmp_path.glob("ascend-launch-predict-*/events.jsonl")
        started = [json.loads(line) for line in events.read_text().splitlines()]
        os.kill(next(e["pids"][1] for e in started if e["event"] == "ranks"), signal.SIGKILL)
        rest, err = ran.communicate(b"Lovely.\n" * 40)

    if restarts:
        assert (0, 40) == (ran.returncode, len(rest.splitlines())), err
    else:
        assert 1 == ran.returncode, err
        assert b"rank 1 on" in err and b"SIGKILL" in err


def test_bad_lines_end_a_prediction_or_are_passed_over(job, ascend_launch, tmp_path):
    """By file and line; what stands before the first is answered, and stays in FILE.partial."""
    trained = job(2, *SAVING, "parallel.strategy=zero2")
    texts, out = tmp_path / "texts.jsonl", tmp_path / "out.jsonl"
    texts.write_text('{"text": "Good."}\n\n{"txt": "Bad."}\n{"text": 3}\nnonsense\n{"text": "Fine."}\n')
    words = ("predict", "--device", "cpu", "--model", trained.dir, "--input", texts, "--output", out)

    failed = ascend_launch(*words, **ONE_THREAD)
    assert (2, False) == (failed.code, out.exists())
    assert f"{texts}:3: no field 'text'; there is 'txt'" in failed.err
    assert 1 == len((tmp_path / "out.jsonl.partial").read_text().splitlines())

    passed = ascend_launch(*words, "--skip-bad", **ONE_THREAD)
    assert 0 == passed.code, passed.err
    assert 2 == len(out.read_text().splitlines())
    assert [3, 4, 5] == [n for n in range(1, 7) if f"{texts}:{n}: " in passed.err]
    assert "2 texts labelled; 3 lines passed over" in passed.err


def test_weights_of_another_kind_are_refused_with_what_to_do(job, ascend_launch, tmp_path):
    """Another number of labels, no head, DeepSpeed's pickles, a folder that is there already."""
    trained = job(2, *SAVING, "parallel.strategy=zero2")
    (tmp_path / "ds" / "global_step17").mkdir(parents=True)
    (tmp_path / "ds" / "global_step17" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"\x80\x02.")

    few = ascend_launch("eval", "--device", "cpu", TINY, "--checkpoint", trained.dir, "model.label_names=[bad, good]")
    pickles = ascend_launch("export", tmp_path / "ds", "--out", tmp_path / "out", "--recipe", TINY)
    there = ascend_launch("export", trained.dir, "--out", tmp_path)
    nothing = ascend_launch("predict", "--model", tmp_path / "nothing")

    assert [2, 2, 2, 2] == [few.code, pickles.code, there.code, nothing.code]
    assert "was trained for 5 labels, the recipe has 2" in few.err
    assert "made of pickles" in pickles.err
    assert "zero_to_fp32.py" in pickles.err
    assert f"{tmp_path}: exists already" in there.err
    assert "no such folder" in nothing.err


@pytest.mark.slow
def test_a_finished_model_that_was_changed_is_refused_by_name(job, ascend_launch, tmp_path):
    """Its manifest disturbs no one who loads the folder; without one it is used, with a note. The model that it was trained
    from is not needed: its name is relative to another folder."""
    trained = job(2, *SAVING, "parallel.strategy=zero3")
    run = tmp_path / "run"
    shutil.copytree(trained.dir, run)
    (tmp_path / "in.txt").write_text("Good.\n")
    words = (
        ("export", run, "--out", tmp_path / "out"),
        ("predict", "--device", "cpu", "--model", run, "--input", tmp_path / "in.txt"),
    )
    _, found = AutoModelForSequenceClassification.from_pretrained(run / "model", output_loading_info=True)
    assert not any(found.values())
    content = bytearray((run / "model" / "model.safetensors").read_bytes())
    content[-5] ^= 4
    (run / "model" / "model.safetensors").write_bytes(content)

    for command in words:
        ran = ascend_launch(*command, cwd=tmp_path, **ONE_THREAD)
        assert (2, True) == (ran.code, "model.safetensors is damaged: its SHA-256 differs" in ran.err), ran.err
    (run / "model" / "manifest.json").unlink()
    for command in words:
        ran = ascend_launch(*command, cwd=tmp_path, **ONE_THREAD)
        assert (0, True) == (ran.code, "has no manifest.json" in ran.out + ran.err), ran.err
    assert [] == list(trained.dir.glob(".tmp-*"))


def _without_numbers_for(word: str, model, folder):
    """The model, but for the weights of one word's first token, which are NaN."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("manifest.json"))
    path = folder / "model.safetensors"
    weights = load_file(path)
    (table,) = (t for name, t in weights.items() if name.endswith("embed_tokens.weight"))
    token = AutoTokenizer.from_pretrained(folder).encode(word, add_special_tokens=False)[0]
    table[token] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    return token


def test_a_row_without_scores_is_named_and_null_and_no_label(job, ascend_launch, tmp_path):
    """argmax of NaN is label 0. In predictions, metrics, events and answers it is null, which every JSON reader takes, and
    the command fails."""
    trained, folder = job(2, *SAVING, "parallel.strategy=zero2"), tmp_path / "nan"
    token = _without_numbers_for(" garden", trained.dir / "model", folder)
    encode = AutoTokenizer.from_pretrained(folder).encode
    bad = [i for i, line in enumerate(TEST.read_text().splitlines()) if token in encode(json.loads(line)["text"])]
    out = tmp_path / "out.jsonl"

    ran = ascend_launch(
        "eval", "--device", "cpu", "--run-dir", tmp_path / "eval", TINY, "--checkpoint", folder, **ONE_THREAD
    )
    asked = ascend_launch(
        "predict", "--device", "cpu", "--model", folder, "--input", TEST, "--output", out, **ONE_THREAD
    )

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in a file")

    def rows(path):
        return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]

    assert 0 < len(bad) < 101
    assert (1, 1) == (ran.code, asked.code), ran.err + asked.err
    assert f"{len(bad)} of 101 rows have scores that are NaN or infinite" in ran.err
    assert f"rows {', '.join(map(str, bad[:10]))}" in ran.err
    assert f"{TEST}: {len(bad)} of 101 texts have scores that are NaN or infinite" in asked.err
    assert f"lines {', '.join(str(i + 1) for i in bad[:10])}" in asked.err
    assert bad == [r["index"] for r in rows(tmp_path / "eval" / "predictions.jsonl") if r["prediction"] is None]
    assert bad == [
        i for i, r in enumerate(rows(out)) if r == {"label": None, "label_name": None, "probabilities": None}
    ]
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text(), parse_constant=refuse)
    assert {None} == {metrics["final"][name] for name in FIGURES}
    assert {"count": len(bad), "first_rows": bad[:10]} == metrics["unscored"]
    assert rows(tmp_path / "eval" / "events.jsonl")


def test_the_best_by_mae_is_the_one_with_the_least_and_each_epoch_keeps_its_own_figures(job):
    """transformers alone keeps the first, whose error is largest, and the kept model's figures stood in the last row."""
    best = ("training.load_best_model_at_end=true", "training.metric_for_best_model=mae")
    ran = job(1, "training.learning_rate=0.005", "training.save_strategy=epoch", *best)
    assert 0 == ran.code, ran.err
    rows, final = ran.metrics["epochs"], ran.metrics["final"]

    kept = min(rows, key=lambda row: row["mae"])
    assert figures(kept) == figures(final)
    assert {"step": 20 * int(kept["epoch"]), "metric": "mae", "value": kept["mae"]} == ran.metrics["best"]
    assert kept is not rows[-1]
    assert figures(rows[-1]) != figures(final)
    assert [row["eval_loss"] for row in rows] == [event["eval_loss"] for event in ran.events("eval")]
