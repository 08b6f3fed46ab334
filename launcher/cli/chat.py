"""`ascend-launch chat`: a quick look at what a model says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launcher import streams
from launcher.accelerators import table as accelerators
from launcher.cli import outputs
from launcher.cli.generation_options import generation_options, writing_of
from launcher.cli.options import Named, RecipeFile, complete_recipe
from launcher.errors import EXIT_USER, LaunchError
from launcher.messages import Message

if TYPE_CHECKING:
    from launcher.jobs.chat import History, Partner
    from launcher.jobs.rows import Bad

LENGTH = "length"
"""The finish_reason of an answer that was cut."""


@click.command(name="chat")
@click.argument("model", metavar="RUN|MODEL", type=outputs.Name())
@generation_options
@click.option(
    "--recipe",
    type=RecipeFile(),
    shell_complete=complete_recipe,
    help="The recipe of the weights, where no file beside them names it.",
)
@click.option(
    "--device",
    type=Named(accelerators.TABLE, accelerators.AUTO),
    default="auto",
    envvar="ASCEND_LAUNCH_DEVICE",
    help="Where the model computes [default: auto, npu where there is one].",
)
def chat_command(model: str, recipe: Path | None, device: str, **given: Any) -> None:
    """Chat with a model on one card: a run directory, a checkpoint, a model or adapter folder, or a hub id.

    In a pipe each line is a question, and the answers are all of standard output.
    """
    from launcher.jobs import chat, labels, predict, trained
    from launcher.recipe import load
    from launcher.recipe.tasks import table as tasks
    from launcher.show import chat as shown

    if sys.stdin is None or streams.is_closed(0):
        raise LaunchError("standard input is closed", hint="start it at a terminal, or send it questions, a line each")
    weights = trained.find(model, "")
    loaded = (
        labels.named(load.load(recipe))
        if recipe
        else load.Loaded(trained.recipe_of(weights, tasks.THAT_WRITES), "chat", Path(weights.name), {})
    )
    if not loaded.spec.task.writes:
        raise LaunchError(
            "{model}: gives labels, and writes no text",
            hint="ascend-launch predict --model {model} gives them",
            model=model,
        )
    writing = writing_of(given, loaded.spec.generation)
    history = chat.History(system=writing.system if writing.system is not None else loaded.spec.data.system)
    with chat.partner(predict.Work(loaded, weights, writing=writing), device, shown.line) as partner:
        if _is_terminal():
            shown.begin(model, partner.device)
        are_answered = _talk(partner, history)
    if not are_answered and not _is_terminal():
        sys.exit(EXIT_USER)


def _talk(partner: Partner, history: History) -> bool:
    """Until there are no more questions; whether each had an answer."""
    from launcher.jobs.chat import RefusedError
    from launcher.jobs.rows import Bad
    from launcher.show import chat as shown

    are_answered = True
    for line in _lines():
        if isinstance(line, Bad):
            are_answered = False
            shown.line(Message("<stdin>:{line}: {reason}", line=line.line, reason=line.reason))
            continue
        if not (said := line.strip()):
            continue
        if said.startswith("/") and not said.startswith("//"):
            if said.split()[0] in ("/exit", "/quit"):
                break
            _obey(said, history)
            continue
        question = line.replace("//", "/", 1) if said.startswith("//") else line
        try:
            answer = partner.ask(history.asked(question), history.turns, shown.piece)
        except RefusedError as refused:
            are_answered = False
            shown.refused(refused.what, refused.hint)
            continue
        shown.end(is_cut=answer["finish_reason"] == LENGTH)
        history.answered(question, answer["text"])
    return are_answered


def _obey(said: str, history: History) -> None:
    from launcher.show import chat as shown

    command, _, rest = said.partition(" ")
    if command == "/reset":
        history.reset()
    elif command == "/system":
        history.reset()
        history.system = rest.strip() or None
    elif command == "/help":
        shown.line(shown.HELP)
    else:
        shown.line(Message("{command}: no such command; /help lists them", command=command))


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _lines() -> Iterator[str | Bad]:
    """What is asked, a line each; ^C at the prompt begins a new one, ^D ends it."""
    from launcher.jobs.rows import Bad
    from launcher.show import chat as shown

    if not _is_terminal():
        for number, raw in enumerate(sys.stdin.buffer, 1):
            try:
                yield raw.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield Bad(number, Message("not UTF-8 at byte {start}", start=error.start))
        return
    import readline  # noqa: F401  # which gives input() its keys and its history

    while True:
        try:
            yield input(shown.PROMPT)
        except KeyboardInterrupt:
            print()
        except UnicodeDecodeError as error:
            shown.line(Message("not UTF-8 at byte {start}", start=error.start))
        except EOFError:
            print()
            return
