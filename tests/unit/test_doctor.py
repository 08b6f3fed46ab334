"""Each check on a machine made of a folder, recorded answers and a dict: what it says, and what it says to do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.accelerators.ascend import checks_cann, checks_cards, checks_hccl, discover
from launcher.accelerators.ascend.visible import VISIBLE
from launcher.checks import Context, Finding
from launcher.clusters import checks
from launcher.clusters.slurm import checks as slurm_checks
from launcher.diagnose.doctor import compare, host, model
from launcher.diagnose.doctor import run as doctor_run
from launcher.diagnose.doctor.run import exit_code, run_checks, worst
from launcher.diagnose.doctor.versions import (
    PAIR,
    check_autoload,
    check_fsdp2,
    check_packages,
    check_python,
    check_torch_pair,
    check_trackers,
    check_transformers,
    cuda_of,
)
from launcher.errors import LaunchError
from launcher.machine.cluster import Device, Found, Process
from launcher.text import GIB

CAPTURES = Path(__file__).parents[2].parent / "shared" / "facts" / "npu-smi"
FIXTURES = Path(__file__).parent / "fixtures" / "npu_smi"


STACK = {
    "torch": "2.12.0+cpu",
    "transformers": "5.23.0",
    "accelerate": "1.15.0",
    "deepspeed": "0.19.8",
    "datasets": "5.2.0",
    "evaluate": "0.4.6",
    "scikit-learn": "1.9.1",
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def cards(count: int = 8, **values: Any) -> Found:
    devices = tuple(
        Device(
            index=i,
            name="910B3",
            hbm_bytes=64 * GIB,
            hbm_used_bytes=3 * GIB,
            health="OK",
            physical_id=i,
            npu_id=i,
            chip_id=0,
        )
        for i in range(count)
    )
    return Found(tuple(replace(d, **values) for d in devices), "25.0", "npu-smi info", has_process_table=True)


@pytest.fixture
def machine(tmp_path: Path) -> Context:
    """A healthy node of eight 910B3 with CANN sourced."""
    write(tmp_path, {f"/dev/davinci{i}": "" for i in range(8)})
    write(tmp_path, {f"/dev/{n}": "" for n in ("davinci_manager", "devmm_svm", "hisi_hdc", "shm/x")})
    write(
        tmp_path,
        {
            "/usr/local/Ascend/driver/version.info": "Version=25.0\nascendhal_version=7\n",
            "/cann/version.cfg": "runtime_running_version=[9.9.9:9.1.0]\n",
            "/cann/runtime/x": "",
            "/cann/compiler/x": "",
            "/cann/opp/x": "",
            "/proc/net/tcp": "  sl  local_address rem_address   st\n",
            "/proc/meminfo": "MemTotal: 2000000000 kB\nMemAvailable: 1000000000 kB\n",
            "/proc/self/limits": "Max open files            65536                65536                files\n",
            "/proc/sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
            "/proc/sys/net/ipv4/ip_local_reserved_ports": "60000-60031\n",
            "/sys/class/net/eth0/x": "",
            "/sys/class/net/lo/x": "",
        },
    )
    return Context(
        env={"ASCEND_HOME_PATH": "/cann", "ASCEND_OPP_PATH": "/cann/opp", "HOME": "/home/u"},
        device="npu",
        found=cards(),
        versions={**STACK, "torch-npu": "2.12.0"},
        python=(3, 11),
        root=tmp_path,
        nproc=8,
    )


def with_env(ctx: Context, **values: str) -> Context:
    return replace(ctx, env={**ctx.env, **values})


def test_a_healthy_machine_has_nothing_to_change(machine: Context):
    findings = run_checks(machine, only_cheap=True)
    assert [f for f in findings if f.ok in ("warn", "fail") and f.name != "shared memory"] == []
    assert exit_code([f for f in findings if f.name != "shared memory"]) == 0


def said(finding: Finding, ok: str, what: str, fix: str = "") -> None:
    assert finding.ok == ok, finding
    assert what in finding.what, finding
    assert fix in finding.fix, finding


@pytest.mark.parametrize(
    ("torch", "torch_npu", "ok", "what", "fix"),
    [
        ("2.12.0+cpu", "2.12.0", "ok", "2.12.0", ""),
        ("2.12.0+cpu", "2.12.0.post2", "ok", "post2", ""),
        ("2.13.0", "2.12.0", "fail", "torch 2.13.0 with torch_npu 2.12.0", "torch==2.12.0"),
        (
            "2.13.0+cu126",
            "2.13.0",
            "fail",
            "CUDA",
            "--force-reinstall --no-deps torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu",
        ),
        ("2.12.0", None, "fail", "torch_npu is not installed", "torch-npu==2.12.0"),
        (None, "2.12.0", "fail", "torch is not installed", "pip install"),
    ],
)
def test_torch_and_torch_npu_must_be_one_pair(
    machine: Context, torch: str | None, torch_npu: str | None, ok: str, what: str, fix: str
):
    pair = {"torch": torch, "torch-npu": torch_npu}
    ctx = replace(machine, versions={k: v for k, v in pair.items() if v})
    said(check_torch_pair(ctx), ok, what, fix)


@pytest.mark.parametrize(
    ("torch_npu", "cann", "ok", "what"),
    [
        ("2.12.0", "9.1.0", "ok", "suits"),
        ("2.9.0", "8.5.0", "ok", "suits"),
        ("2.6.0", "8.2.RC1", "ok", "suits"),
        ("2.8.0", "8.3.RC2", "ok", "suits"),
        ("2.9.0", "8.5.1", "ok", "suits"),
        ("2.6.0", "8.2.RC2", "ok", "suits"),
        ("2.10.0", "9.1.0", "ok", "suits"),
        ("2.9.0", "9.1.0", "ok", "suits"),
        ("2.10.0", "8.5.0", "ok", "suits"),
        ("2.13.0", "9.1.0", "ok", "suits"),
        ("2.14.0", "9.2.0", "ok", "suits"),
        ("2.14.0", "9.3.0", "ok", "suits"),
        ("2.8.0", "8.5.0", "warn", "made for CANN 8.3.RC1"),
        ("2.7.1", "9.0.0", "warn", "made for CANN 8.3.RC1"),
        ("2.15.0", "9.2.0", "warn", "in no table"),
        ("2.9.1", "8.5.1", "warn", "in no table"),
        ("2.9.0", "8.3.RC2", "fail", "made for CANN 8.5.0"),
        ("2.8.0", "8.1.RC1", "fail", "made for CANN 8.3.RC1"),
    ],
)
def test_cann_is_judged_by_the_published_table(machine: Context, torch_npu: str, cann: str, ok: str, what: str):
    """Only a CANN that is too old is an error: a later patch suits, a newer one is at most a warning, what is in no table is
    unknown."""
    write(machine.root, {"/cann/version.cfg": f"x=[7.7.0:{cann}]\n"})
    said(checks_cann.check_cann(replace(machine, versions={"torch-npu": torch_npu})), ok, what)


def test_a_newer_cann_names_the_build_that_was_made_for_it(machine: Context):
    write(machine.root, {"/cann/version.cfg": "x=[7.7.0:9.0.0]\n"})
    said(
        checks_cann.check_cann(replace(machine, versions={"torch-npu": "2.7.1"})),
        "warn",
        "8.3.RC1",
        "torch-npu==2.7.1.post4",
    )


@pytest.mark.parametrize(
    ("version_py", "has_library", "cuda"),
    [
        ("__version__ = '2.13.0+cu130'\ncuda = '13.0'\n", True, "13.0"),
        ("__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n", True, "13.0"),
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n", False, ""),
        ("cuda: Optional[str] = None\n", True, ""),
        ("__version__ = '2.13.0'\n", True, "of an unknown release"),
        ("", False, ""),
    ],
)
def test_a_cuda_build_is_told_by_its_files(tmp_path: Path, version_py: str, has_library: bool, cuda: str):
    """PyPI's wheels are CUDA builds, and their metadata says 2.13.0 like a CPU build's."""
    write(tmp_path, {"version.py": version_py, **({"lib/libtorch_cuda.so": ""} if has_library else {})})

    assert cuda == cuda_of(tmp_path)
    assert "" == cuda_of(None)


@pytest.mark.parametrize(
    ("release", "post", "ok"),
    [
        ("2.14.0", "", "fail"),
        ("2.13.0", "", "fail"),
        ("2.12.0", ".post3", "fail"),
        ("2.12.0", ".post2", "warn"),
        ("2.10.0", ".post7", "fail"),
        ("2.10.0", "", "warn"),
        ("2.9.0", ".post9", "warn"),
    ],
)
def test_a_cuda_torch_beside_torch_npu_is_named(machine: Context, release: str, post: str, ok: str):
    """Late releases of torch_npu abort in one; the others load."""
    ctx = replace(machine, versions={"torch": release, "torch-npu": release + post}, cuda="13.0")
    said(check_torch_pair(ctx), ok, f"torch {release} is a CUDA build (CUDA 13.0)", "whl/cpu")
    said(check_torch_pair(replace(ctx, device="cpu")), "ok", release)


RECIPE_NEEDS = tuple(STACK)


@pytest.mark.parametrize(
    ("changed", "what", "fix"),
    [
        ({"transformers": "5.0.0"}, "transformers 5.0.0 is not >=5.", "pip install 'transformers>=5."),
        ({"transformers": "4.57.6"}, "transformers 4.57.6 is not", "'transformers>=5."),
        ({"transformers": "6.0.0"}, "transformers 6.0.0 is not", ",<6'"),
        ({"accelerate": "1.6.0"}, "accelerate 1.6.0 is not", "pip install 'accelerate>="),
        ({"deepspeed": "0.15.4"}, "deepspeed 0.15.4 is not", "pip install 'deepspeed>="),
        ({"datasets": None}, "datasets not installed", "pip install 'ascend-launch[train]'"),
        (
            {"datasets": None, "accelerate": "1.6.0"},
            "datasets not installed; accelerate 1.6.0",
            "'ascend-launch[train]' 'accelerate",
        ),
    ],
)
def test_what_the_job_imports_is_checked_with_the_pip_line(
    machine: Context, changed: dict[str, Any], what: str, fix: str
):
    """An error where a job needs it, a warning where none was named."""
    versions = {k: v for k, v in {**machine.versions, **changed}.items() if v}
    ctx = replace(machine, versions=versions, needs=RECIPE_NEEDS)
    said(check_packages(ctx), "fail", what, fix)
    said(check_packages(replace(ctx, needs=None)), "warn", what, fix)


def test_a_node_without_torch_is_told_both_lines(machine: Context):
    """A pair that belongs together; the CPU build where a torch_npu is there already."""
    said(
        check_torch_pair(replace(machine, versions={})),
        "fail",
        "torch is not installed",
        f"pip install torch=={PAIR} --index-url https://download.pytorch.org/whl/cpu, then pip install 'ascend-launch[npu]'",
    )
    said(
        check_torch_pair(replace(machine, versions={"torch-npu": "2.9.0.post2"})),
        "fail",
        "",
        "torch==2.9.0 --index",
    )
    said(
        check_torch_pair(replace(machine, device="cpu", versions={})),
        "warn",
        "",
        "pip install 'torch>=2.6' --index-url",
    )
    said(check_torch_pair(replace(machine, device="cpu", versions={}, needs=RECIPE_NEEDS)), "fail", "")


def test_a_torch_that_is_too_old_is_replaced_with_its_torch_npu(machine: Context):
    """A recipe is refused; without one it is a warning, since a program may run on it."""
    old = replace(machine, versions={"torch": "2.1.0", "torch-npu": "2.1.0.post17"})
    said(
        check_torch_pair(replace(old, needs=RECIPE_NEEDS)),
        "fail",
        "torch 2.1.0 is not >=2.6",
        "then pip install 'ascend-launch[npu]'",
    )
    said(check_torch_pair(old), "warn", "torch 2.1.0", f"torch=={PAIR} --index-url")


def test_an_adapter_needs_its_own_extra(machine: Context):
    without = replace(machine, needs=(*RECIPE_NEEDS, "peft"))
    said(check_packages(without), "fail", "peft not installed", "pip install 'ascend-launch[lora]'")
    said(check_packages(machine), "ok", "transformers 5.23.0")


@pytest.mark.parametrize(
    ("torch", "changed", "ok"),
    [
        ("2.8.0", {}, "fail"),
        ("2.7.1+cpu", {}, "fail"),
        ("2.9.0", {}, "ok"),
        ("2.8.0", {"nproc": 1}, "skip"),
        ("2.8.0", {"strategy": "ddp"}, "skip"),
        ("2.8.0", {"device": "npu"}, "skip"),
    ],
)
def test_fsdp2_needs_a_gloo_that_averages(machine: Context, torch: str, changed: dict[str, Any], ok: str):
    ctx = replace(machine, device="cpu", nproc=2, strategy="fsdp2", versions={"torch": torch})
    said(check_fsdp2(replace(ctx, **changed)), ok, "")


def test_cann_is_found_in_every_layout(machine: Context):
    (machine.root / "cann/version.cfg").unlink()
    assert checks_cann.cann_version(machine) is None
    said(checks_cann.check_cann(machine), "warn", "is unknown", "set_env.sh")
    write(machine.root, {"/cann/share/info/runtime/version.info": "Version=9.0.0\n"})
    assert checks_cann.cann_version(machine) == "9.0.0"
    write(machine.root, {"/cann/aarch64-linux/ascend_toolkit_install.info": "package_name=x\nversion=8.5.0\n"})
    assert checks_cann.cann_version(machine) == "8.5.0"


def test_python_and_transformers_have_floors(machine: Context):
    said(check_python(replace(machine, python=(3, 9))), "fail", "3.9", "3.10 to 3.14")
    old = replace(machine, versions={"transformers": "5.23.0", "torch-npu": "2.2.0"})
    said(check_transformers(old), "fail", "2.2.0", "2.5.1")


def test_torch_npu_without_cann_is_no_reason_to_refuse_cpu_ranks(machine: Context):
    """A launch keeps torch from loading it, unless the user's own variable says otherwise."""
    ctx = replace(machine, device="cpu", env={})
    said(check_autoload(ctx), "ok", "does without it")
    said(check_autoload(with_env(ctx, TORCH_DEVICE_BACKEND_AUTOLOAD="1")), "fail", "no CANN", "unset")
    said(check_autoload(with_env(ctx, TORCH_DEVICE_BACKEND_AUTOLOAD="0")), "ok", "does without it")


def test_a_shell_without_cann_is_told_which_script_to_source(machine: Context):
    said(
        checks_cann.check_set_env(replace(machine, env={})),
        "fail",
        "ASCEND_HOME_PATH and ASCEND_OPP_PATH",
        "set_env.sh",
    )
    said(
        checks_cann.check_set_env(with_env(machine, ASCEND_HOME_PATH="/gone")),
        "fail",
        "/gone does not exist",
        "set_env.sh",
    )
    said(checks_cann.check_set_env(with_env(machine, ASCEND_TOOLKIT_HOME="/other")), "warn", "two CANNs", "fresh shell")


def test_a_container_without_devices_is_told_to_pass_them(machine: Context):
    write(machine.root, {"/.dockerenv": ""})
    (machine.root / "dev/hisi_hdc").unlink()
    said(checks_cann.check_driver(machine), "fail", "hisi_hdc", "when the container is made")
    for node in (machine.root / "dev").glob("davinci[0-9]"):
        node.unlink()
    said(checks_cann.check_driver(machine), "fail", "no /dev/davinci", "pass the devices")


def test_npu_smis_failure_is_passed_on(machine: Context):
    broken = replace(machine, found=Found((), problem=LaunchError("npu-smi cannot reach the driver", hint="mount it")))
    said(checks_cann.check_npu_smi(broken), "fail", "cannot reach", "mount it")
    absent = replace(machine, found=Found((), problem=LaunchError("npu-smi is not on PATH", hint="add it")))
    said(checks_cann.check_npu_smi(absent), "warn", "not on PATH")


def test_a_sick_card_is_left_out_by_name(machine: Context):
    devices = cards(4).devices
    sick = Found((devices[0], replace(devices[1], health="Critical"), *devices[2:]), has_process_table=True)
    said(checks_cards.check_health(replace(machine, found=sick)), "fail", "card 1 is in state Critical", "=0,2,3")
    hidden = replace(machine, found=sick, env={VISIBLE: "0,2,3"})
    said(checks_cards.check_health(hidden), "ok", "3 cards OK")


def test_leftover_processes_are_named(machine: Context):
    busy = cards(processes=(Process(4242, "python", 20 * GIB),))
    said(
        checks_cards.check_busy(replace(machine, found=busy)),
        "fail",
        "process 4242 (python) with 20.0 GiB",
        "kill 4242",
    )
    ghost = cards(hbm_used_bytes=50 * GIB)
    said(checks_cards.check_busy(replace(machine, found=ghost)), "warn", "by nobody that is listed", "host")
    said(checks_cards.check_hbm(replace(machine, found=ghost)), "warn", "14.0 GiB free")


def test_visible_devices_and_ranks_are_compared(machine: Context):
    said(checks_cards.check_visible(with_env(machine, **{VISIBLE: "3,1"})), "fail", "ascending", "=1,3")
    said(
        checks_cards.check_count(replace(with_env(machine, **{VISIBLE: "0,1"}), nproc=4)),
        "fail",
        "4 ranks",
        "--nproc 2",
    )
    said(checks_cards.check_count(machine), "ok", "8 ranks on 8 cards")


def test_bf16_is_refused_where_the_chip_has_none(machine: Context):
    old = replace(machine, found=cards(name="910A"), precision="bf16")
    said(checks_cards.check_bf16(old), "fail", "910A", "fp16")
    said(checks_cards.check_bf16(replace(old, precision="auto")), "ok", "takes fp16")
    said(checks_cards.check_chip(replace(machine, found=cards(name="310P3"))), "fail", "inference")


@pytest.mark.parametrize(
    ("variable", "value", "ok"),
    [
        ("HCCL_RDMA_SL", "1000", "fail"),
        ("HCCL_RDMA_SL", "4", "ok"),
        ("HCCL_CONNECT_TIMEOUT", "60", "fail"),
        ("HCCL_CONNECT_TIMEOUT", "1200s", "fail"),
        ("HCCL_CONNECT_TIMEOUT", "3600", "warn"),
        ("HCCL_IF_BASE_PORT", "65521", "fail"),
        ("HCCL_SOCKET_FAMILY", "IPv4", "fail"),
        ("TASK_QUEUE_ENABLE", "2", "ok"),
        ("HCCL_BUFFSIZE", "9" * 5000, "fail"),
    ],
)
def test_hccl_variables_are_held_to_their_ranges(machine: Context, variable: str, value: str, ok: str):
    """A connect timeout at or above the execution timeout is a warning."""
    assert checks_hccl.check_hccl_ranges(with_env(machine, **{variable: value})).ok == ok


def test_allocator_settings_that_raise_are_found(machine: Context):
    both = with_env(machine, PYTORCH_NPU_ALLOC_CONF="a", PYTORCH_ALLOC_CONF="b")
    said(checks_hccl.check_allocator(both), "fail", "both set", "unset PYTORCH_ALLOC_CONF")
    mixed = with_env(machine, PYTORCH_NPU_ALLOC_CONF="expandable_segments:True,max_split_size_mb:64")
    said(checks_hccl.check_allocator(mixed), "fail", "mixes", "alone")


def test_variables_of_other_stacks_are_pointed_out(machine: Context):
    said(checks_hccl.check_no_effect(with_env(machine, NPU_VISIBLE_DEVICES="0")), "warn", "does nothing", VISIBLE)
    said(checks_hccl.check_queue(with_env(machine, ASCEND_LAUNCH_BLOCKING="1")), "warn", "BLOCKING")


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        ("eth", ["eth0", "eth1"]),
        ("=eth0", ["eth0"]),
        ("^eth", ["lo"]),
        ("^=eth0", ["eth1", "lo"]),
        ("eth1,lo", ["eth1", "lo"]),
    ],
)
def test_interface_names_are_read_as_hccl_reads_them(value: str, chosen: list[str]):
    assert checks_hccl.ifname_matches(value, ["eth0", "eth1", "lo"]) == chosen


def test_an_interface_that_is_named_must_exist(machine: Context):
    said(checks_hccl.check_interface(with_env(machine, HCCL_SOCKET_IFNAME="enp3")), "fail", "eth0, lo", "HCCL_IF_IP")
    said(checks_hccl.check_interface(replace(machine, num_nodes=2)), "ok", "chosen when the nodes meet")


def test_taken_ports_are_found_without_opening_any(machine: Context):
    """Port 60000 is 0xEA60; state 0A listens, 01 is a connection."""
    line = "   0: 00000000:{:04X} 00000000:0000 {} 0 0\n"
    head = "  sl  local_address rem_address   st\n"
    write(
        machine.root,
        {"/proc/net/tcp": head + line.format(60007, "01"), "/proc/net/tcp6": head + line.format(60003, "0A")},
    )
    said(checks_hccl.check_hccl_ports(machine), "ok", "port 60003 is taken; a launch takes the next")
    said(
        checks_hccl.check_hccl_ports(with_env(machine, HCCL_IF_BASE_PORT="60000")),
        "fail",
        "port 60003",
        "unset HCCL_IF_BASE_PORT",
    )
    said(checks_hccl.check_hccl_ports(with_env(machine, HCCL_IF_BASE_PORT="50000")), "ok", "50000")
    taken = replace(machine, rdzv_endpoint="n0:60003")
    said(checks.check_rendezvous(taken), "fail", "60003", "another port")
    said(checks.check_rendezvous(replace(taken, is_first_node=False)), "ok", "n0")
    said(checks.check_rendezvous(replace(machine, rdzv_endpoint="n0")), "fail", "HOST:PORT")


def test_the_first_node_can_open_a_file_for_each_connection(machine: Context):
    """A soft limit is raised by the launcher; a hard one is not. The other nodes need one connection each."""
    write(
        machine.root,
        {"/proc/self/limits": "Max open files            8192                20000                files\n"},
    )
    many = replace(machine, num_nodes=2000, nproc=16)
    said(
        host.check_ulimit(many),
        "fail",
        "may open 20,000 (ulimit -Hn), and 2,000 nodes with 16 ranks each need 34,128",
        "LimitNOFILE",
    )
    said(host.check_ulimit(replace(many, is_first_node=False)), "ok", "8192")
    said(host.check_ulimit(replace(many, num_nodes=1000)), "ok", "8192")


def test_the_recognised_environment_is_said(machine: Context):
    said(checks.check_cluster(machine), "ok", "no environment recognised: one node")
    said(
        checks.check_cluster(replace(machine, num_nodes=2, recognised="Slurm: SLURM_JOB_ID=7")),
        "ok",
        "2 nodes; Slurm: SLURM_JOB_ID=7",
    )
    refused = LaunchError("a list that is cut off", hint="give --nnodes")
    said(checks.check_cluster(replace(machine, unreadable=refused)), "fail", "a list that is cut off", "give --nnodes")


@pytest.mark.parametrize(
    ("job", "ok", "what", "fix"),
    [
        ("OverSubscribe=OK TresPerNode=gres:npu:8", "ok", "job 7 has 8 a node", ""),
        ("OverSubscribe=OK TresPerNode=gres/npu:8", "ok", "job 7 has 8 a node", ""),
        (
            "OverSubscribe=OK TresPerNode=gres:npu:4",
            "fail",
            "4 cards a node, and 8 ranks",
            "--gres=npu:8, or --nproc 4",
        ),
        ("OverSubscribe=NO", "ok", "has its nodes to itself", ""),
        ("OverSubscribe=OK TresPerNode=gres:gpu:8", "warn", "no card by the name npu: gres:gpu:8", "--gres=npu:N"),
        ("OverSubscribe=OK", "warn", "no card by the name npu", "--exclusive"),
        (None, "skip", "scontrol does not say", ""),
    ],
)
def test_a_job_of_slurms_has_asked_for_its_cards(machine: Context, job: str | None, ok: str, what: str, fix: str):
    """By what `scontrol show job` says."""
    here = replace(with_env(machine, SLURM_JOB_ID="7"), recognised="Slurm: SLURM_JOB_ID=7")
    here = replace(here, run=lambda argv: (1, "") if job is None else (0, f"JobId={argv[-1]} {job} Command=x"))

    said(slurm_checks.check_slurm_cards(here), ok, what, fix)
    said(slurm_checks.check_slurm_cards(replace(here, recognised="")), "skip", "not a job of Slurm's")


def test_the_way_to_the_first_node_is_shown(machine: Context):
    """The address and the interface that a launch takes; a first node that is this one by its address is none."""
    first = replace(machine, rdzv_endpoint="127.0.0.1:29400", num_nodes=2)
    said(checks.check_way(first), "ok", "127.0.0.1, by lo")
    said(checks.check_way(replace(first, is_first_node=False)), "fail", "which is this node", "--rdzv-endpoint")
    said(checks.check_way(machine), "skip", "one node")


def test_the_doctor_reads_the_clusters_environment(ascend_launch: Any):
    """The variables of the step are said; a rank table and the page size are looked at as for its nodes."""
    step = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "0",
        "SLURM_NODEID": "0",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NODELIST": "192.0.2.[1-2]",
    }
    told = ascend_launch("doctor", "--device=cpu", "--json", **step)
    found = {f["name"]: f for f in json.loads(told.out)["findings"]}
    wrong = ascend_launch("doctor", "--device=cpu", "--json", **step | {"SLURM_STEP_NUM_NODES": "3"})
    refused = {f["name"]: f for f in json.loads(wrong.out)["findings"]}

    assert found["cluster"]["what"].startswith("2 nodes; Slurm: SLURM_JOB_ID=7, ")
    assert "192.0.2.1:" in found["rendezvous"]["what"]
    assert (2, "fail") == (wrong.code, refused["cluster"]["ok"])


def test_ports_that_outgoing_connections_may_take_are_to_be_reserved(machine: Context):
    write(machine.root, {"/proc/sys/net/ipv4/ip_local_reserved_ports": "\n"})
    said(checks_hccl.check_reserved_ports(machine), "warn", "32768 to 60999", "60000-60031")


def test_tls_must_be_equal_on_all_cards(machine: Context):
    def run(argv: Any) -> tuple[int, str]:
        return 0, f"dev_id:{argv[2]}, tls switch[{1 if argv[2] != '3' else 0}](0:disable, 1:enable)"

    said(checks_cards.check_tls(replace(machine, run=run)), "fail", "off on cards 3", "enable 0")
    said(checks_cards.check_tls(machine), "skip", "does not say")


ONE_SERVER = {
    "status": "completed",
    "version": "1.0",
    "server_count": "1",
    "server_list": [{"server_id": "a", "device": [{"device_id": "0", "rank_id": "0"}]}],
}


def test_an_inherited_rank_table_is_said_and_stops_nothing(machine: Context):
    """A launch unsets it; its faults are for those who start ranks otherwise."""
    write(machine.root, {"/t.json": "{", "/good.json": json.dumps(ONE_SERVER)})
    (machine.root / "link.json").symlink_to(machine.root / "good.json")
    for path, what in (("t", "not JSON"), ("gone", "does not exist"), ("link", "is a link"), ("good", "is inherited")):
        said(
            checks_hccl.check_rank_table(with_env(machine, RANK_TABLE_FILE=f"/{path}.json")),
            "warn",
            what,
            "--rank-table",
        )
    said(checks_hccl.check_rank_table(machine), "ok", "not set")


def test_space_and_memory_are_weighed_against_the_job(machine: Context, tmp_path: Path):
    full = replace(machine, output_dir=tmp_path / "not" / "yet" / "there", checkpoint_bytes=10**18)
    said(host.check_disk(full), "fail", "three checkpoints", "output_dir")
    said(host.check_disk(replace(full, checkpoint_bytes=1)), "ok", "free at")
    said(host.check_host_memory(replace(machine, host_bytes=10**15)), "fail", "the ranks need", "offload")
    write(machine.root, {"/sys/fs/cgroup/memory.max": f"{8 * GIB}\n", "/sys/fs/cgroup/memory.current": f"{2 * GIB}\n"})
    assert host.memory_limit_bytes(machine) == 6 * GIB


def test_offload_needs_a_compiler(machine: Context, tmp_path: Path):
    ctx = replace(with_env(machine, PATH=str(tmp_path / "nothing")), strategy="zero3-offload")
    said(host.check_compiler(ctx), "fail", "g++ and ninja", "without offload")
    said(host.check_compiler(replace(ctx, strategy="zero3")), "skip", "only CPU offload")


def test_a_gated_model_needs_a_token_which_is_never_shown(machine: Context):
    llama = replace(machine, model_name="meta-llama/Meta-Llama-3-8B-Instruct")
    said(model.check_token(llama), "fail", "gated", "hf auth login")
    secret = with_env(llama, HF_TOKEN="hf_" + "x" * 30)
    said(model.check_token(secret), "ok", "from HF_TOKEN")
    everything = json.dumps([f.to_json() for f in run_checks(secret, only_cheap=True)])
    assert "hf_x" not in everything
    said(model.check_token(replace(machine, model_name="HuggingFaceTB/SmolLM2-135M")), "skip", "not needed")


def test_a_model_is_a_folder_a_cached_id_or_a_download(machine: Context, tmp_path: Path):
    cache = tmp_path / "hf" / "models--org--small" / "snapshots" / "abc"
    write(cache, {"config.json": "{}"})
    here = with_env(machine, HF_HUB_CACHE=str(tmp_path / "hf"))
    said(model.check_model(replace(here, model_name="org/small")), "ok", "in the cache")
    offline = with_env(here, HF_HUB_OFFLINE="1")
    said(model.check_model(replace(offline, model_name="org/other")), "fail", "HF_HUB_OFFLINE", "hf download org/other")
    said(model.check_model(replace(here, model_name="/no/such/folder")), "fail", "no such folder")


def test_nodes_are_compared_and_the_odd_one_named(machine: Context):
    same = compare.node_facts(machine)
    other = compare.node_facts(with_env(machine, HCCL_BUFFSIZE="400", HCCL_SOCKET_IFNAME="x"))
    assert [f.ok for f in compare.compare_nodes({"a": same, "b": same, "c": same})] == ["ok"]
    found = compare.compare_nodes({"a": same, "b": same, "c": json.loads(json.dumps(other))})
    assert [(f.name, f.ok) for f in found] == [("nodes: HCCL_BUFFSIZE", "fail")]
    assert "c 400" in found[0].what


def test_the_worst_finding_decides_the_exit_code():
    findings = [Finding("a", "ok", ""), Finding("b", "warn", ""), Finding("c", "skip", "")]
    assert (worst(findings), exit_code(findings)) == ("warn", 0)
    assert exit_code([*findings, Finding("d", "fail", "")]) == 2
    assert worst([]) == "ok"


def test_a_check_that_breaks_is_a_finding(machine: Context, monkeypatch: pytest.MonkeyPatch):
    def check_moon(ctx: Context) -> Finding:
        raise RuntimeError("full")

    monkeypatch.setattr(doctor_run, "HOST_CHECKS", (check_moon,))
    found = doctor_run.run_checks(replace(machine, device="cpu"), only_cheap=True)
    assert [(f.name, f.ok) for f in found] == [("moon", "warn")]


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="no real captures beside the repo")
@pytest.mark.parametrize("capture", sorted(CAPTURES.glob("*.txt")), ids=lambda p: p.name[:2])
def test_every_real_capture_is_judged_without_breaking(machine: Context, capture: Path):
    """npu-smi answers with the capture, whatever it holds; the edge chip in Alarm and the busy cards are found."""
    found = discover.look(lambda argv: (0, capture.read_text()), {}, machine.path("/dev"))
    findings = {f.name: f for f in doctor_run.run_checks(replace(machine, found=found, nproc=None), only_cheap=True)}
    assert not [f for f in findings.values() if "this check failed" in f.what]
    expected = {"02": "fail", "04": "fail", "07": "fail", "20": "warn", "01": "ok", "08": "ok"}
    if capture.name[:2] in expected:
        assert findings["busy cards"].ok == expected[capture.name[:2]]
    assert (findings["health"].ok == "fail") == (capture.name[:2] == "06")


def test_cheap_checks_are_cheap_and_import_no_torch():
    """All of them, import of this module apart, in far less than 0.3 s."""
    code = (
        "import sys, time\nfrom launcher.diagnose.doctor import run as doctor\nfrom launcher.machine.cluster import Found\n"
        "ctx = doctor.context('npu', found=Found(()))\nt = time.process_time()\n"
        "doctor.run_checks(ctx, only_cheap=True)\nprint(time.process_time() - t, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, has_torch = done.stdout.split()
    assert float(seconds) < 0.3
    assert has_torch == "False"


def test_findings_are_json(machine: Context):
    started = time.process_time()
    assert json.dumps([f.to_json() for f in doctor_run.run_checks(machine, only_cheap=True)])
    assert time.process_time() - started < 0.3


def test_a_tracker_that_is_not_installed_is_named_before_the_launch():
    """Each rank would end on it; names that are not known here are passed through."""
    context = doctor_run.context("cpu", env={}, report_to=("tensorboard", "mlflow", "somebody_elses"))
    there = replace(context, versions={"tensorboardX": "2", "mlflow-skinny": "3"})
    missing = replace(context, versions={"tensorboard": "2"})

    assert "ok" == check_trackers(there).ok
    assert ("fail", True) == (
        check_trackers(missing).ok,
        "pip install mlflow" in check_trackers(missing).fix,
    )
