"""What a command line without a command's name means: a recipe, or a program; and other launchers' lines as ours."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from launcher.accelerators import table as accelerators
from launcher.errors import LaunchError
from launcher.messages import Message

RECIPE, PROGRAM, COMMAND = "run", "program", "command"
SUBMIT = ("submit", "submit-program", "submit-command")
"""The same three, for a cluster's queue."""
RECIPE_ENDINGS = (".yaml", ".yml")


def with_command(
    args: list[str],
    parameters: Sequence[click.Parameter],
    names: tuple[str, str, str] = (RECIPE, PROGRAM, COMMAND),
) -> list[str]:
    """The arguments with the command's name before them: of `names`, the one for a recipe, a program or a command.

    The first argument that is not an option decides: another launcher's name, a recipe, or a program. Where an option
    is not known, or there is no such argument, the command that was most likely meant says so.

    Raises:
        LaunchError: it is empty, or another launcher's line that cannot be ours.
    """
    recipe, program, command = names
    index = first_word(args, parameters)
    if index is not None and args[index] == "--":
        is_recipe = names == SUBMIT and "".join(args[index + 1 : index + 2]).endswith(RECIPE_ENDINGS)
        return [recipe if is_recipe else command, *args]
    if index is None:
        return [program if _says_program(args) or any(is_program(word) for word in args) else recipe, *args]
    before, word, after = args[:index], args[index], args[index + 1 :]
    if not word:
        raise LaunchError(
            "the first argument is empty, and names neither a recipe nor a program",
            hint="give the variable that stands there a value, or leave the argument out",
        )
    pasted = _pasted(word)
    if pasted is not None:
        words = PASTED[pasted](after)
        full_line = ["submit", *before, *words] if names == SUBMIT else [*before, *words]
        print(f"ascend-launch {shlex.join(full_line)}", file=sys.stderr)
        return [program, *before, *words]
    is_recipe = word.endswith(RECIPE_ENDINGS) or not _has_torchruns_options(before)
    if _says_program(before) or is_program(word) or not is_recipe:
        return [program, *args]
    return [recipe, *args]


def first_word(args: Sequence[str], parameters: Sequence[click.Parameter]) -> int | None:
    """Where the first argument stands that is neither an option nor an option's value; None where there is none, or where
    an option before it is not a program's."""
    options = {name: p for p in parameters if isinstance(p, click.Option) for name in p.opts}
    index = 0
    while index < len(args):
        word = args[index]
        if not word.startswith("-") or word in ("-", "--"):
            return index
        name, equals, _ = word.partition("=")
        option = options.get(name.replace("_", "-") if name.startswith("--") else name[:2])
        if option is None:
            return None
        has_value = bool(equals) or (not name.startswith("--") and len(name) > 2)
        index += 1 if option.is_flag or has_value else 2
    return None


def _says_program(before: Sequence[str]) -> bool:
    named = {"-m", "--module", "--no-python", "--no_python", "--run-path", "--run_path"} & set(before)
    return bool(named) or any(os.environ.get(name) == "1" for name in ("PET_MODULE", "PET_NO_PYTHON", "PET_RUN_PATH"))


def _has_torchruns_options(before: Sequence[str]) -> bool:
    """Whether an option is written as torchrun's users do, which no recipe's command takes."""
    return any(re.match(r"--(\w+_|nproc-per-node|standalone|master-)", word) for word in before)


def _pasted(word: str) -> str | None:
    """The launcher that an argument names, also by its path; None where it names none.

    Raises:
        LaunchError: it belongs to another Python, whose packages the ranks would not have.
    """
    folder, _, name = word.rpartition(os.sep)
    known = re.sub(r"^python\d(\.\d+)?$", "python", name)
    if known not in PASTED or not folder:
        return known if known in PASTED else None
    if not os.access(word, os.X_OK) or Path(word).is_dir():
        return None
    if not Path(folder).samefile(Path(sys.executable).parent):
        raise LaunchError(
            "{word}: belongs to another Python than ascend-launch, {python}",
            hint="install ascend-launch there and use that one, or put the whole line behind `ascend-launch --`",
            word=word,
            python=sys.executable,
        )
    return known


def is_program(word: str) -> bool:
    """Whether an argument names a Python program, as `python WORD` would take it, and not a recipe."""
    if word.endswith(RECIPE_ENDINGS):
        return False
    path = Path(word)
    return word.endswith((".py", ".pyz")) or (os.sep in word and path.is_file()) or (path / "__main__.py").is_file()


def torchrun(words: list[str]) -> list[str]:
    """`torchrun WORDS`: its options are ours."""
    return words


def python(words: list[str]) -> list[str]:
    """`python -m torch.distributed.run …` and `….launch …`, or a plain script.

    Raises:
        LaunchError: options of Python's own, which ranks would not get.
    """
    words = [word for word in words if word != "-u"]  # ranks are never buffered
    if words[:1] == ["-m"] and words[1:2] in (["torch.distributed.run"], ["torch.distributed.launch"]):
        own = ["--local-rank-option"] if words[1].endswith("launch") else []
        return [*own, *words[2:]]
    if words and words[0].startswith("-") and words[0] != "-m":
        raise LaunchError(
            "python {word}: ranks take no options of Python's",
            hint="leave it out, set its PYTHON… variable, or put the whole line behind `ascend-launch --`",
            word=words[0],
        )
    return words


def accelerate(words: list[str]) -> list[str]:
    """`accelerate launch …`: its options of processes and machines as ours; for the rest, accelerate is asked.

    Raises:
        LaunchError: an option that has no counterpart.
    """
    if words[:1] != ["launch"]:
        raise LaunchError(
            "{words}: only `accelerate launch` starts ranks",
            hint="run it without ascend-launch",
            words=shlex.join(["accelerate", *words[:1]]),
        )
    out = _translated(words[1:], _ACCELERATE, _ACCELERATE_FLAGS, Message("accelerate launch"), _ACCELERATE_SETTINGS)
    default = _default_config(os.environ)
    if "--accelerate-config" not in out and "--device" not in out and default.is_file():
        return ["--accelerate-config", str(default), *out]
    return out


def _default_config(env: Mapping[str, str]) -> Path:
    """Where `accelerate config` writes, and `accelerate launch` looks by itself."""
    cache = env.get("HF_HOME") or os.path.join(env.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")  # noqa: PTH118
    return Path(cache, "accelerate", "default_config.yaml").expanduser()


def deepspeed(words: list[str]) -> list[str]:
    """`deepspeed …`: the launcher of DeepSpeed on one node; each rank gets --local_rank as there.

    Raises:
        LaunchError: an option that has no counterpart.
    """
    return ["--local-rank-option", *_translated(words, _DEEPSPEED, _DEEPSPEED_FLAGS, "deepspeed")]


_ACCELERATE = {
    "--num-processes": "--nproc",
    "--num-machines": "--nnodes",
    "--machine-rank": "--node-rank",
    "--main-process-ip": "--master-addr",
    "--main-process-port": "--master-port",
    "--max-restarts": "--max-restarts",
    "--monitor-interval": "--monitor-interval",
    "--rdzv-backend": "--rdzv-backend",
    "--rdzv-conf": "--rdzv-conf",
    "--role": "--role",
    "--log-dir": "--log-dir",
    "--tee": "--tee",
    "--config-file": "--accelerate-config",
    "--mixed-precision": "--precision",
}
_ACCELERATE_FLAGS = {
    "-m": ["-m"],
    "--module": ["-m"],
    "--no-python": ["--no-python"],
    "--multi-gpu": [],
    "--same-network": [],
    "--quiet": [],
    "-q": [],
    "--cpu": ["--device", accelerators.HOST],
}
_PRECISIONS = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class Settings:
    """Options of another launcher that are handed to it as they are."""

    flags: frozenset[str]
    valued: frozenset[str]
    prefixes: tuple[str, ...]

    def width(self, name: str) -> int:
        """How many arguments the option takes, itself among them; 0 where it is none of these."""
        if name in self.flags:
            return 1
        return 2 if name in self.valued or name.startswith(self.prefixes) else 0


_ACCELERATE_SETTINGS = Settings(
    flags=frozenset(
        {
            "--use-deepspeed",
            "--use-fsdp",
            "--use-parallelism-config",
            "--debug",
            "--enable-cpu-affinity",
            "--dynamo-use-fullgraph",
            "--dynamo-use-dynamic",
            "--dynamo-use-regional-compilation",
        }
    ),
    valued=frozenset(
        {
            "--zero-stage",
            "--zero3-init-flag",
            "--zero3-save-16bit-model",
            "--deepspeed-config-file",
            "--deepspeed-moe-layer-cls-names",
            "--num-cpu-threads-per-process",
        }
    ),
    prefixes=("--fsdp-", "--dynamo-", "--offload-", "--gradient-", "--parallelism-config-"),
)
_DEEPSPEED = {
    "--num-gpus": "--nproc",
    "--num-nodes": "--nnodes",
    "--node-rank": "--node-rank",
    "--master-addr": "--master-addr",
    "--master-port": "--master-port",
}
_DEEPSPEED_FLAGS = {"--module": ["-m"], "--no-python": ["--no-python"], "--no-local-rank": ["--use-env"]}


def _translated(
    words: list[str], valued: dict[str, str], flags: dict[str, list[str]], whose: str, settings: Settings | None = None
) -> list[str]:
    out: list[str] = []
    handed: list[str] = []
    index = 0
    while index < len(words) and words[index].startswith("-"):
        name, equals, value = words[index].partition("=")
        name = name.replace("_", "-")
        if name in flags:
            out += flags[name]
        elif name in valued:
            if not equals:
                index += 1
                value = words[index] if index < len(words) else ""
            out += [valued[name], _PRECISIONS.get(value, value) if name == "--mixed-precision" else value]
        elif settings is not None and (width := settings.width(name)):
            width = 1 if equals else width
            handed += words[index : index + width]
            index += width - 1
        else:
            raise LaunchError(
                "{whose} {words}: has no counterpart here",
                hint="leave it out, or put the whole line behind `ascend-launch --`",
                whose=whose,
                words=words[index],
            )
        index += 1
    nodes = _number(out, "--nnodes")
    ranks = _number(out, "--nproc")
    if whose.startswith("accelerate") and nodes and ranks and nodes > 1:  # it counts the processes of all machines
        out[out.index("--nproc") + 1] = str(ranks // nodes)
    if handed:
        handed += [word for word in words[:index] if word in ("--multi_gpu", "--multi-gpu")]
        out += ["--accelerate-args", shlex.join(handed)]
    return out + words[index:]


def _number(words: list[str], option: str) -> int | None:
    value = words[words.index(option) + 1] if option in words else ""
    return int(value) if value.isascii() and value.isdecimal() else None


PASTED = {"torchrun": torchrun, "python": python, "accelerate": accelerate, "deepspeed": deepspeed}
"""Other launchers, and how their command lines are written as ours."""
