"""Rendered files say what the plan says, once, in the forms that accelerate, DeepSpeed and CANN take."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.accelerators import detect
from launcher.machine.cluster import Cluster
from launcher.machine.nodes import Nodes
from launcher.planning import decide, plan
from launcher.recipe import load
from launcher.render import accelerate, env, files
from launcher.rundir.paths import RunDir

Write = Callable[..., Path]
ZERO = ["zero1", "zero2", "zero3", "zero3-offload"]
ALL = ["ddp", *ZERO, "fsdp2"]
ONE_NODE = Nodes()


def make(path: Path, *, cpu: int = 0, npu: int = 0, nodes: Nodes = ONE_NODE, **sections: Any) -> plan.Plan:
    cluster = detect.assumed(npu, nodes) if npu else Cluster("cpu", (), nodes.count, nodes.rank, nodes.endpoint, "test")
    options = plan.Options(nproc=npu or cpu, debug=sections.pop("debug", False))
    overrides = [f"{k}={v}" for k, v in sections.items()]
    return decide.make(load.load(path, overrides, {}), cluster, options, {"hidden_size": 64})


def strategy(path: Path, name: str, **where: Any) -> plan.Plan:
    return make(path, **where, **{"parallel.strategy": name})


@pytest.mark.parametrize("name", ZERO)
def test_numbers_that_deepspeed_wants_whole_are_whole(recipe: Write, name: str):
    """Formulas give 15099494.4 for the prefetch bucket, which DeepSpeed refuses."""
    made = strategy(recipe(), name, npu=8)
    config = made.sharing.deepspeed_config(made)
    assert config is not None
    sizes = {
        k: v
        for k, v in config["zero_optimization"].items()
        if k.endswith(("_size", "_threshold", "_parameters", "_distance"))
    }

    assert all(type(v) is int for v in sizes.values())
    assert "train_batch_size" not in config


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_said_twice(recipe: Write, name: str):
    """With a DeepSpeed file, precision, accumulation, clipping and stage are absent from the accelerate YAML."""
    config = accelerate.config(strategy(recipe(), name, npu=8), Path("/run/deepspeed.json"))

    if name in ZERO:
        assert "mixed_precision" not in config
        assert {"deepspeed_config_file", "zero3_init_flag"} == set(config["deepspeed_config"])
        assert name.startswith("zero3") == config["deepspeed_config"]["zero3_init_flag"]
    else:
        assert "bf16" == config["mixed_precision"]


@pytest.mark.parametrize(
    ("name", "npu", "cpu", "kind"),
    [
        ("ddp", 8, 0, "MULTI_NPU"),
        ("ddp", 1, 0, "NO"),
        ("ddp", 0, 1, "NO"),
        ("ddp", 0, 2, "MULTI_GPU"),
        ("zero2", 8, 0, "DEEPSPEED"),
        ("zero2", 0, 2, "DEEPSPEED"),
        ("fsdp2", 8, 0, "FSDP"),
    ],
)
def test_distributed_type_is_the_one_that_works(recipe: Write, name: str, npu: int, cpu: int, kind: str):
    """MULTI_CPU would start one process; MULTI_GPU is accelerate's word for torchrun."""
    assert kind == accelerate.config(strategy(recipe(), name, npu=npu, cpu=cpu), Path("d.json"))["distributed_type"]


def test_several_nodes_name_the_first(recipe: Write):
    """num_processes is the total; the endpoint is split; machine_rank is this node's."""
    nodes = Nodes(2, 1, "node0:29400")
    made = make(recipe(parallel={"global_batch_size": 16, "strategy": "zero3"}), npu=8, nodes=nodes)
    config = accelerate.config(made, Path("d.json"), node_rank=1)

    assert (2, 16, 1, "node0", 29400) == (
        config["num_machines"],
        config["num_processes"],
        config["machine_rank"],
        config["main_process_ip"],
        config["main_process_port"],
    )
    assert "standard" == config["deepspeed_config"]["deepspeed_multinode_launcher"]


def zero(made: plan.Plan) -> dict[str, Any]:
    config = made.sharing.deepspeed_config(made)
    assert config is not None
    found: dict[str, Any] = config["zero_optimization"]
    return found


@pytest.mark.parametrize(
    ("version", "device", "overlaps"),
    [
        ("0.19.8", "npu", True),
        ("0.19.3", "npu", True),
        ("0.20.0", "npu", True),
        ("0.19.2", "npu", False),
        ("0.16.4", "npu", False),
        (None, "npu", False),
        ("0.19.8", "cpu", False),
    ],
)
def test_overlap_comm_follows_deepspeeds_version(recipe: Write, version: str | None, device: str, overlaps: bool):
    """With contiguous_gradients it made gradients NaN or wrong in versions before 0.19.3; on CPU it gains nothing."""
    cluster = detect.assumed(8, ONE_NODE) if device == "npu" else Cluster("cpu", source="test")
    options = plan.Options(nproc=8, deepspeed_version=version)
    made = decide.make(load.load(recipe(parallel={"strategy": "zero2"}), (), {}), cluster, options)

    assert (overlaps, True) == (zero(made)["overlap_comm"], zero(made)["contiguous_gradients"])


def test_a_recipe_changes_the_few_keys_that_are_safe(recipe: Write):
    """They reach deepspeed.json as they are, whatever the version says; `5e8` is how DeepSpeed's own examples write sizes."""
    asked = {"overlap_comm": True, "contiguous_gradients": False, "reduce_bucket_size": 5e8}
    made = make(recipe(parallel={"deepspeed": asked}), npu=8, **{"parallel.strategy": "zero2"})

    assert asked == {key: zero(made)[key] for key in asked}
    assert (
        8
        == zero(
            make(
                recipe(),
                npu=8,
                **{"parallel.strategy": "zero3", "parallel.deepspeed.stage3_param_persistence_threshold": 8},
            )
        )["stage3_param_persistence_threshold"]
    )


@pytest.mark.parametrize(
    ("driver", "value"),
    [
        ("23.0.3", "False"),
        ("24.1.rc2", "False"),
        ("24.1.rc3", "True"),
        ("24.1.0", "True"),
        ("25.5.0", "True"),
        (None, "True"),
    ],
)
def test_expandable_segments_follow_the_driver(recipe: Write, tmp_path: Path, driver: str | None, value: str):
    """Before 24.1.RC3 they were experimental, and jobs ended with 507001; the reason says how to have it otherwise."""
    made = make(recipe(), npu=8).model_copy(update={"driver_version": driver})
    row = next(r for r in env.variables(made, tmp_path, {}) if r.name == "PYTORCH_NPU_ALLOC_CONF")

    assert f"expandable_segments:{value}" == row.value
    assert "507001" in row.reason
    own = {"PYTORCH_NPU_ALLOC_CONF": "max_split_size_mb:64"}
    assert "max_split_size_mb:64" == next(r.value for r in env.variables(made, tmp_path, own) if r.name == row.name)


def test_offload_keeps_weights_and_optimizer_on_the_host(recipe: Write):
    """zero3-offload differs from zero3 in exactly that."""
    made = strategy(recipe(), "zero3-offload", npu=8)
    config = made.sharing.deepspeed_config(made)
    assert config is not None

    assert ["cpu", "cpu"] == [config["zero_optimization"][f"offload_{w}"]["device"] for w in ("optimizer", "param")]


def test_checkpoints_of_zero3_hold_weights(recipe: Write):
    """Without the switch a ZeRO-3 checkpoint has no weights that from_pretrained can read."""
    made = strategy(recipe(), "zero3", npu=8)
    config = made.sharing.deepspeed_config(made)
    assert config is not None

    assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True


def test_the_users_environment_is_never_overridden(recipe: Write, tmp_path: Path):
    """A variable that is set stays as it is and is marked as the user's own."""
    user = {"HCCL_CONNECT_TIMEOUT": "300", "OMP_NUM_THREADS": "7"}
    rows = {r.name: r for r in env.variables(make(recipe(), npu=8), tmp_path, user, num_cpus=192)}

    assert ("300", True) == (rows["HCCL_CONNECT_TIMEOUT"].value, rows["HCCL_CONNECT_TIMEOUT"].kept)
    assert ("7", True) == (rows["OMP_NUM_THREADS"].value, rows["OMP_NUM_THREADS"].kept)
    assert "3600" == rows["HCCL_EXEC_TIMEOUT"].value


@pytest.mark.parametrize(
    ("files_", "count"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, None),
    ],
)
def test_cores_are_those_that_the_job_has(tmp_path: Path, files_: dict[str, str], count: int | None):
    """Not the host's: of the CPU set, and of a container's quota where that is less."""
    for name, text in files_.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    assert (count or len(os.sched_getaffinity(0))) == env.usable_cpus(tmp_path)


def test_a_cpu_set_counts(tmp_path: Path):
    """As Slurm's, or taskset's."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(every)})
    try:
        assert 1 == env.usable_cpus(tmp_path)
    finally:
        os.sched_setaffinity(0, every)


def test_the_two_allocator_variables_are_never_both_set(recipe: Write, tmp_path: Path):
    """torch_npu raises where PYTORCH_ALLOC_CONF and PYTORCH_NPU_ALLOC_CONF are both there."""
    made = make(recipe(), npu=8)

    assert "PYTORCH_NPU_ALLOC_CONF" in {r.name for r in env.variables(made, tmp_path, {})}
    assert "PYTORCH_NPU_ALLOC_CONF" not in {r.name for r in env.variables(made, tmp_path, {"PYTORCH_ALLOC_CONF": "x"})}


def test_connect_timeout_is_legal_and_below_exec_timeout(recipe: Write, tmp_path: Path):
    """HCCL takes 120 to 7200 s, and wants the connect timeout below the execution timeout."""
    rows = {r.name: r.value for r in env.variables(make(recipe(), npu=8), tmp_path, {})}

    assert 120 <= int(rows["HCCL_CONNECT_TIMEOUT"]) <= 7200
    assert int(rows["HCCL_CONNECT_TIMEOUT"]) < int(rows["HCCL_EXEC_TIMEOUT"])


def test_every_variable_has_its_reason(recipe: Write, tmp_path: Path):
    """No setting is there by habit."""
    for made in (make(recipe(), npu=8), make(recipe(), cpu=2), make(recipe(), npu=8, debug=True)):
        assert all(len(r.reason) > 20 for r in env.variables(made, tmp_path, {}))


def test_debug_launches_synchronously(recipe: Write, tmp_path: Path):
    """With --debug on a card, a traceback names the operator that failed."""
    rows = {r.name: r.value for r in env.variables(make(recipe(), npu=8, debug=True), tmp_path, {})}

    assert ("1", "0") == (rows["ASCEND_LAUNCH_BLOCKING"], rows["TASK_QUEUE_ENABLE"])


def test_a_cpu_job_sets_nothing_of_hccl(recipe: Write, tmp_path: Path):
    """And torch_npu is kept from loading itself, which fails where CANN is absent."""
    rows = {r.name: r.value for r in env.variables(make(recipe(), cpu=2), tmp_path, {})}

    assert not [n for n in rows if n.startswith(("HCCL", "ASCEND"))]
    assert "0" == rows["TORCH_DEVICE_BACKEND_AUTOLOAD"]


def test_no_secret_reaches_the_record(recipe: Write, tmp_path: Path):
    """Tokens are left out by name, inside URLs by shape, and foreign variables are not copied at all."""
    user = {
        "HF_TOKEN": "hf_abcdefghijkl",
        "HUGGING_FACE_HUB_TOKEN": "hf_x",
        "WANDB_API_KEY": "k",
        "AWS_SECRET": "s",
        "HF_ENDPOINT": "https://user:pa55@mirror.example/x",
        "ASCEND_HOME_PATH": "/usr/local/Ascend",
        "HF_SOMETHING": "see hf_abcdefghijkl here",
        "DS_PASSWORD": "p4ss",
    }
    rows = env.variables(make(recipe(), npu=8), tmp_path, user)
    text = json.dumps(env.record(rows, user))

    assert not [s for s in ("hf_abc", "pa55", "p4ss", '"k"', '"s"') if s in text]
    assert "/usr/local/Ascend" in text
    assert "mirror.example" in text


def test_awkward_paths_survive_every_renderer(recipe: Write, awkward_dir: Path):
    """Spaces, quotes, newlines and $() in a run directory break no file and no command."""
    path = recipe(parallel={"strategy": "zero2"})
    loaded = load.load(path, (), {})
    made = make(path, cpu=2)
    run = RunDir(awkward_dir / "run")
    files.write(files.texts(loaded, made, run, {}), run)

    assert (
        str(run.deepspeed_path)
        == yaml.safe_load(run.accelerate_path.read_text())["deepspeed_config"]["deepspeed_config_file"]
    )
    assert made == run.plan()
    assert loaded.spec == load.load(run.recipe_path, (), {}).spec
    for command in files.commands(made, run).values():
        assert str(run.path) in shlex.split(command)


def test_the_recorded_recipe_says_where_values_came_from(recipe: Write, tmp_path: Path):
    """Provenance stands in the head of recipe.yaml, for values that are not defaults."""
    path = recipe()
    loaded = load.load(path, ["training.seed=7"], {})
    made = decide.make(loaded, Cluster("cpu"), plan.Options())
    text = files.texts(loaded, made, RunDir(tmp_path), {})["recipe.yaml"]

    assert "#   training.seed: command line training.seed\n" in text
    assert f"#   model.name: {path}:" in text


def test_a_recipe_whose_file_has_no_ending_is_recorded_too(recipe: Write, tmp_path: Path):
    """The command that continues a run names its recipe.yaml."""
    path = recipe().rename(tmp_path / "mine")
    loaded = load.load(path, (), {})

    assert "recipe.yaml" in files.texts(loaded, make(path, cpu=1), RunDir(tmp_path), {})


@pytest.mark.parametrize(
    ("report_to", "names"),
    [
        ("none", set()),
        ("tensorboard", {"TENSORBOARD_LOGGING_DIR"}),
        (["wandb", "swanlab"], {"WANDB_DIR", "SWANLAB_LOG_DIR"}),
        ("mlflow", set()),
    ],
)
def test_trackers_write_into_the_run_directory(recipe, report_to, names):
    """Wherever they would by default; what the user has set stands. mlflow keeps its own default: it takes a database's or
    a server's address, and no longer a folder's."""
    loaded = load.load(recipe(training={"report_to": report_to}), [], {})
    made = decide.make(loaded, detect.assumed(8, detect.Nodes()), plan.Options())
    trackers = ("TENSORBOARD", "WANDB", "SWANLAB", "MLFLOW")
    rows = [
        row for row in env.variables(made, Path("/runs/a b"), {"WANDB_DIR": "/mine"}) if row.name.startswith(trackers)
    ]

    assert names == {row.name for row in rows}
    assert all(row.value == "/mine" or row.value.startswith("/runs/a b/") for row in rows)
