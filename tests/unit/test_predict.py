"""The stream between the two ends of a prediction, with the ranks played by the test."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launcher.errors import EXIT_JOB_FAILED, LaunchError
from launcher.jobs.feed import READ_BYTES, Feed, Lines
from launcher.jobs.rows import MAX_LINE_BYTES, Bad, Row, Texts, guess, parse
from launcher.recipe.tasks.classification import CLASSIFICATION
from launcher.rundir.chunks import Chunks


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\xff", "not UTF-8 at byte 0"),
        (b"{", "not JSON: "),
        (b"[" * 100_000, "not JSON: nested too deeply"),
        (b"3", "not a JSON object"),
        (b'{"a": "x"}', "no field 'text'; there is 'a'"),
        (b'{"text": null}', "the field 'text' is not text: null"),
        (b'{"text": "\\ud800"}', "the field 'text' holds half of a surrogate pair"),
        (b"x" * (MAX_LINE_BYTES + 1), "longer than 16 MiB"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_a_line_that_is_no_text_says_why(raw: bytes, reason: str):
    found = parse(raw, 7, "jsonl", Texts("text"))

    assert isinstance(found, Bad)
    assert 7 == found.line
    assert found.reason.startswith(reason)


def test_an_empty_line_is_a_text_in_plain_text_and_nothing_in_json_lines():
    assert Row(1, "", "") == parse(b"", 1, "text", Texts("text"))
    assert parse(b"  ", 1, "jsonl", Texts("text")) is None


def test_a_byte_order_mark_is_no_part_of_the_text():
    assert Row(1, "x", "x") == parse(b"\xef\xbb\xbfx", 1, "text", Texts("text"))
    assert "jsonl" == guess(b'\xef\xbb\xbf{"text": "x"}')
    assert "text" == guess(b"plain")
    assert "text" == guess(b"42")


def test_lines_of_any_size_and_ending_come_whole(tmp_path: Path):
    """Longer than what is read at a time, with CRLF, and the last one without an end."""
    long = b"a" * (3 * READ_BYTES)
    (tmp_path / "in").write_bytes(b"one\r\n\n" + long + b"\nlast")
    with (tmp_path / "in").open("rb", buffering=0) as file:
        lines, found = Lines(file.fileno()), []
        while not lines.is_over:
            found += lines.read()

    assert [(1, b"one"), (2, b""), (3, long), (4, b"last")] == found


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path):
    """What is kept of it is enough to see that it is too long."""
    (tmp_path / "in").write_bytes(b"a" * (2 * MAX_LINE_BYTES) + b"\nnext\n")
    with (tmp_path / "in").open("rb", buffering=0) as file:
        lines, found = Lines(file.fileno()), []
        while not lines.is_over:
            found += lines.read()

    assert MAX_LINE_BYTES < len(found[0][1]) <= MAX_LINE_BYTES + 2 * READ_BYTES
    assert (2, b"next") == found[1]


class Ranks:
    """Answers the chunks of a feed: label 1 for a text that holds `good`, else 0."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.chunks = Chunks(folder)
        self.most = 0
        self.no_scores = "\0"
        """Texts that hold this get no label."""

    def answer(self, *, last_first: bool = False) -> bool:
        waiting, is_end = self.chunks.waiting()
        self.most = max(self.most, len(waiting))
        for number in [waiting[-1 if last_first else 0]] if waiting else []:
            texts = json.loads(self.chunks.rows(number).read_text())
            found = [[None, None] if self.no_scores in t else [int("good" in t), [0.5, 0.5]] for t in texts]
            self.chunks.answers(number).write_text(json.dumps(found))
        return bool(waiting) or not is_end


def played(feed: Feed, ranks: Ranks, **how: bool) -> None:
    feed.label_names = ("bad", "good")
    while ranks.answer(**how):
        feed.step()
    feed.finish()


def feed_of(text: str, tmp_path: Path, ranks: Ranks, **options: object) -> tuple[Feed, Path]:
    (tmp_path / "in.txt").write_text(text)
    out = tmp_path / "out.jsonl"
    source = os.open(tmp_path / "in.txt", os.O_RDONLY)
    target = os.open(out, os.O_WRONLY | os.O_CREAT)
    return Feed(
        lines=Lines(source),
        out=target,
        chunks=ranks.chunks,
        name="in",
        task=CLASSIFICATION,
        chunk_rows=10,
        max_chunks=3,
        **options,
    ), out  # type: ignore[arg-type]


def test_answers_keep_the_order_of_the_texts_whoever_is_first(tmp_path: Path):
    """With never more than the allowed chunks under way, and nothing left in the folder."""
    ranks = Ranks(tmp_path / "chunks")
    texts = [f"{'good' if i % 3 else 'bad'} {i}" for i in range(1234)]
    feed, out = feed_of("\n".join(texts), tmp_path, ranks, keep=True)

    played(feed, ranks, last_first=True)

    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert texts == [row["input"] for row in rows]
    assert ["good" if i % 3 else "bad" for i in range(1234)] == [row["label_name"] for row in rows]
    assert 3 == ranks.most
    assert ["end"] == [p.name for p in ranks.chunks.folder.iterdir()]


def test_the_first_bad_line_ends_the_reading_after_what_stands_before_it(tmp_path: Path):
    ranks = Ranks(tmp_path / "chunks")
    feed, out = feed_of('{"text": "a"}\n' * 25 + "oops\n" + '{"text": "b"}\n', tmp_path, ranks)

    played(feed, ranks)

    assert 25 == len(out.read_text().splitlines()) == feed.num_rows
    assert feed.error is not None
    assert 26 == feed.error.line


def test_answers_before_a_bad_line_are_said_where_they_are(tmp_path: Path):
    ranks = Ranks(tmp_path / "chunks")
    feed, _ = feed_of('{"text": "a"}\n' * 2 + "oops\n", tmp_path, ranks)
    feed.kept = tmp_path / "out.jsonl.partial"

    played(feed, ranks)

    with pytest.raises(LaunchError) as caught:
        feed.require_all()
    assert caught.value.hint.endswith(f"the 2 texts before it were answered: {feed.kept}")


def test_bad_lines_are_passed_over_where_that_is_asked_for(tmp_path: Path):
    ranks = Ranks(tmp_path / "chunks")
    feed, out = feed_of('{"text": "a"}\noops\n' * 25, tmp_path, ranks, skip_bad=True)

    played(feed, ranks)

    assert (25, 25) == (len(out.read_text().splitlines()), feed.num_bad)
    assert feed.error is None
    assert list(range(2, 51, 2)) == [bad.line for bad in feed.bad]


@pytest.mark.parametrize(("text", "num_answers"), [("\n \ngood\n\nbad\n", 5), ('\n\n{"text": "good"}\n\n', 1)])
def test_empty_lines_before_the_first_text_are_as_those_after_it(tmp_path: Path, text: str, num_answers: int):
    """Whatever the first line that is not empty tells the format to be."""
    ranks = Ranks(tmp_path / "chunks")
    feed, out = feed_of(text, tmp_path, ranks)

    played(feed, ranks)

    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert num_answers == len(rows) == feed.num_rows
    assert ["good"] == [row["label_name"] for row in rows if row["label"]]


def test_an_empty_input_is_no_error(tmp_path: Path):
    ranks = Ranks(tmp_path / "chunks")
    feed, out = feed_of("", tmp_path, ranks)

    played(feed, ranks)

    assert ("", 0) == (out.read_text(), feed.num_rows)


def test_rows_do_not_wait_for_a_full_chunk_when_the_input_pauses(tmp_path: Path):
    """Of a pipe that stays open."""
    ranks = Ranks(tmp_path / "chunks")
    theirs, ours = os.pipe()
    target = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    feed = Feed(
        lines=Lines(theirs),
        out=target,
        chunks=ranks.chunks,
        name="pipe",
        task=CLASSIFICATION,
        chunk_rows=10,
        label_names=("a", "b"),
    )
    os.write(ours, b"one\ntwo\nthr")
    while not ranks.chunks.waiting()[0]:
        feed.step()

    assert ["one", "two"] == json.loads(ranks.chunks.rows(0).read_text())
    os.close(ours)
    played(feed, ranks)
    assert 3 == feed.num_rows


def test_a_reader_that_went_away_is_told_of(tmp_path: Path):
    """As BrokenPipeError, which ends the ranks."""
    ranks = Ranks(tmp_path / "chunks")
    feed, _ = feed_of("a\n" * 100, tmp_path, ranks)
    reader, feed.out = os.pipe()
    os.close(reader)

    with pytest.raises(BrokenPipeError):
        played(feed, ranks)


@pytest.mark.parametrize(
    ("text", "is_warned"),
    [('[{"text": "a"}]\n', True), ("[\n", True), ("{\n", True), ("a\n[\n", False), ('{"text": "a"}\n', False)],
)
def test_json_that_is_no_json_lines_is_told(tmp_path: Path, text: str, is_warned: bool):
    """Every line of it is a text."""
    ranks = Ranks(tmp_path / "chunks")
    feed, _ = feed_of(text, tmp_path, ranks)

    played(feed, ranks)

    assert is_warned == ("is not valid JSON lines" in feed.warning)


def test_answers_that_cannot_be_written_end_it_in_a_sentence(tmp_path: Path):
    """As on a full disk, with exit code 1."""
    ranks = Ranks(tmp_path / "chunks")
    feed, _ = feed_of("a\n" * 100, tmp_path, ranks)
    feed.out = os.open("/dev/full", os.O_WRONLY)

    with pytest.raises(LaunchError, match="answers cannot be written: No space left on device") as caught:
        played(feed, ranks)
    assert 1 == caught.value.exit_code


def test_an_input_that_cannot_be_read_ends_it_in_a_sentence(tmp_path: Path):
    """Standard input may be a folder."""
    lines = Lines(os.open(tmp_path, os.O_RDONLY))

    with pytest.raises(LaunchError, match="the input cannot be read: Is a directory"):
        lines.read()


def test_texts_without_scores_are_answered_with_null_and_end_in_a_failure(tmp_path: Path):
    """In their places, with the lines of the first; a NaN that came with a text goes out as null too."""
    ranks = Ranks(tmp_path / "chunks")
    ranks.no_scores = "odd"
    text = "\n".join(f'{{"text": "{"odd" if i % 2 else "good"}", "given": NaN}}' for i in range(50))
    feed, out = feed_of(text, tmp_path, ranks, keep=True)

    played(feed, ranks)

    rows = [json.loads(line, parse_constant=pytest.fail) for line in out.read_text().splitlines()]
    assert [i % 2 == 1 for i in range(50)] == [
        row["label"] is row["label_name"] is row["probabilities"] for row in rows
    ]
    assert {None} == {row["input"]["given"] for row in rows}
    said = "in: 25 of 50 texts have scores that are NaN or infinite, so their label is null: lines 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, …"
    with pytest.raises(LaunchError) as caught:
        feed.require_scores()
    assert (said, EXIT_JOB_FAILED) == (caught.value.what, caught.value.exit_code)
