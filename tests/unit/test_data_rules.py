"""What of `data:` does not go together is refused with its line, before anything is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.clusters import paths
from launcher.errors import LaunchError
from launcher.jobs import labels
from launcher.recipe import load

A_SET = {"path": "a.jsonl"}


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(data: dict[str, Any], task: str = "sft", *words: str, **model: Any) -> load.Loaded:
        value = {"model": {"name": "m", "task": task, **model}, "data": data}
        Path("r.yaml").write_text(json.dumps(value, indent=1), encoding="utf-8")
        return load.load(Path("r.yaml"), words, {})

    return run


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({"eval": None}, "r.yaml:6: data: `path:` is missing"),
        ({"path": "a", "sets": [A_SET], "eval": 0.1}, "data.path: not beside data.sets; write it into a set"),
        (
            {"sets": [A_SET]},
            "data.eval: with data.sets it says what is evaluated: a share that is held out (0.1), sets by names ({test: {path: FILE}}), or null",
        ),
        (
            {"sets": [A_SET], "train": {"limit": 3}, "eval": 2},
            "data.train: not beside data.sets; write split and limit into a set",
        ),
        ({"sets": [{**A_SET, "weight": 1}, A_SET], "eval": 2}, "data.sets: some sets have a weight and others none"),
        ({"sets": [{**A_SET, "weight": 0}], "eval": 2}, "data.sets.0.weight: 0: must be greater than 0"),
        ({"sets": [{"pat": "x"}], "eval": 2}, "data.sets.0.pat: unknown key"),
        ({"path": "a", "eval": 1.5}, "data.eval: must be a share below 1, or a whole number of rows"),
        ({"path": "a", "eval": True}, "data.eval: expected a mapping, got true"),
        (
            {"path": "a", "eval": {"hold_out": 0.1, "split": "dev"}},
            "data.eval: hold_out takes rows of the training, and split names others",
        ),
        ({"path": "a", "eval": {"a": A_SET, "limit": 3}}, "data.eval: sets by names have split, limit and seed each"),
        ({"path": "a", "eval": {"Math!": A_SET}}, "data.eval.Math!: as the name of a set it has letters from a to z"),
        (
            {"path": "a", "eval": {"accuracy": A_SET}},
            "data.eval.accuracy: as the name of a set it has letters from a to z",
        ),
        (
            {"path": "a", "eval": {"a": {**A_SET, "weight": 1}}},
            "data.eval.a.weight: a weight is for sets that are trained on",
        ),
        ({"path": "a", "eval": {"a": {"split": "x"}}}, "data.eval.a: `path:` is missing"),
        ({"path": "a", "format": "sharegtp"}, "data.format: 'sharegtp' is not one of auto, messages, sharegpt"),
        ({"path": "a", "columns": {"mesages": "x"}}, "data.columns.mesages: unknown key; did you mean `messages`?"),
        (
            {"path": "a", "format": "text", "columns": {"messages": "x"}},
            "data.columns.messages: unknown key; keys here are text",
        ),
    ],
)
def test_what_does_not_go_together(loaded, data, what):
    with pytest.raises(LaunchError) as caught:
        loaded(data)
    assert what in caught.value.what


@pytest.mark.parametrize(
    "data", [{"sets": [A_SET], "eval": 0.1}, {"path": "a", "format": "alpaca"}, {"path": "a", "eval": {"a": A_SET}}]
)
def test_conversations_are_for_tasks_that_read_them(loaded, data):
    with pytest.raises(
        LaunchError, match=r"model\.task: sequence-classification reads one set of rows, and no conversat"
    ):
        loaded(data, "sequence-classification", num_labels=2)


def test_an_override_replaces_what_is_evaluated(loaded):
    """A number on the command line, over a split of the file and the other way round."""
    split = loaded({"path": "a", "eval": {"split": "dev"}}, "sft", "data.eval=0.1").spec.data.eval
    share = loaded({"path": "a", "eval": 0.1}, "sft", "data.eval.split=dev").spec.data.eval
    assert ("test", 0.1, "dev", None) == (split.split, split.hold_out, share.split, share.hold_out)


def test_a_recipe_without_new_keys_has_the_record_it_had(loaded):
    """Which runs from before are compared with."""
    record = loaded({"path": "a"}).spec.model_dump()["data"]
    assert not {"sets", "format", "columns"} & record.keys()
    assert {"split", "limit", "seed"} == record["eval"].keys()


def test_paths_of_sets_are_the_jobs_paths(loaded):
    """A submission looks whether other machines have them."""
    Path("a.jsonl").write_text("")
    spec = loaded({"sets": [A_SET], "eval": {"b": {"path": "json", "data_files": "a.jsonl"}}}).spec
    assert [("data.sets", "a.jsonl"), ("data.eval", "a.jsonl")] == list(paths.named(spec))


def test_labels_are_found_where_the_recipe_lists_none(loaded):
    """For this node, and for others by an override; what the recipe says stays."""
    Path("a.csv").write_text("text,label\nx,ja\ny,nein\n", encoding="utf-8")
    data = {"path": "a.csv", "eval": 1}
    names = labels.named(loaded(data, "sequence-classification"))
    given = loaded(data, "sequence-classification", num_labels=3)

    assert ("ja", "nein") == names.spec.model.label_names
    assert ('model.label_names=["ja", "nein"]',) == names.pins
    assert ("2 labels are in the data: ja, nein; model.label_names would give them another order",) == names.notes
    assert given is labels.named(given)
    with pytest.raises(LaunchError, match=r"data\.answers: 3 answers for the 2 labels of the data: ja, nein"):
        labels.named(loaded({**data, "answers": ["x", "y", "z"]}, "causal-lm"))


def test_labels_of_data_that_is_elsewhere_have_to_be_listed(loaded):
    """Of a hub, or of a file that is not here."""
    for data in ({"path": "org/set"}, {"path": "json", "data_files": "none.jsonl"}):
        with pytest.raises(LaunchError, match="model: `num_labels:` is missing"):
            loaded(data, "sequence-classification")


def test_links_to_sets_are_followed_once(loaded):
    """As those of `path` are: other nodes get where they led when the job was planned."""
    Path("day1").mkdir()
    Path("day1/a.jsonl").write_text("")
    Path("latest").symlink_to("day1")
    given = loaded(
        {
            "sets": [{"path": "latest/a.jsonl", "weight": 2}, A_SET | {"weight": 1}],
            "eval": {"b": {"path": "latest/a.jsonl"}},
        }
    )

    pinned = load.pinned(given)
    again = load.load(Path("r.yaml"), pinned.pins, {})

    assert ["day1/a.jsonl", "a.jsonl"] == [one.path for one in pinned.spec.data.sets]
    assert pinned.spec == again.spec
    assert pinned.spec == load.pinned(again).spec
    assert () == load.pinned(again).pins


def test_null_takes_back_what_the_recipe_below_says(loaded: Any):
    below = {"path": "a.jsonl", "train": {"split": "chats"}, "eval": {"split": "held"}}
    words = ("data.path=null", "data.train=null", "data.eval=null", "data.sets=[{path: b.jsonl}]")

    data = loaded(below, "sft", *words).spec.data

    assert ["b.jsonl"] == [one.path for one in data.sets]
    assert data.eval is None


def test_a_broken_chat_template_is_refused_with_its_line(loaded: Any):
    """Not by the ranks, when they render the first row; transformers' own tags are known."""
    broken = "{% for message in messages %}\n{% if message.role == %}x{% endif %}\n{% endfor %}"
    Path("own.jinja").write_text(broken, encoding="utf-8")
    with pytest.raises(LaunchError, match=r"r\.yaml:\d+: data.chat_template: own.jinja:2: unexpected"):
        loaded({"path": "a", "eval": None, "chat_template": "own.jinja"})

    whole = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
    Path("own.jinja").write_text(whole, encoding="utf-8")
    assert loaded({"path": "a", "eval": None, "chat_template": "own.jinja"})
