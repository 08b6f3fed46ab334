"""The table of clusters: nobody else goes by their names, and a package's is one like any other, its queue too."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import plugins
from launcher.clusters import environment, table
from launcher.clusters.base import Base
from launcher.recipe import schema
from tests.support.run import Ran
from tests.unit.test_strategies import decisions, names_in

LAUNCHER = Path(schema.__file__).resolve().parent.parent
PACKAGE = LAUNCHER.parent / "tests" / "packages" / "lineup"
PATHS = f"{LAUNCHER.parent}:{PACKAGE}"
JOB = {"LINEUP_JOB": "7", "LINEUP_NODES": "2", "LINEUP_NODE": "1", "LINEUP_FIRST": "n0", "LINEUP_RANKS": "4"}

LINEUP = """#!/bin/bash
# A queue of one machine: a job starts at once, in an environment that says which job it is.
case $1 in
submit)
    cat > "$0.script"
    if grep -q "lane closed" "$0.script"; then echo "error: no such lane: closed" >&2; exit 1; fi
    echo runs > "$0.state"
    export LINEUP_JOB=7 LINEUP_NODES=1
    (bash "$0.script" > "$2" 2>&1; echo "ended $?" > "$0.end"; mv "$0.end" "$0.state") > /dev/null 2>&1 &
    echo 7 ;;
look) cat "$0.state" ;;
esac
"""


@pytest.fixture
def lineup(tmp_path: Path) -> Path:
    """A fake queue's client, which a real one's stands for."""
    tool = tmp_path / "tools" / "lineup"
    tool.parent.mkdir()
    tool.write_text(LINEUP)
    tool.chmod(0o755)
    return tool


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package that has the cluster `lineup` is installed."""

    def forget() -> None:
        plugins._entry_points.cache_clear()
        plugins._load.cache_clear()
        table.of_packages.cache_clear()

    monkeypatch.syspath_prepend(str(PACKAGE))
    forget()
    yield
    forget()


@pytest.mark.parametrize("name", table.TABLE.built_in)
def test_every_cluster_has_all_that_the_interface_names(name: str):
    wanted = {n for n in (*table.Cluster.__annotations__, *vars(table.Cluster)) if not n.startswith("_")}
    cluster = table.TABLE.load(name)

    assert set() == {n for n in wanted if not hasattr(cluster, n)}
    assert (name, table.INTERFACE) == (cluster.name, cluster.interface)
    assert isinstance(cluster, Base)


def test_a_job_of_another_packages_cluster_is_recognised(installed: None):
    nodes = environment.find(JOB)

    assert (2, 1, 4, "lineup-7") == (nodes.count, nodes.rank, nodes.nproc, nodes.job)
    assert nodes.endpoint is not None
    assert "n0" == nodes.endpoint.partition(":")[0]
    assert nodes.source.startswith("Lineup: LINEUP_NODES=2")


def test_it_is_asked_before_what_is_built_in(installed: None):
    """A site's own scheduler may stand on another, whose variables are there too."""
    nodes = environment.find(JOB | {"PET_NNODES": "3", "PET_NODE_RANK": "2", "PET_MASTER_ADDR": "n9"})

    assert (2, 1) == (nodes.count, nodes.rank)
    assert "Kubeflow could be read too" in nodes.source


def test_without_the_package_its_variables_say_nothing():
    assert 1 == environment.find(JOB).count


def submit(ascend_launch: Callable[..., Ran], lineup: Path, *words: Any, **more: Any) -> Ran:
    argv = ["submit", "--device=cpu", "--nproc=1", *words]
    return ascend_launch(*argv, PYTHONPATH=PATHS, PATH=f"{lineup.parent}:/usr/bin:/bin", **more)


@pytest.mark.slow
@pytest.mark.ranks
def test_a_recipe_is_submitted_to_its_queue_and_followed(
    ascend_launch: Callable[..., Ran], lineup: Path, recipe: Callable[..., Path], tmp_path: Path
):
    """The job is recognised where it runs, so that its run directory is the one that is followed."""
    (tmp_path / "mine.py").write_text("print('trained')\n")
    path = recipe(script="mine.py", output_dir=str(tmp_path / "out"))
    done = submit(ascend_launch, lineup, "--lineup", "--lane=fast", "--partition=p", "--follow", path)
    run = tmp_path / "out" / "mine" / "lineup-7"

    assert 0 == done.code, done.err
    assert f"run directory: {run}\n" in done.out
    assert "submitted job 7; lineup drop 7 ends it\n" in done.out
    assert "job 7  runs on here\n" in done.out and "job 7  ended on here\n" in done.out
    assert "trained" in done.out
    assert "# lane fast part p nodes 1\n" in lineup.with_name("lineup.script").read_text()
    assert "mine.py" == json.loads((run / "plan.json").read_text())["recipe"]["script"]


@pytest.mark.slow
@pytest.mark.ranks
def test_a_program_is_submitted_to_its_queue_and_followed(
    ascend_launch: Callable[..., Ran], lineup: Path, tmp_path: Path
):
    """It ends as the job does, with what the failing rank said."""
    (tmp_path / "mine.py").write_text("import sys\nsys.exit(f'no luck with {sys.argv[1]}')\n")
    done = submit(ascend_launch, lineup, "--lineup", "--follow", "mine.py", "x", cwd=tmp_path)

    assert 1 == done.code, done.out + done.err
    assert "no luck with x" in done.err
    assert (tmp_path / "runs" / "mine" / "lineup-7" / "failure.json").exists()


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["--lineup", "--lane=closed"], "lineup refuses the job: no such lane: closed", "name one with --lane"),
        (["--lineup", "--qos=x"], "--qos: only for --slurm", "leave it out"),
        (["--kubernetes", "--image=x", "--follow"], "--follow: only for --slurm and --lineup", "leave it out"),
        (["--slurm", "--lane=x"], "--lane: only for --lineup", "leave it out"),
        ([], "submit needs to know where to", "say --slurm, --kubernetes, --volcano or --lineup"),
    ],
)
def test_what_it_refuses_is_said_as_of_any_cluster(
    ascend_launch: Callable[..., Ran], lineup: Path, tmp_path: Path, words: list[str], said: str, hint: str
):
    (tmp_path / "mine.py").touch()
    done = submit(ascend_launch, lineup, *words, "mine.py", cwd=tmp_path)

    assert (2, True, True) == (done.code, said in done.err, hint in done.err), done.err


def test_help_lists_its_options_under_its_name(ascend_launch: Callable[..., Ran], lineup: Path):
    """One that Slurm has too stands under both, and the others' help is as it was."""
    own = ascend_launch("submit", "--help").out
    lines = submit(ascend_launch, lineup, "--help").out.splitlines()
    place = lines.index("Lineup:")

    assert [] == [line for line in own.splitlines() if line.strip() and line not in lines]
    assert ["--lane", "--partition", "--follow"] == [
        line.split()[0] for line in lines[place:] if line.startswith("  --")
    ]
    assert "The part of the cluster." in lines[place + 2]


def files() -> list[Path]:
    own = LAUNCHER / "clusters"
    return [path for path in sorted(LAUNCHER.rglob("*.py")) if own not in path.parents]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(LAUNCHER)))
def test_nothing_is_decided_by_a_clusters_name(path: Path):
    """Whoever wants to know something asks the cluster."""
    rows = table.built_in()
    names = {*table.TABLE.built_in, *(row.title for row in rows), *(f"--{row.name}" for row in rows)} - ALLOWED
    found = [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for node in decisions(ast.parse(path.read_text(encoding="utf-8")))
        if names & set(names_in(node))
    ]

    assert [] == found


ALLOWED = {"environment", "the environment"}
"""A word of many meanings: the variables that people set by hand."""


@pytest.mark.parametrize("code", ["target == 'slurm'", "options['kubernetes']", "a in ('slurm', 'volcano')"])
def test_a_decision_by_name_would_be_seen(code: str):
    assert any(set(names_in(node)) & set(table.TABLE.built_in) for node in decisions(ast.parse(code)))
