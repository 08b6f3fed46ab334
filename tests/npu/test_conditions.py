"""`ascend-launch doctor` on machines with one thing wrong."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Machine


def findings(machine: Machine, **env: str) -> dict[str, str]:
    """Name of each check → ok, warn, fail or skip."""
    ran = machine.launch("doctor", "--device", "npu", "--json", **env)
    return {f["name"]: f["ok"] for f in json.loads(ran.text)["findings"]}


@pytest.fixture(scope="module")
def healthy(machine: Machine) -> dict[str, str]:
    return findings(machine, EMULATED_CANN_VERSION="9.1.0")


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        ("CANN environment", {"EMULATED_CANN": "unsourced"}),
        ("CANN environment", {"EMULATED_CANN": "missing"}),
        ("health", {"EMULATED_FAULTS": "unhealthy:3"}),
        ("busy cards", {"EMULATED_FAULTS": "busy:1=9000"}),
        ("free HBM", {"EMULATED_FAULTS": "oom:2"}),
        ("npu-smi", {"EMULATED_FAULTS": "driver-missing"}),
        ("ASCEND_RT_VISIBLE_DEVICES", {"ASCEND_RT_VISIBLE_DEVICES": "2,1"}),
        ("ASCEND_RT_VISIBLE_DEVICES", {"ASCEND_RT_VISIBLE_DEVICES": "1, 2"}),
        ("HCCL variables", {"HCCL_CONNECT_TIMEOUT": "30"}),
    ],
    ids=lambda v: v if isinstance(v, str) else ",".join(f"{k}={x}" for k, x in v.items()),
)
def test_doctor_sees_what_is_wrong(
    machine: Machine, healthy: dict[str, str], check: str, wrong: dict[str, str]
) -> None:
    """The check is content with the healthy machine, and not with this one."""
    assert healthy[check] == "ok"
    assert findings(machine, **wrong)[check] in ("warn", "fail")


def test_doctor_sees_the_cann_version(machine: Machine) -> None:
    """A CANN that the table does not pair with this torch_npu is remarked on."""
    assert findings(machine, EMULATED_CANN_VERSION="8.1.RC1")["CANN"] in ("warn", "fail")


def test_a_cpu_launch_works_where_torch_npu_is_installed_without_cann(machine: Machine, tmp_path: Path) -> None:
    """`import torch` fails there by itself; neither a doctor nor the ranks of a CPU launch meet that."""
    ran = machine.launch(
        "--device",
        "cpu",
        "recipes/tiny-cpu.yaml",
        "training.max_steps=1",
        "training.eval_strategy=no",
        f"output_dir={tmp_path}",
        bare=True,
    )

    assert ran.code == 0, ran.text
    assert list(tmp_path.glob("tiny-cpu/*/metrics.json"))


def test_doctor_sees_a_taken_hccl_port(machine: Machine, healthy: dict[str, str]) -> None:
    """Somebody listens on the first of HCCL's host ports: no fault, since a launch then takes others."""
    with closing(socket.socket()) as taken:
        try:
            taken.bind(("0.0.0.0", 60000))
        except OSError:
            pytest.skip("port 60000 is already taken on this host")
        taken.listen()
        assert findings(machine)["HCCL ports"] == "ok"
    assert healthy["HCCL ports"] == "ok"
