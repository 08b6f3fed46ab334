"""Texts of a trained model: by predict at any number of ranks, in a chat, and from the exported folder."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, pipeline

from tests.ranks import test_sft
from tests.support import launch
from tests.support.run import Job

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
GREEDY = ("--max-new-tokens", "30", "--batch-size", "2")
SAMPLED = (*GREEDY, "--temperature", "1.3", "--seed", "3")
PIPES = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
LONG = "20000"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of conversations, and its files beside it."""
    return test_sft.write_recipe(tmp_path_factory.mktemp("chats"))


@pytest.fixture(scope="session")
def trained(job: Callable[..., Job], data: Path) -> Job:
    return job(1, "training.num_train_epochs=6", recipe=data)


@pytest.fixture
def predicted(ascend_launch: Callable[..., Any], tmp_path: Path) -> Callable[..., str]:
    """What predict writes."""

    def run(model: Path, *words: str, nproc: int = 1, name: str = "out.jsonl") -> str:
        out = tmp_path / name
        words = ("--model", str(model), "--output", str(out), "--force", *words)
        done = ascend_launch("predict", "--device", "cpu", "--nproc", str(nproc), *words, **ONE_THREAD)
        assert 0 == done.code, done.err
        return out.read_text()

    return run


def texts(answers: str) -> list[str]:
    return [json.loads(line)["text"] for line in answers.splitlines()]


def test_texts_do_not_depend_on_ranks(trained: Job, data: Path, predicted: Callable[..., str]):
    """Taken or drawn; in the order of the rows, of which no rank has as many as another."""
    rows = ("--input", str(data.parent / "test.jsonl"))
    greedy = [predicted(trained.dir, *rows, *GREEDY, nproc=n) for n in (1, 2, 3)]
    sampled = [predicted(trained.dir, *rows, *SAMPLED, nproc=n) for n in (1, 3)]

    assert greedy == [greedy[0]] * 3
    assert sampled == [sampled[0]] * 2
    assert greedy[0] != sampled[0]
    assert 51 == len(texts(greedy[0]))
    assert {"stop"} == {json.loads(line)["finish_reason"] for line in greedy[0].splitlines()}
    assert sampled[0] != predicted(trained.dir, *rows, *SAMPLED[:-1], "4")


def test_a_killed_rank_changes_no_text(trained: Job, data: Path, predicted: Callable[..., str], tmp_path: Path):
    """What it had not answered is answered once, as it would have been."""
    rows = data.parent / "test.jsonl"
    whole = predicted(trained.dir, "--input", str(rows), *SAMPLED)
    argv = launch.command("predict", "--device=cpu", "--nproc=2", "--max-restarts=1", "--model", trained.dir)
    argv += ["--input", str(rows), *SAMPLED]
    with launch.popen(argv, launch.environment(**ONE_THREAD, TMPDIR=str(tmp_path)), **PIPES) as ran:
        os.kill(_pid_of_rank_1(tmp_path), signal.SIGKILL)
        out, err = ran.communicate()

    assert 0 == ran.returncode, err
    assert b"restart 1 of 1" in err
    assert whole == out.decode()


def test_a_model_in_shares_writes_the_same(trained: Job, data: Path, predicted: Callable[..., str], tmp_path: Path):
    """By ZeRO-3: in the last round one rank has two batches of a chunk, and the other no chunk."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join((data.parent / "test.jsonl").read_text().splitlines(keepends=True)[:19]))
    words = ("--input", str(rows), *SAMPLED)

    assert predicted(trained.dir, *words) == predicted(trained.dir, *words, "--shard", nproc=2)


def _pid_of_rank_1(folder: Path) -> int:
    """Once it has the model."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for path in folder.glob("ascend-launch-predict-*/events.jsonl"):
            events = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
            if any(event["event"] == "ready" and event["rank"] == 1 for event in events):
                return int(next(event["pids"][1] for event in events if event["event"] == "ranks"))
        time.sleep(0.01)
    raise AssertionError("rank 1 was never ready")


def test_tables_in_and_out_and_a_prompt_that_is_too_long(
    trained: Job, ascend_launch: Callable[..., Any], tmp_path: Path
):
    """Of 512 positions; it is named by its line."""
    rows = ["id,question", "1,My second visit. The bread was quite tasty.", f"2,{'soup ' * 600}", "3,Bad soup."]
    (tmp_path / "in.csv").write_text("\n".join(rows) + "\n")
    words = ("--device", "cpu", "--model", trained.dir, "--input", tmp_path / "in.csv", *GREEDY)

    failed = ascend_launch("predict", *words, "--output", tmp_path / "out.csv", **ONE_THREAD)
    passed = ascend_launch("predict", *words, "--output", tmp_path / "out.tsv", "--keep", "--skip-bad", **ONE_THREAD)

    assert (2, False) == (failed.code, (tmp_path / "out.csv").exists())
    assert f"{tmp_path}/in.csv:3: the prompt has " in failed.err
    assert "and the model takes 512 with its answer" in failed.err
    assert 0 == passed.code, passed.err
    header, *lines = (line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines())
    assert ["text", "finish_reason", "input.id", "input.question"] == header
    assert [["1", "My second visit. The bread was quite tasty."], ["3", "Bad soup."]] == [line[2:] for line in lines]
    assert "2 rows answered; 1 line passed over" in passed.err


def test_the_exported_folder_writes_the_same_in_a_pipeline(
    trained: Job, data: Path, predicted: Callable[..., str], ascend_launch: Callable[..., Any], tmp_path: Path
):
    """With messages, and without a word of ours: its template, its end of a turn, and its cache are in its files."""
    folder = tmp_path / "export"
    assert 0 == ascend_launch("export", trained.dir, "--out", folder).code
    (folder / "ascend_launch.json").unlink()
    conversations = [
        json.loads(line)["messages"][:-1] for line in (data.parent / "test.jsonl").read_text().splitlines()
    ]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations[:6]))

    answers = texts(predicted(folder, "--input", str(rows), "--batch-size", "1", "--max-new-tokens", "30"))

    write = pipeline("text-generation", str(folder))
    greedy = {"max_new_tokens": 30, "do_sample": False}  # a pipeline draws where nothing says otherwise
    said = [write(messages, **greedy)[0]["generated_text"][-1]["content"] for messages in conversations[:6]]
    assert answers == [one.strip() for one in said]
    assert json.loads((folder / "config.json").read_text())["use_cache"]
    assert (folder / "chat_template.jinja").is_file()


def test_a_merged_adapter_writes_as_it_did_apart(
    job: Callable[..., Job],
    data: Path,
    predicted: Callable[..., str],
    ascend_launch: Callable[..., Any],
    tmp_path: Path,
):
    """Its folder has the template that the recipe named, though the model's own tokenizer has another."""
    adapter = ("adapter.target_modules=all-linear", "adapter.r=16")
    how = ("training.learning_rate=0.01", "training.num_train_epochs=3", "data.chat_template=plain")
    trained = job(1, *adapter, *how, recipe=data)
    folder = tmp_path / "merged"
    assert 0 == ascend_launch("export", trained.dir, "--out", folder).code
    rows = ("--input", str(data.parent / "test.jsonl"), *GREEDY)

    apart, merged = predicted(trained.dir, *rows), predicted(folder, *rows)

    assert apart == merged
    assert len(set(texts(apart))) > 1
    assert "Assistant:" in (folder / "chat_template.jinja").read_text()


# -- chats -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def endless(trained: Job, tmp_path: Path) -> Path:
    """A model that knows nothing, and does not end."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(trained.dir / "model", max_position_embeddings=100_000)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "endless")
    AutoTokenizer.from_pretrained(trained.dir / "model").save_pretrained(tmp_path / "endless")
    return tmp_path / "endless"


def test_a_chat_through_a_pipe(trained: Job, predicted: Callable[..., str], tmp_path: Path):
    """A line asked, an answer written; what was said before is part of the next question."""
    first, second = "My second visit. The bread was quite tasty.", "The soup was cold."
    history = [{"role": "user", "content": first}, {"role": "assistant", "content": "?"}]
    argv = launch.command("chat", trained.dir, "--device", "cpu", "--max-new-tokens", "30")
    asked = f"{first}\n\n{second}\n/reset\n{second}\n/nonsense\n{'soup ' * 600}\n"
    with launch.popen(argv, launch.environment(**ONE_THREAD), **PIPES) as ran:
        out, err = ran.communicate(asked.encode())

    said = out.decode().splitlines()
    assert 3 == len(said), err
    history[1]["content"] = said[0]
    rows = [{"text": first}, {"messages": [*history, {"role": "user", "content": second}]}, {"text": second}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = predicted(trained.dir, "--input", str(tmp_path / "rows.jsonl"), "--batch-size", "1", *GREEDY[:2])
    assert texts(answers) == said
    assert b"/nonsense: no such command; /help lists them" in err
    assert b"the prompt has " in err
    assert 2 == ran.returncode


class Terminal:
    """A chat at a terminal of its own."""

    def __init__(self, *argv: str) -> None:
        self.pid, self._handle = pty.fork()
        if not self.pid:
            os.execve(argv[0], argv, launch.environment(**ONE_THREAD, TERM="dumb"))
        self.seen = b""

    def until(self, words: bytes) -> bytes:
        """What is shown up to these words."""
        deadline = time.monotonic() + 120
        while words not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self._handle], [], [], 0.1)[0]:
                self.seen += os.read(self._handle, 1 << 16)
        shown, _, self.seen = self.seen.partition(words)
        return shown + words

    def type(self, keys: bytes) -> None:
        os.write(self._handle, keys)

    def interrupt(self) -> None:
        """^C at the prompt, until it shows: Python's readline leaves one for the next key that comes just before it waits."""
        for _ in range(30):
            self.type(b"\x03")
            if select.select([self._handle], [], [], 1)[0]:
                return

    def code(self) -> int:
        """Its exit code, once it has left."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def start(*words: str | Path) -> Terminal:
        made.append(Terminal(*map(str, launch.command("chat", "--device", "cpu", *words))))
        return made[-1]

    yield start
    for one in made:
        try:
            os.kill(one.pid, signal.SIGKILL)
            os.waitpid(one.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def test_a_chat_at_a_terminal(endless: Path, terminal: Callable[..., Terminal]):
    """Tokens are shown as they come; ^C ends the answer and not the chat, and at the prompt only the line; ^D leaves."""
    chat = terminal(endless, "--max-new-tokens", LONG)
    assert b"on cpu; /help says what else there is" in chat.until(b"> ")
    chat.type(b"Hello\n")
    chat.until(b"Hello\r\n")
    chat.until(b"e")  # of an answer that goes on
    chat.type(b"\x03")
    chat.until(b"\n> ")
    chat.type(b"half a line")
    chat.until(b"half a line")
    chat.interrupt()
    chat.until(b"\n> ")
    chat.type(b"/system Be brief.\n")
    chat.until(b"> ")
    chat.type(b"\x04")

    assert 0 == chat.code()


def test_a_model_without_a_chat_template_says_what_to_do(endless: Path, ascend_launch: Callable[..., Any]):
    (endless / "chat_template.jinja").unlink()
    folder = shutil.move(endless, endless.with_name("base"))

    failed = ascend_launch("chat", folder, "--device", "cpu", **ONE_THREAD)
    named = launch.command("chat", folder, "--device", "cpu", "--chat-template", "plain", "--max-new-tokens", "3")
    with launch.popen(named, launch.environment(**ONE_THREAD), **PIPES) as ran:
        out, err = ran.communicate(b"Hello\n")

    assert 2 == failed.code
    assert "has no chat template" in failed.err
    assert "--chat-template chatml, plain, or a Jinja file" in failed.err
    assert 0 == ran.returncode, err
    assert out.strip()
