"""What a user got wrong costs one line, exit code 2, and no rank."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.ranks


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("data.text=review",), "no column 'review'"),
        (("model.name=/no/such/model",), "/no/such/model"),
        (("data.data_files.train=/no/such/file.jsonl",), "/no/such/file.jsonl"),
        (("data.train.split=training",), "training"),
    ],
)
def test_a_mistake_in_data_or_model_is_one_line_before_any_rank(job, words, what):
    """The error names the value, the fix follows, and no rank was started."""
    ran = job(2, *words)

    assert 2 == ran.code, ran.out + ran.err
    assert what in ran.err
    assert 1 == ran.err.count("error:")
    assert 1 == ran.err.count("fix:")
    assert "Traceback" not in ran.err
    assert not list(ran.dir.glob("attempt_*/rank_*.log"))


def test_ratings_from_1_to_5_with_5_labels_are_refused(job, tmp_path):
    """The label that is outside is named, with the number that would do."""
    rows = "".join(json.dumps({"text": "fine", "label": i}) + "\n" for i in (1, 2, 3, 4, 5))
    (tmp_path / "train.jsonl").write_text(rows)

    ran = job(2, f"data.data_files.train={tmp_path}/train.jsonl")

    assert 2 == ran.code
    assert "has label 5" in ran.err
    assert "labels run from 0 to 4" in ran.err


def test_a_run_that_never_had_ranks_leaves_no_directory_and_latest_where_it_was(ascend_launch, tmp_path):
    """`latest` is the newest run that is worth looking at."""
    (tmp_path / "tiny-cpu" / "old").mkdir(parents=True)
    (tmp_path / "tiny-cpu" / "latest").symlink_to("old")

    ran = ascend_launch("--device", "cpu", "recipes/tiny-cpu.yaml", "data.text=review", f"output_dir={tmp_path}")

    assert 2 == ran.code, ran.out + ran.err
    assert {"old", "latest"} == {path.name for path in (tmp_path / "tiny-cpu").iterdir()}
    assert "old" == str((tmp_path / "tiny-cpu" / "latest").readlink())
