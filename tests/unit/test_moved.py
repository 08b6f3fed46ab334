"""Old import names of the first version work for one release, and say what is new."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from launcher import moved

NAMES = [
    ("launcher.spec", "RecipeSpec"),
    ("launcher.spec", "load"),
    ("launcher.plan", "Plan"),
    ("launcher.plan", "make"),
    ("launcher.memory", "geometry"),
    ("launcher.rundir", "RunDir"),
    ("launcher.rundir", "append_event"),
    ("launcher.rundir", "read_json"),
    ("launcher.history", "History"),
    ("launcher.report", "write"),
    ("launcher.explain", "explain_path"),
    ("launcher.doctor", "run_checks"),
    ("launcher.supervise", "Outcome"),
    ("launcher.yamlfile", "load"),
    ("launcher.cluster.nodes", "Nodes"),
    ("launcher.cluster.model", "Cluster"),
    ("launcher.render.sbatch", "Allocation"),
    ("launcher.render.kubernetes", "manifest"),
    ("launcher.render.ranktable", "table"),
]


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda text: text)
def test_an_old_name_is_there_and_warns(module: str, name: str):
    """`from launcher.spec import RecipeSpec`, as before."""
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is launcher"):
        assert getattr(importlib.import_module(module), name)


def test_every_old_module_leads_somewhere():
    for old, places in moved.MODULES.items():
        assert importlib.import_module(old)
        assert all(importlib.import_module(f"launcher.{place}") for place in places)


def test_what_never_was_is_no_module_and_no_name():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("launcher.no_such")
    with pytest.raises(AttributeError, match=r"launcher\.spec.*no_such"):
        _ = importlib.import_module("launcher.spec").no_such


def test_the_old_way_to_import_a_module_is_one_too():
    code = "import warnings; warnings.simplefilter('ignore'); from launcher import spec, plan; print(spec.Model, plan.make)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert 0 == done.returncode, done.stderr
