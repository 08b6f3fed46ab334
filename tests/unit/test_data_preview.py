"""What `ascend-launch data` says of a recipe's data."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import LaunchError
from launcher.jobs.preview import require_chosen, require_rows
from launcher.recipe import load
from launcher.recipe.schema import RecipeSpec
from launcher.show import data
from launcher.worker.data.splits import read_rows
from launcher.worker.data.start import Start
from launcher.worker.data.tokens import tokenise
from launcher.worker.models import tokenizer
from launcher.worker.preview import Request, preview

REPO = Path(__file__).resolve().parents[2]


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


CHATS = [
    [{"role": "system", "content": "Be brief."}, user("the food"), assistant("good")],
    [user("a question alone")],
    [
        user(
            "the place and the wine and the salad and the rice and the fish and the bread and the owner and the price"
        ),
        assistant("bad"),
    ],
    [user("the bread"), assistant("good", train=False), user("sure"), assistant("the bread was quite tasty and cheap")],
    [user("the wine"), assistant("bad", train=False)],
]


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., RecipeSpec]:
    """A recipe of conversations: CHATS to train on, and others to evaluate."""

    def made(*overrides: str, held: list[Any] = CHATS[:1]) -> RecipeSpec:
        for name, chats in (("train", CHATS), ("test", held)):
            lines = "".join(json.dumps({"messages": chat}) + "\n" for chat in chats)
            (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        files = f'data.data_files={{"train": "{tmp_path}/train.jsonl", "test": "{tmp_path}/test.jsonl"}}'
        (tmp_path / "r.yaml").write_text(
            f"model: {{name: {REPO}/recipes/tiny, task: sft}}\ndata: {{path: json, max_length: 28}}\n", encoding="utf-8"
        )
        return load.load(tmp_path / "r.yaml", (files, *overrides), {}).spec

    return made


def test_what_becomes_of_rows_is_counted(spec: Callable[..., RecipeSpec]):
    """One row is cut, of one only the question fits, and two have nothing to train."""
    train = preview(Request(spec(), 0))["splits"]["train"]

    assert (5, 2) == (train["rows"], train["become"])
    assert {"nothing_trained": 2, "too_long": 1} == train["left_out"]
    assert (1, 0) == (train["cut"], train["split"])
    assert {"system": 1, "user": 6, "assistant": 5} == train["messages"]
    assert (0, 0, 2) == (train["texts"], train["with_tools"], train["train_false"])
    assert train["lengths"]["max"] > 28 >= train["lengths"]["p50"]


def test_a_row_of_which_one_part_is_kept_is_split_and_not_cut(spec: Callable[..., RecipeSpec]):
    """Two rows are too long; their parts with nothing to train are left out."""
    train = preview(Request(spec("data.too_long=split"), 0))["splits"]["train"]

    assert (0, 2) == (train["cut"], train["split"])


def test_rows_that_share_sequences_are_counted(spec: Callable[..., RecipeSpec], capsys: pytest.CaptureFixture[str]):
    """Of the training alone."""
    found = preview(Request(spec("data.packing=true", "data.max_length=64", held=[CHATS[0]] * 3), 0))
    data.page(found)

    assert 2 == found["splits"]["train"]["packs"]
    assert "packs" not in found["splits"]["eval"]
    assert "packed into 2 sequences of 64 tokens, " in capsys.readouterr().out


@pytest.mark.slow
def test_figures_are_those_of_a_launch(
    spec: Callable[..., RecipeSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its tokens are made by other code, in a map over many processes, and kept."""
    monkeypatch.setenv("ASCEND_LAUNCH_CACHE", str(tmp_path / "cache"))
    recipe = spec("data.too_long=split", "data.num_proc=1")
    made = tokenizer.load_tokenizer(recipe, REPO / "recipes" / "tiny")
    start = Start(None, tmp_path, tmp_path, made, None, ())
    train = tokenise(recipe, start, read_rows(recipe, start)).splits["train"]

    seen = preview(Request(recipe, 0))["splits"]["train"]

    assert (train.rows, train.tokens) == (seen["become"], seen["tokens"])


def test_thoughts_that_the_template_leaves_out_are_counted(
    spec: Callable[..., RecipeSpec], capsys: pytest.CaptureFixture[str]
):
    """The tiny model's template knows no reasoning_content; a block within an answer is part of it."""
    held = [[user("x"), assistant("y", reasoning_content="So."), user("x"), assistant("<think>Well.</think>y")]]
    found = preview(Request(spec(held=held), 0))
    data.page(found)

    assert (0, 1) == tuple(found["splits"][name]["thoughts_left_out"] for name in ("train", "eval"))
    assert "the chat template leaves out the thoughts of 1 message\n" in capsys.readouterr().out


def test_rows_that_are_in_both_splits_are_named(spec: Callable[..., RecipeSpec]):
    held = preview(Request(spec(held=[CHATS[3], CHATS[0], [user("x"), assistant("y")], CHATS[0]]), 0))["splits"]["eval"]

    assert {"count": 3, "first_rows": [0, 1, 3]} == held["in_training"]


def test_rows_are_shown_with_what_is_trained_in_brackets(
    spec: Callable[..., RecipeSpec], capsys: pytest.CaptureFixture[str]
):
    """Without colours. What is left out is shown as it would have been."""
    data.page(preview(Request(spec("data.eval=null"), 0, (0, 1))))
    out = capsys.readouterr().out

    assert "<|system|>\nBe brief.<|end|>\n<|user|>\nthe food<|end|>\n<|assistant|>\n⟦good<|end|>⟧\n" in out
    assert "train row 1" in out
    assert "0 trained, left out\n<|begin|><|user|>\na question alone<|end|>\n" in out
    assert "2 rows are left out: no answer of an assistant, or each has train: false\n" in out
    assert "1 row is left out: longer than data.max_length, or no answer within it\n" in out
    assert "messages: system 1, user 6, assistant 5\n" in out


def test_what_data_holds_is_not_obeyed_by_the_terminal(
    spec: Callable[..., RecipeSpec], capsys: pytest.CaptureFixture[str]
):
    data.page(preview(Request(spec(held=[[user("x"), assistant("\x1b[31mred")]]), 1)))

    assert "\x1b[31m" not in capsys.readouterr().out


def test_a_split_of_which_nothing_is_left_is_refused(spec: Callable[..., RecipeSpec]):
    found = preview(Request(spec("data.max_length=8"), 0))

    with pytest.raises(
        LaunchError, match=r"train: none of the 5 rows is left: no answer, none within data\.max_length"
    ):
        require_rows(found)


@pytest.mark.slow
def test_a_launch_says_of_which_split_nothing_is_left(
    spec: Callable[..., RecipeSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ASCEND_LAUNCH_CACHE", str(tmp_path / "cache"))
    recipe = spec("data.num_proc=1", held=[[user("alone")]])
    made = tokenizer.load_tokenizer(recipe, REPO / "recipes" / "tiny")
    start = Start(None, tmp_path, tmp_path, made, None, ())

    with pytest.raises(LaunchError, match=r"^eval: none of the 1 rows is left: no answer"):
        tokenise(recipe, start, read_rows(recipe, start))


def test_a_row_that_the_template_refuses_is_named(spec: Callable[..., RecipeSpec], tmp_path: Path):
    (tmp_path / "no.jinja").write_text(
        "{% for m in messages %}{{ raise_exception('no system') if m.role == 'system' }}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(LaunchError, match="row 0: the chat template refuses the messages: no system"):
        preview(Request(spec(f"data.chat_template={tmp_path}/no.jinja"), 0))


@pytest.mark.parametrize(
    ("task", "end", "is_trained", "trained"),
    [
        ("sequence-classification", "That is all.", [False], None),
        ("causal-lm", "excellent<|end|>", [False, True], 5),
    ],
)
def test_tasks_with_labels_count_them(task: str, end: str, is_trained: list[bool], trained: int | None):
    """A head learns the label, and a causal LM the tokens of its answer."""
    recipe = load.load(REPO / "recipes" / "tiny-cpu.yaml", (f"model.task={task}", "metrics=[accuracy]"), {}).spec
    train = preview(Request(recipe, 1))["splits"]["train"]
    (row,) = train["shown"]
    (pieces,) = row["parts"]

    assert dict.fromkeys(("terrible", "poor", "average", "good", "excellent"), 48) == train["labels"]
    assert ("excellent", trained) == (row["label"], row["trained"])
    assert is_trained == [of_piece for _, of_piece in pieces]
    assert pieces[-1][0].endswith(end)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sft", "sequence-classification", "causal-lm"])
def test_it_needs_no_torch(task: str, spec: Callable[..., RecipeSpec], tmp_path: Path):
    """Asked of the interpreter itself."""
    recipe = (
        spec() if task == "sft" else load.load(REPO / "recipes" / "tiny-cpu.yaml", (f"model.task={task}",), {}).spec
    )
    request = {"recipe": recipe.model_dump(mode="json"), "num_rows": 1, "chosen": []}
    (tmp_path / "request.json").write_text(json.dumps(request), encoding="utf-8")
    code = (
        "import sys; from launcher.worker import preview\n"
        "code = preview.main()\n"
        "sys.exit(code or bool(sys.modules.keys() & {'torch', 'torch_npu'}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "request.json")], cwd=REPO, check=False)

    assert 0 == done.returncode
    assert task == json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["task"]


def test_a_row_that_no_split_has_is_refused():
    found = {"splits": {"train": {"rows": 54}, "eval": {"rows": 6}}}

    require_chosen(found, (0, 53))
    with pytest.raises(LaunchError, match="--row 54: rows are counted from 0, and the last one is 53"):
        require_chosen(found, (54,))
