"""The command line. Each command is load → call → show; imports stand in the commands, and commands are imported
where they are run, so that --help costs nothing."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Any, cast

import click

from launcher import __version__, messages, streams
from launcher.cli import commands, language
from launcher.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_JOB_FAILED, EXIT_OK, EXIT_USER, LaunchError
from launcher.messages import Message

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class _Group(click.Group):
    """`ascend-launch [OPTIONS] RECIPE` without a command's name is `ascend-launch run …`."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = cast("dict[str, click.Command]", commands.Commands())  # which nobody adds to

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            language.translate(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(commands.listed(formatter.width))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        head = language.words(args)
        messages.choose(head[-1].rpartition("=")[2] if head else "auto")
        language.translate_own(self)
        rest = args[len(head) :]
        if rest[:1] == ["submit"]:
            from launcher.cli import command_line
            from launcher.cli.submit_program import submit_program_command

            rest = command_line.with_command(rest[1:], submit_program_command.complete(), command_line.SUBMIT)
        elif rest and rest[0] not in own and rest[0] not in self.commands:
            from launcher.cli import command_line

            rest = command_line.with_command(rest, self.commands["program"].params)
        return super().parse_args(ctx, [*head, *rest])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Commands; where none begins so, what the default command takes first: a recipe."""
        from launcher.cli import completion

        return super().shell_complete(ctx, incomplete) or completion.recipe_paths(incomplete)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] RECIPE [KEY=VALUE]...")
        formatter.write_usage(ctx.command_path, "[OPTIONS] [-m] PROGRAM [ARGS]...", prefix="       ")
        formatter.write_usage(ctx.command_path, "[OPTIONS] -- COMMAND [ARGS]...", prefix="       ")
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", prefix="       ")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--lang", type=click.Choice(language.choices()), expose_value=False, help=language.HELP)
@click.version_option(__version__, prog_name="ascend-launch")
def cli() -> None:
    """Fine-tune a model on every Ascend NPU of a node, or on CPU ranks, from one recipe; or run your own program on each.

    \b
      ascend-launch --nproc 8 recipes/yelp.yaml
      ascend-launch --device cpu --nproc 2 recipes/tiny-cpu.yaml training.num_train_epochs=1
      ascend-launch --dry-run --nproc 8 --device npu recipes/yelp.yaml
      ascend-launch --nproc 8 train.py --lr 1e-4
      ascend-launch --nproc-per-node 8 -m my.trainer --config c.json
      ascend-launch -- llamafactory-cli train sft.yaml
    """


_HELP_ERRORS: tuple[type[click.UsageError], ...] = tuple(
    error for error in (getattr(click.exceptions, "NoArgsIsHelpError", None),) if error is not None
)
"""Of a group without a command: click 8.1 prints its help itself."""
_STDOUT = streams.NAMES[1]
_NO_BUGS = {
    errno.ENOSPC: Message("free some space"),
    errno.EDQUOT: Message("free some space"),
    errno.EROFS: Message("name a place that can be written"),
    errno.EACCES: Message("have its permissions changed, or name another"),
    errno.EPERM: Message("have its permissions changed, or name another"),
    errno.EISDIR: Message("name a file"),
    errno.ENOTDIR: Message("name a folder"),
    errno.ENAMETOOLONG: Message("use a shorter name"),
    errno.ELOOP: Message("name what the link should lead to"),
    errno.EIO: Message("check the disk"),
    errno.ESTALE: Message("check the disk"),
    errno.EMFILE: Message("raise the limit: ulimit -n 65536"),
}
"""What a system may say anywhere, and what to do about it."""


def main() -> None:
    """The console script: every ending has its exit code, and only a bug of the launcher shows a traceback, in a file."""
    streams.settle()
    if commands.COMPLETE_VAR in os.environ:
        from launcher.cli import completion

        completion.register()
    code = _exit_code()
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _lost_output(error) or code
    sys.exit(code)


def _exit_code() -> int | str | None:
    stdout = sys.stdout
    try:
        # click would name itself after the file that was started, and its variable with it.
        cli.main(prog_name="ascend-launch", standalone_mode=False)
    except SystemExit as end:
        # Where a pipe's reader left, click puts another object there and ends itself.
        return end.code if sys.stdout is stdout else _lost_output(BrokenPipeError())
    except LaunchError as error:
        _say(Message("error: {error}", error=error))
        return error.exit_code
    except _HELP_ERRORS as error:
        click.echo(error.format_message())
        return EXIT_USER
    except click.ClickException as error:
        _name_variable(error)
        error.message = messages.translated(error.message)  # type: ignore[misc, unused-ignore]  # click frames it
        words = io.StringIO()
        error.show(file=words)
        _echo(words.getvalue().rstrip("\n"))
        return EXIT_USER
    except (click.Abort, KeyboardInterrupt):
        _say(Message("interrupted"))
        return EXIT_INTERRUPTED
    except Exception as error:
        from launcher.confined import NotPlainError

        if isinstance(error, OSError) and (isinstance(error, BrokenPipeError) or error.filename == _STDOUT):
            return _lost_output(error)
        if isinstance(error, NotPlainError):
            what = LaunchError(
                "{path}: {problem}",
                hint="remove it, or name another folder",
                path=error.filename,
                problem=error.strerror,
            )
            _say(Message("error: {error}", error=what))
            return EXIT_USER
        if isinstance(error, OSError):
            from launcher import places

            if places.NO_TEMPORARY in str(error):
                _say(Message("error: {error}", error=places.no_temporary(error)))
                return EXIT_USER
        if isinstance(error, OSError) and error.errno in _NO_BUGS:
            where = f"{error.filename}: " if error.filename else ""
            fix = _NO_BUGS[error.errno]
            _say(Message("error: {where}{problem}\n  fix: {fix}", where=where, problem=error.strerror, fix=fix))
            return EXIT_USER
        if "surrogates not allowed" in str(error):
            _say(
                Message(
                    "error: the name of a file or folder is not UTF-8, and files of a run hold names as UTF-8\n"
                    "  fix: rename it"
                )
            )
            return EXIT_USER
        if str(error).startswith("Symlink loop"):
            _say(Message("error: {problem}\n  fix: {fix}", problem=error, fix=_NO_BUGS[errno.ELOOP]))
            return EXIT_USER
        _echo(_crash_log(error))
        return EXIT_BUG
    return EXIT_OK


def _name_variable(error: click.ClickException) -> None:
    """Have a wrong value that came by a variable reported as the variable's, not as an option's that nobody gave."""
    if not isinstance(error, click.BadParameter) or error.ctx is None or error.param is None:
        return
    source = error.ctx.get_parameter_source(error.param.name or "")
    if source is not None and source.name == "ENVIRONMENT":
        names = [error.param.envvar] if isinstance(error.param.envvar, str) else error.param.envvar or ()
        error.param_hint = next((name for name in names if os.environ.get(name)), error.param_hint)


def _lost_output(error: OSError) -> int:
    """Whoever reads a pipe may leave, as in `ascend-launch … | head`; anything else that keeps standard output from being
    written is said."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(error, BrokenPipeError):
        return EXIT_OK
    _say(Message("error: {name}: {problem}\n  fix: send it elsewhere", name=_STDOUT, problem=error.strerror))
    return EXIT_JOB_FAILED


def _say(message: Message) -> None:
    _echo(messages.translated(message))


def _echo(text: str) -> None:
    from launcher import scrub

    click.echo(scrub.shown(text), err=True)


def _crash_log(error: Exception) -> str:
    """Write the traceback where a user can paste it from; the message that says so."""
    import platform
    import tempfile
    import traceback

    from launcher import scrub

    details = (
        f"### version\n\n```\nascend-launch {__version__}, Python {platform.python_version()}, {platform.platform()}\n```\n"
        f"\n### traceback\n\n```\n{''.join(traceback.format_exception(error))}```\n"
    )
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="ascend-launch-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            log.write(scrub.hide(details))
    except OSError:  # nothing takes a file
        words = Message("error: this is a bug of ascend-launch's; please report it with the lines above")
        return scrub.hide(details) + messages.translated(words)
    return messages.translated(
        Message(
            "error: {kind}: {error}\n  this is a bug of ascend-launch's; please report it with {path}",
            kind=type(error).__name__,
            error=error,
            path=log.name,
        )
    )
