"""A table in another encoding, without a test split and without a list of its labels: trained, evaluated and predicted."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

REVIEWS = {"好评": "这家餐厅的服务很好，味道非常棒", "差评": "服务太差，等了很久才上菜", "中评": "还可以，没有特别的"}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
RECIPE = """model: {name: shipped:tiny}
data: {path: reviews.csv, text: 文本, label: 评价, eval: 0.2, max_length: 64}
training: {num_train_epochs: 4, learning_rate: 3.0e-3, save_strategy: "no"}
parallel: {precision: fp32, global_batch_size: 8}
metrics: [accuracy]
report: false
"""


def test_a_table_of_ones_own_is_all_that_a_recipe_needs(ascend_launch, tmp_path):
    """The rows that are held out are the same for two ranks, and for one that evaluates later; labels are those of the data;
    and `predict` reads the table itself."""
    rows = [(f"{text} {number}", name) for number in range(20) for name, text in REVIEWS.items()]
    table = "文本,评价\n" + "".join(f"{text},{name}\n" for text, name in rows)
    (tmp_path / "reviews.csv").write_bytes(table.encode("gbk"))
    (tmp_path / "mine.yaml").write_text(RECIPE, encoding="utf-8")
    device = ("--device", "cpu")

    def run(*words):
        done = ascend_launch(*words, cwd=tmp_path, **ONE_THREAD)
        assert 0 == done.code, done.out + done.err
        return done

    trained = run("run", *device, "--nproc", "2", "--run-dir", "run", "mine.yaml")
    run("eval", *device, "--nproc", "1", "--run-dir", "eval", "mine.yaml", "--checkpoint", "run")
    run("predict", *device, "--nproc", "1", "--model", "run", "--input", "reviews.csv", "--output", "answers.jsonl")

    assert "reviews.csv is not UTF-8: it was read as GB18030" in trained.out + trained.err
    first, later = (json.loads((tmp_path / name / "metrics.json").read_text())["final"] for name in ("run", "eval"))
    assert (12, 12) == (first["eval_samples"], later["eval_samples"])
    assert first["accuracy"] == later["accuracy"]
    held = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("run", "eval")]
    assert held[0] == held[1]
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(answers)
    assert {answer["label_name"] for answer in answers} <= REVIEWS.keys()
    assert sorted(REVIEWS) == json.loads((tmp_path / "run/plan.json").read_text())["recipe"]["model"]["label_names"]
