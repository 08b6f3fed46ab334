"""Cards, memory, visible lists, command stand-ins, and the conditions a doctor looks for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import PROGRAMS, Machine, last_json

from launcher.accelerators.ascend import npu_smi

SEEN = """
import json, torch
n = torch.npu.device_count()
print(json.dumps({"count": n, "name": torch.npu.get_device_name(0), "bf16": torch.npu.is_bf16_supported(),
                  "memory": torch.npu.mem_get_info(0), "cann": torch.version.cann}))
"""


@pytest.mark.parametrize(
    ("soc", "name", "bf16", "gb"),
    [("910B3", "Ascend910B3", True, 61), ("910A", "Ascend910A", False, 30), ("910_9392", "Ascend910_9392", True, 61)],
)
def test_the_machine_is_what_its_settings_say(machine: Machine, soc: str, name: str, bf16: bool, gb: int) -> None:
    """Count, name, precision, memory and CANN version come from the environment, through torch_npu."""
    seen = last_json(machine.python(SEEN, EMULATED_SOC=soc, EMULATED_NPUS="5", EMULATED_CANN_VERSION="8.5.0").text)
    assert {"count": 5, "name": name, "bf16": bf16, "cann": "8.5.0"} == {
        k: seen[k] for k in ("count", "name", "bf16", "cann")
    }
    assert gb == seen["memory"][1] >> 30


def test_visible_lists_follow_cann(machine: Machine) -> None:
    """Ascending ids without spaces; a bad id cuts the list; an unsorted list hides every card and says why."""
    code = """
import os, subprocess, sys
for value in ("", "0", "1,3", "0,1,2,3,4,5,6,7", "1, 2,3", "1,3,8", "9", "2,1", "1,1", "x"):
    os.environ["ASCEND_RT_VISIBLE_DEVICES"] = value
    import ctypes
    n = ctypes.c_uint32()
    lib = ctypes.CDLL("libascendcl.so")
    lib.aclGetRecentErrMsg.restype = ctypes.c_char_p
    code = lib.aclrtGetDeviceCount(ctypes.byref(n))
    print(f"<{value}> {n.value} {code} {(lib.aclGetRecentErrMsg() or b'').decode()}")
"""
    text = machine.python(code).text
    found = {m[1]: (int(m[2]), int(m[3])) for m in re.finditer(r"<(.*?)> (\d+) (\d+)", text)}
    assert found == {
        "": (0, 0),
        "0": (1, 0),
        "1,3": (2, 0),
        "0,1,2,3,4,5,6,7": (8, 0),
        "1, 2,3": (1, 0),
        "1,3,8": (2, 0),
        "9": (0, 0),
        "2,1": (0, 207004),
        "1,1": (0, 207004),
        "x": (0, 0),
    }
    assert (
        "(EE1001)" in text and "ASCEND_RT_VISIBLE_DEVICES:2,1 error, it must be configured in ascending order" in text
    )


def test_a_visible_list_renumbers_cards(machine: Machine) -> None:
    """Logical card 1 of `2,5` is physical card 5, and there is no card 2."""
    code = "import torch; torch.npu.set_device(1); x = torch.ones(2**20, device='npu:1'); import subprocess; print(subprocess.run(['npu-smi', 'info'], capture_output=True, text=True).stdout); torch.npu.set_device(2)"
    ran = machine.python(code, ASCEND_RT_VISIBLE_DEVICES="2,5")
    assert [d.index for d in npu_smi.parse_info(ran.text).devices if d.processes] == [5]
    assert "error code is 107001" in ran.text and "Expected value: [0, 2)." in ran.text


def test_out_of_memory_is_torch_npus_own(machine: Machine) -> None:
    """A card refuses what is over its budget; another card still has room."""
    code = "import torch; a = torch.empty(100 << 20, dtype=torch.uint8, device='npu:1'); b = torch.empty(300 << 20, dtype=torch.uint8, device='npu:0')"
    ran = machine.python(code, EMULATED_HBM_GB="0.25")
    assert re.search(
        r"NPU out of memory\. Tried to allocate 30\d\.00 MiB \(NPU 0; 256\.00 MiB total capacity", ran.text
    ), ran.text


@pytest.mark.parametrize("allocator", ["expandable_segments:False", "expandable_segments:True"])
def test_a_budget_is_shared_by_processes(machine: Machine, allocator: str) -> None:
    """What one process holds, another cannot have, and it is free again when the first has ended, killed or not."""
    code = """
import os, torch
r, w = os.pipe()
child = os.fork()
if not child:
    x = torch.ones(150 << 20, dtype=torch.uint8, device="npu:0")
    os.write(w, b"x")
    import time; time.sleep(60)
os.read(r, 1)
try:
    torch.ones(150 << 20, dtype=torch.uint8, device="npu:0")
    print("both fit")
except RuntimeError as error:
    print(error)
os.kill(child, 9); os.waitpid(child, 0)
print("then", torch.ones(150 << 20, dtype=torch.uint8, device="npu:0").sum().item() == 150 << 20)
"""
    ran = machine.python(code, EMULATED_HBM_GB="0.25", PYTORCH_NPU_ALLOC_CONF=allocator)
    assert "out of memory" in ran.text and "then True" in ran.text and "both fit" not in ran.text, ran.text


def test_what_is_not_emulated_raises_with_its_name(machine: Machine) -> None:
    """Operators, ACL operators and runtime calls: none silently succeeds."""
    code = """
import ctypes, os, torch
x = torch.ones(4, 4, device="npu")
for call in (lambda: torch.ops.npu.npu_quantize(x, torch.ones(4, device="npu"), None, torch.qint8, 1), lambda: torch.ops.npu.npu_format_cast(x, 29),
             lambda: x + torch.ones(4, 4), lambda: x + torch.ones(4, 4, device="npu:1")):
    try:
        call()
        print("silent")
    except (RuntimeError, NotImplementedError) as error:
        print(str(error).splitlines()[0])
if not os.fork():
    ctypes.CDLL("libascendcl.so").aclmdlInitDump()
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    text = machine.python(code).text
    for said in (
        "npu::npu_quantize is not emulated",
        "npu_format_cast to format 29 is not emulated",
        "found at least two devices, npu:0 and cpu",
        "found at least two devices, npu:0 and npu:1",
        "aclmdlInitDump is not emulated",
        "\n-6",
    ):
        assert said in text, text
    assert "silent" not in text


def test_the_first_910_refuses_bf16(machine: Machine) -> None:
    """910A computes in fp16 and fp32 only."""
    code = "import torch; x = torch.ones(2, 2, device='npu'); print((x.half() @ x.half()).dtype); x.to(torch.bfloat16) @ x.to(torch.bfloat16)"
    text = machine.python(code, EMULATED_SOC="910A").text
    assert "torch.float16" in text and "not implemented for DT_BFLOAT16" in text


@pytest.mark.parametrize(("soc", "name"), [("910B3", "910B3"), ("910A", "910A"), ("910_9392", "Ascend910")])
def test_npu_smi_prints_what_the_launcher_reads(machine: Machine, soc: str, name: str) -> None:
    """Version, cards, health, memory and processes, through the launcher's own parser."""
    ran = machine(
        "npu-smi",
        "info",
        EMULATED_SOC=soc,
        EMULATED_NPUS="4",
        EMULATED_DRIVER_VERSION="24.1.0",
        EMULATED_FAULTS="busy:1=8000,unhealthy:2,warning:3",
    )
    info = npu_smi.parse_info(ran.text)
    assert info.driver_version == "24.1.0" and info.has_process_table
    assert [name] * 4 == [d.name for d in info.devices]
    assert [d.health for d in info.devices] == ["OK", "OK", "Alarm", "Warning"]
    assert [d.index for d in info.devices if d.processes] == [1]
    assert info.devices[1].hbm_used_bytes - info.devices[0].hbm_used_bytes == 8000 << 20


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("npu-smi", "info", "-l"), r"Total Count +: 8"),
        (("npu-smi", "info", "-m"), r"Chip Logic ID"),
        (("npu-smi", "info", "-t", "topo"), r"NPU7 +HCCS"),
        (("npu-smi", "info", "-t", "health", "-i", "3", "-c", "0"), r"Health Status +: OK"),
        (("npu-smi", "info", "-t", "board", "-i", "0"), r"Software Version +: 25"),
        (("npu-smi", "info", "-t", "usages", "-i", "0"), r"HBM Capacity\(MB\) +: 65536"),
        (("npu-smi", "info", "-t", "health", "-i", "9"), r"Invalid card id\."),
        (("hccn_tool", "-i", "2", "-ip", "-g"), r"ipaddr:192\.0\.2\.12\nnetmask:255"),
        (("hccn_tool", "-i", "0", "-link", "-g"), r"link status: UP"),
        (("hccn_tool", "-i", "0", "-tls", "-g"), r"tls switch\[0\]"),
        (("hccn_tool", "-i", "0", "-ping", "-g", "address", "192.0.2.11"), r"3 received, 0\.00% packet loss"),
    ],
)
def test_the_other_commands(machine: Machine, argv: tuple[str, ...], said: str) -> None:
    """The items a launcher asks for, in the layouts of the captures."""
    assert re.search(said, machine(*argv).text)


def test_a_missing_driver(machine: Machine) -> None:
    """npu-smi fails as without a driver, and so does the runtime."""
    broken = machine.using(EMULATED_FAULTS="driver-missing")
    assert "dcmi module initialize failed. ret is -8005" in broken("npu-smi", "info").text
    assert "507899" in broken.python("import torch; torch.ones(1, device='npu')").text


@pytest.mark.parametrize("mode", ["unsourced", "missing"])
def test_cann_missing_or_not_sourced(machine: Machine, mode: str) -> None:
    """`import torch` fails as it does on hosts without CANN, and works with the backend left alone."""
    text = machine.python("import torch", EMULATED_CANN=mode).text
    assert (
        "libhccl.so: cannot open shared object file" in text
        and "Failed to load the backend extension: torch_npu" in text
    )
    assert (
        "fine"
        in machine.python("import torch; print('fine')", EMULATED_CANN=mode, TORCH_DEVICE_BACKEND_AUTOLOAD="0").text
    )


def test_set_env_makes_an_unsourced_machine_work(machine: Machine) -> None:
    """The toolkit's set_env.sh is there and does what it should."""
    ran = machine(
        "bash",
        "-c",
        'source "$EMULATED_SET_ENV" && python -c "import torch; print(\'cards\', torch.npu.device_count())"',
        EMULATED_CANN="unsourced",
    )
    assert "cards 8" in ran.text, ran.text


def test_set_env_sets_what_torch_npu_checks(machine: Machine) -> None:
    """Home, operator package, runtime and compiler folders, version file."""
    code = "import os; h = os.environ['ASCEND_HOME_PATH']; print([os.path.exists(p) for p in (h, os.environ['ASCEND_OPP_PATH'], h + '/runtime', h + '/compiler', h + '/x86_64-linux/ascend_toolkit_install.info')])"
    assert "[True, True, True, True, True]" in machine("python", "-c", code).text


def test_an_unhealthy_card_does_not_start(machine: Machine) -> None:
    """set_device fails with the runtime's code on that card only."""
    code = "import torch; torch.npu.set_device(1); print('one'); torch.npu.set_device(3)"
    ran = machine.python(code, EMULATED_FAULTS="unhealthy:3")
    assert "one" in ran.text and "error code is 507033" in ran.text


def test_a_card_without_memory(machine: Machine) -> None:
    """`oom:1`: card 1 is full, card 0 is not."""
    code = "import torch; torch.ones(1, device='npu:0'); print('zero'); torch.ones(1, device='npu:1')"
    ran = machine.python(code, EMULATED_FAULTS="oom:1")
    assert "zero" in ran.text and "NPU out of memory" in ran.text


SHORT = {"EMULATED_HCCL_CONNECT_TIMEOUT_S": "2", "EMULATED_HCCL_EXEC_TIMEOUT_S": "2"}


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (
            "rank-missing:1",
            ("hcclCommInitRootInfoConfig", "error code is 9", "(EI0015)", "Failed to connect agent[1,]"),
        ),
        (
            "rank-stuck:1",
            (
                "HcclAllreduce",
                "Communication_Error_Get_Socket(EI0006): Getting socket times out. Reason: Remote Rank did not send the data in time.",
            ),
        ),
        (
            "rank-stuck:1=2",
            (
                "error code is 507048",
                "(EI0002): The wait execution of the Notify register times out",
                "from remote rank: [1]",
            ),
        ),
        (
            "hccl-port-taken",
            (
                "hcclGetRootInfo",
                "error code is 7",
                "Communication_Error_Bind_IP_Port(EI0019)",
                "port 60000 have already been bound",
            ),
        ),
    ],
)
def test_a_rank_that_never_comes(machine: Machine, tmp_path: Path, faults: str, said: tuple[str, ...]) -> None:
    """Missing at init, at the first collective, in the middle; and a taken port: each ends as HCCL ends it, plog included."""
    ran = machine.program("late.py", EMULATED_FAULTS=faults, ASCEND_PROCESS_LOG_PATH=str(tmp_path / "plog"), **SHORT)
    for part in said:
        assert part in ran.text, ran.text
    logs = [p.read_text() for p in (tmp_path / "plog/debug/plog").glob("plog-*.log")]
    assert any(re.search(r"\(EI\d{4}\)", text) for text in logs)


def test_a_card_that_another_job_uses(machine: Machine) -> None:
    """Two processes with communicators on one card collide on its port, unless a port range is given."""
    code = """
import os, torch, torch.distributed as dist
def group(port):
    os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("hccl"); x = torch.ones(1, device="npu:0"); dist.all_reduce(x); return x.item()
r, w = os.pipe()
child = os.fork()
if not child:
    group(29731); os.write(w, b"x")
    import time; time.sleep(60)
os.read(r, 1)
try: print("value", group(29732))
except RuntimeError as error: print(error)
os.kill(child, 9); os.waitpid(child, 0); os._exit(0)
"""
    assert "(EI0020)" in machine.python(code).text
    assert "value 1.0" in machine.python(code, HCCL_NPU_SOCKET_PORT_RANGE="auto").text


def test_values_that_hccl_refuses(machine: Machine) -> None:
    """A timeout out of range is refused when the communicator is made."""
    ran = machine.program("late.py", HCCL_CONNECT_TIMEOUT="30")
    assert (
        "(EI0001): Value 30 for environment variable HCCL_CONNECT_TIMEOUT is invalid. Expected value : range[120, 7200]."
        in ran.text
    )


@pytest.mark.parametrize("ranks", [(0, 1), (1, 0)])
def test_rank_tables(machine: Machine, tmp_path: Path, ranks: tuple[int, int]) -> None:
    """A true table is used. One that puts ranks on other cards is refused in the plog, and torch_npu goes on without it."""
    devices = [
        {"device_id": str(card), "device_ip": f"192.0.2.{10 + card}", "rank_id": str(rank)}
        for card, rank in enumerate(ranks)
    ]
    table = {
        "status": "completed",
        "version": "1.0",
        "server_count": "1",
        "server_list": [{"server_id": "node_0", "device": devices}],
    }
    (tmp_path / "table.json").write_text(json.dumps(table))
    ran = machine.program(
        "late.py", RANK_TABLE_FILE=str(tmp_path / "table.json"), ASCEND_PROCESS_LOG_PATH=str(tmp_path)
    )
    assert "rank 0 is done" in ran.text, ran.text
    logs = [p.read_text() for p in (tmp_path / "debug/plog").glob("*.log")] if ranks == (1, 0) else ["(EI0004)"]
    assert logs and all("(EI0004)" in text for text in logs)


def test_launcher_knows_nothing_of_the_emulator() -> None:
    """The product has one path; the rig stands in for the machine, not for a part of the product."""
    for path in sorted((PROGRAMS.parents[2] / "launcher").rglob("*")):
        if path.suffix in (".py", ".yaml"):
            assert "emulat" not in path.read_text(encoding="utf-8").lower(), path
