"""What `--model` and `--checkpoint` name is found, or said not to be there before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.errors import LaunchError
from launcher.jobs import trained


def test_a_hub_id_is_one_unless_it_looks_like_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`runs/yelp` beside a folder `runs` has a slip in it."""
    monkeypatch.chdir(tmp_path)
    assert ["org/model", "gpt2"] == [trained.find(name, "--model").name for name in ("org/model", "gpt2")]

    (tmp_path / "runs").mkdir()
    for name in ("runs/yelp", "checkpoint-17", "a/checkpoint-17", "./x", "/none", "~/none", "a/b/c", "-x/y"):
        with pytest.raises(LaunchError, match="no such folder") as caught:
            trained.find(name, "--model")
        assert 2 == caught.value.exit_code


def test_a_folder_without_weights_is_none(tmp_path: Path):
    """With the run that was meant, where it is plain."""
    (tmp_path / "20261127").mkdir()
    (tmp_path / "20261127" / "plan.json").write_text("{}")
    with pytest.raises(LaunchError, match="is not a run directory and holds no weights") as caught:
        trained.find(str(tmp_path), "--model")
    assert "name a run directory" in caught.value.hint

    (tmp_path / "latest").symlink_to("20261127")
    with pytest.raises(LaunchError) as caught:
        trained.find(str(tmp_path), "--model")
    assert f"did you mean {tmp_path / 'latest'}?" == caught.value.hint
    assert str(tmp_path / "20261127") == trained.find(str(tmp_path / "latest"), "--model").name


@pytest.mark.parametrize("config", ["[]", '{"architectures": 5}', '{"architectures": [1, ["x"]]}', "nonsense"])
@pytest.mark.parametrize("note", ["[]", "3", '{"strategy": ["zero2"]}', "nonsense"])
def test_odd_files_beside_weights_tell_nothing(tmp_path: Path, config: str, note: str):
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "ascend_launch.json").write_text(note)
    found = trained.find(str(tmp_path), "--model")

    assert "sequence-classification" == trained.recipe_of(found).model.task
    assert found.trained_by() is None


@pytest.mark.parametrize(("rows", "length"), [(514, 512), (1030, 512), (100, 96)])
def test_texts_are_cut_where_the_positions_of_a_model_end(tmp_path: Path, rows: int, length: int):
    """Where no recipe says how long rows were in training, a long text must not end a rank of `predict`."""
    config = {"model_type": "roberta" if rows == 514 else "bert", "max_position_embeddings": rows, "pad_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert length == trained.recipe_of(trained.find(str(tmp_path), "--model")).data.max_length
