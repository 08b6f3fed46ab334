"""A program in the place of a recipe: its ranks, and nothing else. What it trains, and how, is its own."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from launcher.accelerators import detect
from launcher.clusters import environment
from launcher.jobs.options import Machine
from launcher.machine.cluster import Cluster
from launcher.planning import decide
from launcher.planning.plan import Options, Plan
from launcher.recipe.load import Loaded
from launcher.recipe.program import Program
from launcher.recipe.schema import RecipeSpec


def loaded(program: Program, output_dir: Path | None) -> Loaded:
    """What stands for the recipe: the program's name, and the folder that its run directories are made below."""
    recipe = RecipeSpec(output_dir=str(output_dir or "runs"), report=False)
    return Loaded(recipe, program.name, Path.cwd() / program.name.replace(".", "_"), {})


def planned(
    program: Program, loaded: Loaded, machine: Machine, options: Options, *, pretend: bool = False
) -> tuple[Cluster, Plan]:
    """Where a program runs, and on how many ranks. `pretend`: nothing is going to be started here.

    Raises:
        LaunchError: the machine or its cluster is not as the options say.
    """
    nodes = environment.find(os.environ, machine.nnodes, machine.node_rank, machine.rdzv_endpoint, pretend=pretend)
    nodes = nodes.with_nproc_override(machine.nproc)
    cluster = detect.here(machine.device, os.environ, nodes)
    nproc = nodes.nproc if machine.nproc is None else machine.nproc
    return cluster, decide.of_program(program, loaded, cluster, replace(options, nproc=nproc))
