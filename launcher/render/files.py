"""Plan → every file of a run directory, and the commands that use them. `render`, --dry-run and a launch all call this."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping

import yaml

from launcher.files import write_text
from launcher.machine.nodes import split_endpoint
from launcher.messages import Message
from launcher.planning.plan import Plan
from launcher.recipe.load import Loaded
from launcher.render import accelerate, env
from launcher.rundir.paths import RunDir


def texts(loaded: Loaded, plan: Plan, run: RunDir, user_env: Mapping[str, str], node_rank: int = 0) -> dict[str, str]:
    """File name in the run directory → its text, exactly as a launch writes it."""
    out = {run.plan_path.name: plan.model_dump_json(indent=2) + "\n"}
    if loaded.origins:  # a recipe was read, and not a program named on the command line
        out = {run.recipe_path.name: recipe(loaded), **out}
    if plan.program is None or (plan.accelerate is not None and plan.accelerate.renders):
        out[run.accelerate_path.name] = accelerate.text(plan, run.deepspeed_path.resolve(), node_rank)
    zero = plan.sharing.deepspeed_config(plan)
    if zero is not None:
        out[run.deepspeed_path.name] = json.dumps(zero, indent=2) + "\n"
    rows = env.variables(plan, run.path.resolve(), user_env)
    out[run.env_path.name] = (
        json.dumps(env.record(rows, user_env, env.removed(plan, user_env)), indent=2, ensure_ascii=False) + "\n"
    )
    return out


def write(texts_by_name: Mapping[str, str], run: RunDir) -> None:
    """Write the files, each whole or not at all."""
    for name, text in texts_by_name.items():
        write_text(run.path / name, text)


_AGENT = "import sys; sys.path[:] = [p for p in sys.path if p]; from launcher.worker.agent import agent; agent.end()"
"""-m would put the working directory first on sys.path, and a program's may hold anything: a `launcher`, a `datasets`."""


def agent_argv(run: RunDir, node_rank: int = 0, *, is_program: bool = False) -> list[str]:
    """What a launch starts on this node."""
    argv = [sys.executable, "-m", "launcher.worker.agent.agent", "--run-dir", str(run.path.resolve())]
    if is_program:
        argv[1:3] = ["-c", _AGENT]
    return [*argv, "--node-rank", str(node_rank)] if node_rank else argv


def commands(plan: Plan, run: RunDir, node_rank: int = 0) -> dict[str, str]:
    """The agent's command, and the same job under other launchers, ready to paste."""
    rank = ["-m", "launcher.worker", "--run-dir", str(run.path.resolve())]
    out = {"ascend-launch": agent_argv(run, node_rank, is_program=plan.program is not None)}
    if plan.program is not None:
        words = {"script": [], "module": ["-m"], "executable": ["--no-python"]}[plan.program.kind]
        rank = [*words, plan.program.target, *plan.program.args]
    else:
        out["accelerate"] = ["accelerate", "launch", "--config_file", str(run.accelerate_path.resolve()), *rank]
    torchrun = ["torchrun", "--nproc-per-node", str(plan.nproc_per_node)]
    if plan.num_nodes > 1:
        host, port = split_endpoint(plan.rdzv_endpoint or "")
        torchrun += ["--nnodes", str(plan.num_nodes), "--node-rank", str(node_rank)]
        torchrun += ["--master-addr", host, "--master-port", str(port)]
    else:
        torchrun.append("--standalone")
    out["torchrun"] = [*torchrun, *rank]
    return {name: shlex.join(argv) for name, argv in out.items()}


def recipe(loaded: Loaded) -> str:
    """recipe.yaml: every value as resolved, with where it came from; a recipe itself."""
    # Origins stand in the head: a comment behind a value would become part of a block of text.
    given = {key: origin for key, origin in loaded.origins.items() if origin != "default"}
    head: list[str] = [
        Message("{path} as resolved. Where values came from (all others are defaults):", path=loaded.path)
    ]
    head += [f"  {key}: {origin}" for key, origin in given.items()]
    lines = ["# " + " ".join(line.splitlines()) for line in head]
    values = loaded.spec.model_dump(mode="json")
    if "code" in values:
        values["code"] = {file: _Block(text) for file, text in values["code"].items()}
    body = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return "\n".join(lines) + "\n" + body


class _Block(str):
    """A text of several lines, to be read by people."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(_Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))
