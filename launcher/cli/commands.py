"""The commands: where each is, and what the list in --help says of it. A command is imported when it is run or asked for
its own help, so that neither --help nor another command pays for it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import click

from launcher.messages import Message, translated

COMPLETE_VAR = "_ASCEND_LAUNCH_COMPLETE"
"""Set by a shell that asks how to complete a word; click derives this name from the program's."""


class Row(NamedTuple):
    """One command."""

    place: str
    """`module:attribute`, below this folder."""
    summary: str
    """The first sentence of its help; none for a command that is another's, and is not listed."""


TABLE = {
    "run": Row("run:run_command", Message("Train RECIPE on every rank and leave rank 0's metrics.")),
    "program": Row(
        "program:program_command",
        Message(
            "Run PROGRAM with its ARGS on every rank: a Python script, a module (-m) or an executable (--no-python)."
        ),
    ),
    "command": Row(
        "command:command_command",
        Message("Run COMMAND once, as it is; every torchrun that it starts runs under our agent."),
    ),
    "render": Row(
        "render:render_command",
        Message("Write the files a launch of RECIPE uses: plan, accelerate YAML, DeepSpeed JSON, environment."),
    ),
    "plan": Row(
        "plan:plan_command",
        Message(
            "Show what RECIPE would do on these or other cards: every strategy's memory, what fits, what is taken and why."
        ),
    ),
    "data": Row(
        "data:data_command",
        Message("Show what RECIPE's rows become, token by token, and which are trained, before anything is launched."),
    ),
    "eval": Row(
        "evaluate:eval_command",
        Message(
            "Evaluate the weights P on RECIPE's eval split, on every rank, with the figures of a training's evaluation."
        ),
    ),
    "predict": Row(
        "predict:predict_command",
        Message(
            "Answer rows, in the order of the input: with label, label_name and probabilities of a text, or with the text that a model writes."
        ),
    ),
    "chat": Row(
        "chat:chat_command",
        Message(
            "Chat with a model on one card: a run directory, a checkpoint, a model or adapter folder, or a hub id."
        ),
    ),
    "export": Row(
        "export:export_command",
        Message(
            "Write the weights of RUN as one Hugging Face folder: a run directory, a checkpoint or an adapter, of any strategy."
        ),
    ),
    "doctor": Row(
        "doctor:doctor_command", Message("Check this machine: versions, CANN, cards, HCCL, network, disk, memory.")
    ),
    "explain": Row(
        "explain:explain_command",
        Message("Say what went wrong in PATH: a run directory, a plog folder, a log file, or - for standard input."),
    ),
    "recipes": Row(
        "recipes:recipes_group", Message("List the shipped recipes, show one, or copy one to start your own.")
    ),
    "submit": Row(
        "submit:submit_command",
        Message(
            "Check RECIPE, render it as a job of Slurm or Kubernetes, and submit it; or your own program, or any command."
        ),
    ),
    "submit-program": Row("submit_program:submit_program_command", ""),
    "submit-command": Row("submit_program:submit_command_command", ""),
    "completion": Row(
        "completion:completion_command",
        Message(
            'Print the completion script of SHELL: `eval "$(ascend-launch completion bash)"` in ~/.bashrc turns it on.'
        ),
    ),
    "report": Row(
        "report:report_command",
        Message(
            "Write one self-contained HTML page about RUN, or compare several: curves, figures, recipes, failures."
        ),
    ),
    "ranktable": Row(
        "ranktable:ranktable_command",
        Message(
            "Make HCCL's rank table of this node, or of FILEs in the order of their ranks: hccn.conf, hosts file, rank table."
        ),
    ),
}


class Commands(Mapping[str, click.Command]):
    """Those of TABLE by name."""

    def __getitem__(self, name: str) -> click.Command:
        module, _, attribute = TABLE[name].place.partition(":")
        command: click.Command = getattr(importlib.import_module(f"launcher.cli.{module}"), attribute)
        return command

    def __contains__(self, name: object) -> bool:
        return name in TABLE

    def __iter__(self) -> Iterator[str]:
        return iter(TABLE)

    def __len__(self) -> int:
        return len(TABLE)


def listed(width: int) -> list[tuple[str, str]]:
    """Names and summaries in the chosen language, for --help on a page so wide; cut as click cuts them."""
    rows = sorted((name, translated(row.summary)) for name, row in TABLE.items() if row.summary)
    limit = width - 6 - max(len(name) for name, _ in rows)
    return [(name, click.Command(name, help=text).get_short_help_str(limit)) for name, text in rows]
