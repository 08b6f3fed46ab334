"""What a recipe's data becomes: `ascend-launch data`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launcher.messages import Message, joined, plural
from launcher.show.console import out
from launcher.show.text import Text

BRACKETS = ("⟦", "⟧")
"""Around what is trained, where there is no colour."""
LEFT_OUT = {
    "nothing_trained": Message("no answer of an assistant, or each has train: false"),
    "too_long": Message("longer than data.max_length, or no answer within it"),
}
"""Why rows become none."""
_TRAINED, _HEAD, _QUIET = "black on green", "bold", "dim"


def page(found: Mapping[str, Any]) -> None:
    """Of each split its figures, and some of its rows with what is trained of them."""
    for name, split in found["splits"].items():
        out.print(_figures(name, split, found))
    for note in found["notes"]:
        out.print(Text(note))
    for name, split in found["splits"].items():
        for row in split["shown"]:
            out.print(_row(name, row))


def _figures(name: str, split: Mapping[str, Any], found: Mapping[str, Any]) -> Text:
    lines: list[str] = [
        plural(
            "{count:,} row of {tokens:,} tokens",
            "{count:,} rows, {tokens:,} tokens",
            count=split["rows"],
            tokens=split["tokens"],
        )
    ]
    if split["trained"] is not None:
        share = split["trained"] / max(split["tokens"], 1)
        lines.append(Message("{trained:,} tokens are trained, {share:.1%}", trained=split["trained"], share=share))
    if split["lengths"]:
        lines.append(
            Message(
                "tokens of a row: {min:,} to {max:,}, half up to {p50:,}, 90% up to {p90:,}, 99% up to {p99:,}",
                **split["lengths"],
            )
        )
    lines += _changed(split, found["max_length"])
    lines += _counted(split)
    text = Text()
    for number, line in enumerate(lines):
        text.append(f"{name if number == 0 else '':<10} ", _HEAD).append(line).append("\n")
    text.rstrip()
    return text


def _changed(split: Mapping[str, Any], max_length: int) -> list[str]:
    """Rows that are not what they were."""
    lines: list[str] = []
    if split["cut"]:
        lines.append(
            plural(
                "{count:,} row is cut to {max_length} tokens",
                "{count:,} rows are cut to {max_length} tokens",
                count=split["cut"],
                max_length=max_length,
            )
        )
    elif split["at_max_length"] and split.get("labels"):
        lines.append(
            plural(
                "{count:,} row has {max_length} tokens, the most there may be, or was cut to them",
                "{count:,} rows have {max_length} tokens, the most there may be, or were cut to them",
                count=split["at_max_length"],
                max_length=max_length,
            )
        )
    if split["split"]:
        lines.append(
            plural(
                "{count:,} row is split; there are {become:,} rows",
                "{count:,} rows are split; there are {become:,} rows",
                count=split["split"],
                become=split["become"],
            )
        )
    if split.get("packs"):
        lines.append(
            plural(
                "packed into {count:,} sequence of {max_length} tokens, {share:.1%} of it full",
                "packed into {count:,} sequences of {max_length} tokens, {share:.1%} of them full",
                count=split["packs"],
                max_length=max_length,
                share=split["tokens"] / (split["packs"] * max_length),
            )
        )
    lines += [
        plural(
            "{count:,} row is left out: {reason}",
            "{count:,} rows are left out: {reason}",
            count=count,
            reason=LEFT_OUT[reason],
        )
        for reason, count in split["left_out"].items()
    ]
    if split["thoughts_left_out"]:
        lines.append(
            plural(
                "the chat template leaves out the thoughts of {count:,} message",
                "the chat template leaves out the thoughts of {count:,} messages",
                count=split["thoughts_left_out"],
            )
        )
    repeated = split.get("in_training", {})
    if repeated.get("count"):
        lines.append(
            plural(
                "{count:,} row is a training row too: {rows}",
                "{count:,} rows are training rows too: {rows}",
                count=repeated["count"],
                rows=joined(map(str, repeated["first_rows"])),
            )
        )
    return lines


def _counted(split: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for key, title in (("labels", Message("labels: {counts}")), ("messages", Message("messages: {counts}"))):
        if split.get(key):
            counts = joined(f"{name} {count:,}" for name, count in split[key].items())
            lines.append(Message(title.template, counts=counts))
    if split.get("texts"):
        lines.append(plural("{count:,} plain text", "{count:,} plain texts", count=split["texts"]))
    if split.get("with_tools"):
        lines.append(plural("{count:,} row has tools", "{count:,} rows have tools", count=split["with_tools"]))
    if split.get("train_false"):
        lines.append(
            plural(
                "{count:,} message has train: false", "{count:,} messages have train: false", count=split["train_false"]
            )
        )
    return lines


def _row(name: str, row: Mapping[str, Any]) -> Text:
    head = [
        Message("{name} row {row}", name=name, row=row["row"]),
        plural("{count} token", "{count} tokens", count=row["tokens"]),
    ]
    if row["trained"] is not None:
        head.append(Message("{trained} trained", trained=row["trained"]))
    if row["is_left_out"]:
        head.append(Message("left out"))
    if row["label"] is not None:
        head.append(Message("label {label}", label=row["label"]))
    text = Text("\n").append(joined(head), _HEAD)
    is_plain = out.color_system is None
    for part in row["parts"]:
        text.append("\n")
        for piece, is_trained in part:
            left, right = BRACKETS if is_trained and is_plain and not row["is_left_out"] else ("", "")
            text.append(left).append(piece, _QUIET if row["is_left_out"] else _TRAINED if is_trained else "").append(
                right
            )
    return text
