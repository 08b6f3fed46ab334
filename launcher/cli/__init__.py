"""The command line. Each command is load → call → show; imports stand in the commands, so that --help costs nothing."""

from __future__ import annotations

import os
import sys

import click
from click.shell_completion import CompletionItem

from launcher import __version__
from launcher.cli import check, completion, launch, ranktable, recipes, report, results, submit
from launcher.cli.options import COMPLETE_VAR
from launcher.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_USER, LaunchError

DEFAULT_COMMAND = "run"


class _Group(click.Group):
    """`ascend-launch [OPTIONS] RECIPE` without a command's name is `ascend-launch run …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if args and args[0] not in own and args[0] not in self.commands:
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Commands; where none begins so, what the default command takes first: a recipe."""
        return super().shell_complete(ctx, incomplete) or completion.recipe_paths(incomplete)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] RECIPE [KEY=VALUE]...")
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", prefix="       ")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ascend-launch")
def cli() -> None:
    """Fine-tune a model on every Ascend NPU of a node, or on CPU ranks, from one recipe.

    \b
      ascend-launch --nproc 8 recipes/yelp.yaml
      ascend-launch --device cpu --nproc 2 recipes/tiny-cpu.yaml training.num_train_epochs=1
      ascend-launch --dry-run --nproc 8 --device npu recipes/yelp.yaml
    """


for command in (
    launch.run_command,
    launch.render_command,
    launch.plan_command,
    results.eval_command,
    results.predict_command,
    results.export_command,
    check.doctor_command,
    check.explain_command,
    recipes.recipes_group,
    submit.submit_command,
    completion.completion_command,
    report.report_command,
    ranktable.ranktable_command,
):
    cli.add_command(command)


def main() -> None:
    """The console script: every ending has its exit code, and only a bug of ours shows a traceback (in a file)."""
    if COMPLETE_VAR in os.environ:
        completion.register()
    try:
        # click would name itself after the file that was started, and its variable with it.
        cli.main(prog_name="ascend-launch", standalone_mode=False)
    except LaunchError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(EXIT_USER)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USER)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # `ascend-launch … | head` is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        click.echo(_crash_log(error), err=True)
        sys.exit(EXIT_BUG)


def _crash_log(error: Exception) -> str:
    """Write the traceback where a user can paste it from; the words that say so."""
    import platform
    import tempfile
    import traceback

    text = (
        f"### version\n\n```\nascend-launch {__version__}, Python {platform.python_version()}, {platform.platform()}\n```\n"
        f"\n### traceback\n\n```\n{''.join(traceback.format_exception(error))}```\n"
    )
    with tempfile.NamedTemporaryFile(
        "w", prefix="ascend-launch-", suffix=".log", delete=False, encoding="utf-8"
    ) as log:
        log.write(text)
    return (
        f"error: {type(error).__name__}: {error}\n  this is a bug of ascend-launch's; please report it with {log.name}"
    )
