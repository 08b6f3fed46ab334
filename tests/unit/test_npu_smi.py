"""npu-smi text → devices, on every real capture at hand and on small fixtures of our own."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from launcher.accelerators.ascend import discover, npu_smi, npu_tools, visible
from launcher.accelerators.ascend.chips import chip
from launcher.accelerators.ascend.npu_tools import Health
from launcher.errors import LaunchError
from launcher.machine import commands
from launcher.machine.cluster import Process
from launcher.machine.commands import RC_MISSING, RC_TIMEOUT, Runner
from launcher.text import MIB

FIXTURES = Path(__file__).parent / "fixtures" / "npu_smi"
CAPTURES = Path(__file__).parents[2].parent / "shared" / "facts" / "npu-smi"
needs_captures = pytest.mark.skipif(not CAPTURES.is_dir(), reason="no real captures beside the repo")


def fixture(name: str) -> str:
    return (FIXTURES / name).read_text()


def capture(number: str) -> str:
    return next(CAPTURES.glob(f"{number}-*.txt")).read_text()


def test_logical_ids_count_the_cards_shown():
    """A container with cards 2, 5 and 7 has logical devices 0, 1 and 2; the NPU column is the physical id."""
    devices = npu_smi.parse_info(fixture("a2-three-cards.txt")).devices
    assert [(d.index, d.physical_id) for d in devices] == [(0, 2), (1, 5), (2, 7)]


def test_used_memory_is_read_when_glued_to_the_slash():
    devices = npu_smi.parse_info(fixture("a2-three-cards.txt")).devices
    assert [d.hbm_used_bytes // MIB for d in devices] == [3300, 61111, 3300]
    assert {65536 * MIB} == {d.hbm_bytes for d in devices}


def test_health_decides_whether_a_card_is_usable():
    """Warning is usable, Critical is not."""
    devices = npu_smi.parse_info(fixture("a2-three-cards.txt")).devices
    assert [(d.health, d.is_usable) for d in devices] == [("OK", True), ("Warning", True), ("Critical", False)]


def test_processes_belong_to_their_card_and_may_have_no_name():
    info = npu_smi.parse_info(fixture("a2-three-cards.txt"))
    assert (Process(1234, "python", 57000 * MIB), Process(1235, "", 800 * MIB)) == info.devices[1].processes
    assert info.devices[0].processes == ()
    assert info.warnings == ("[WARNING]The driver package may be incomplete (fixture).",)


def test_the_second_die_has_its_own_physical_id_and_processes():
    info = npu_smi.parse_info(fixture("a3-two-dies-wide.txt"))
    assert [(d.index, d.physical_id, d.npu_id, d.chip_id) for d in info.devices] == [(0, 6, 3, 0), (1, 7, 3, 1)]
    assert (Process(4321, "python3", 600 * MIB, container_pid=17),) == info.devices[1].processes
    assert info.driver_version == "26.9.rc1"


def test_no_table_is_an_error_that_says_what_to_do():
    with pytest.raises(LaunchError) as caught:
        npu_smi.parse_info("nonsense")
    assert "no table" in caught.value.what
    assert "--device cpu" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("dcmi module initialize failed. ret is -8005", "-8005", "/dev/davinci"),
        ("dcmi model initialized failed, because the device is used. ret is -8020", "-8020", "HwHiAiUser"),
        ("There is no NPU card on this server.", "no NPU", "lspci"),
        ("Operation not permitted, only root user on physical machine can do it.", "not permitted", "root"),
        ("npu-smi: error: libc_sec.so: cannot open shared object file", "libraries", "mount"),
    ],
)
def test_npu_smis_own_failures_are_named(text: str, what: str, hint: str):
    with pytest.raises(LaunchError) as caught:
        npu_smi.parse_info(text)
    assert what in caught.value.what
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("value", "count", "shown", "problem"),
    [
        (None, 8, [0, 1, 2, 3, 4, 5, 6, 7], None),
        ("", 8, [], "empty"),
        ("0,1,2", 8, [0, 1, 2], None),
        ("3", 8, [3], None),
        ("0,2,4,6,1,3,5,7", 8, [], "ascending"),
        ("10,11,8,9", 16, [], "ascending"),
        ("0,0", 8, [], "twice"),
        ("1, 2,3", 8, [1], "space"),
        ("0,1,8,9", 8, [0, 1], "names device 8"),
        ("9", 8, [], "names device 9"),
        ("0-3", 8, [0], "'-'"),
        ("npu0", 8, [], "'n'"),
        ("0,,1", 8, [0], None),
        ("0", 0, [], "has none"),
        ("0," + "9" * 5000, 8, [0], None),
    ],
)
def test_visible_devices_follow_canns_rules(value: str | None, count: int, shown: list[int], problem: str | None):
    """An order error or a duplicate hides everything; a space ends the list; an id beyond the last card cuts it."""
    result = visible.visible(value, count)
    assert shown == list(result.indices) == visible.visible_devices(value, count)
    assert (problem is None) == (not result.problems)
    assert problem is None or any(problem in p for p in result.problems)


def test_a_bad_order_comes_with_the_sorted_list():
    assert visible.visible("0,2,4,6,1,3,5,7", 8).suggestion == "0,1,2,3,4,5,6,7"
    assert visible.visible("1, 2,3", 8).suggestion == "1,2,3"


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("0-3", "0,1,2,3"),
        ("0-1,6-9", "0,1,6,7"),
        ("2 - 4", "2,3,4"),
        ("7-5", "5,7"),
        ("0:3", "0,1,2,3"),
        ("4~6", "4,5,6"),
        ("2..4", "2,3,4"),
        ("-1", None),
    ],
)
def test_a_range_comes_as_the_list_that_it_means(value: str, meant: str):
    """Containers' ASCEND_VISIBLE_DEVICES takes ranges; CANN's variable stops reading at the dash."""
    assert meant == visible.visible(value, 8).suggestion


def answers(*table: tuple[str, int, str]) -> Runner:
    by_command = {command: (rc, text) for command, rc, text in table}
    return lambda argv: by_command.get(" ".join(argv), (RC_MISSING, ""))


def test_logic_ids_of_the_mapping_win_where_ids_have_gaps(tmp_path: Path):
    """`npu-smi info -m` is the authority on logical ids."""
    rows = ("NPU ID\tChip ID\tChip Logic ID\tChip Name", "2\t0\t0\tA", "2\t1\t-\tMcu", "5\t0\t1\tA", "7\t0\t2\tA")
    mapping = "".join(f"\t{row}\n" for row in rows)
    run = answers(("npu-smi info", 0, fixture("a2-three-cards.txt")), ("npu-smi info -m", 0, mapping))
    assert [d.index for d in discover.find(run, {}, tmp_path)] == [0, 1, 2]


def test_device_nodes_stand_in_where_npu_smi_is_absent(tmp_path: Path):
    """A container may have cards and no npu-smi: two nodes are two devices of unknown kind."""
    for name in ("davinci3", "davinci12", "davinci_manager", "null"):
        (tmp_path / name).touch()
    devices = discover.find(answers(), {}, tmp_path)
    assert [(d.index, d.physical_id) for d in devices] == [(0, 3), (1, 12)]


def test_a_machine_without_npus_has_none(tmp_path: Path):
    assert discover.find(answers(), {}, tmp_path) == ()


def test_an_unreachable_driver_is_said_not_taken_for_no_npus(tmp_path: Path):
    run = answers(("npu-smi info", 255, "dcmi module initialize failed. ret is -8005"))
    with pytest.raises(LaunchError, match="-8005"):
        discover.find(run, {}, tmp_path)


@pytest.mark.process
def test_a_hanging_npu_smi_is_given_up_and_the_locale_is_c(tmp_path: Path):
    """A real child on PATH: it must see LC_ALL=C, and one that never answers must not hold us."""
    tool = tmp_path / "npu-smi"
    tool.write_text('#!/bin/sh\n[ "$2" = -m ] && exec sleep 60\necho "$LC_ALL"\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    run = commands.runner({"PATH": f"{tmp_path}:{os.environ['PATH']}", "LC_ALL": "zh_CN.UTF-8"}, timeout_s=1.0)
    assert run([str(tool), "info"]) == (0, "C\n")
    assert run([str(tool), "info", "-m"])[0] == RC_TIMEOUT
    assert run([str(tmp_path / "no-such-tool")])[0] == RC_MISSING


@pytest.mark.parametrize(
    ("name", "soc", "bf16", "trainable"),
    [
        ("910B3", "Ascend910B3", True, True),
        ("Ascend910B3", "Ascend910B3", True, True),
        ("Ascend 910A", "Ascend910A", False, True),
        ("910B", "Ascend910B", False, True),
        ("Ascend910", "Ascend910", True, True),
        ("Ascend910_9392", "Ascend910_9392", True, True),
        ("910B4-1", "Ascend910B4-1", True, True),
        ("310P3", "Ascend310P", False, False),
        ("310B4", "Ascend310", False, False),
        ("Ascend950PR_9589", "Ascend950", True, True),
    ],
)
def test_a_chip_is_found_by_any_spelling(name: str, soc: str, bf16: bool, trainable: bool):
    """The old 910B has no bf16 and is not 910B1 to 910B4."""
    found = chip(name)
    assert found is not None
    assert (soc, bf16, trainable) == (found.soc, found.supports_bf16, found.trainable)


def test_an_unknown_chip_is_unknown():
    assert chip("H100") is None
    assert chip("") is None


# number → driver, [(name, health, used MB, total MB, physical id)], {index: [(pid, name, MB)]}, has a process table
IDLE_8 = [3334, 3334, 3334, 3334, 3335, 3335, 3335, 3336]
EXPECTED = {
    "01": ("23.0.3", [("910B2", "OK", used, 65536, i) for i, used in enumerate(IDLE_8)], {}, True),
    "02": (
        "26.1.0",
        [("910B3", "OK", u, 65536, i) for i, u in enumerate([8676, 3403, 3403, 3407, 3403, 3402, 3402, 3403])],
        {0: [(485946, "pytest", 5175)]},
        True,
    ),
    "04": (
        "25.2.0",
        [("Ascend910", "OK", u, 65536, i) for i, u in enumerate([3133, 2876, 3116, 10568])],
        {3: [(990711, "python", 7746)]},
        True,
    ),
    "06": ("23.0.0", [("310B4", "Alarm", 3628, 15609, 0)], {}, False),
    "07": (
        "24.1.0.1",
        [
            ("310P3", "OK", 16302, 44280, 0),
            ("310P3", "OK", 15543, 43693, 1),
            ("310P3", "OK", 35563, 44280, 2),
            ("310P3", "OK", 35204, 43693, 3),
        ],
        {
            0: [(3277562, "mindie_llm_back", 14513)],
            1: [(3277565, "mindie_llm_back", 14513)],
            2: [(3034986, "mindie_llm_back", 34207)],
            3: [(3034989, "mindie_llm_back", 33740)],
        },
        True,
    ),
    "08": (
        "25.5.2",
        [("910B2C", "OK", 3410, 65536, 0), ("910B2C", "OK", 3404, 65536, 1), ("910B2C", "OK", 3401, 65536, 15)],
        {},
        True,
    ),
    "10": ("x.x.x", [("xxx", "OK", 4439, 86016, 0)], {}, True),
    "11": (
        "25.5.1",
        [
            ("310P3", "OK", 1448, 44278, 0),
            ("310P3", "OK", 1511, 43693, 1),
            ("310P3", "OK", 1384, 44278, 2),
            ("310P3", "OK", 1572, 43693, 3),
        ],
        {},
        False,
    ),
    "19": (
        "24.1.rc1.b030",
        [("910B3", "OK", u, 65536, i) for i, u in enumerate([3318, 3314, 3314, 3314, 3314, 3314, 3314, 3315])],
        {},
        False,
    ),
    "20": ("25.0.rc1.2", [("910B2C", "OK", 60018, 65536, 0), ("910B2C", "OK", 60017, 65536, 1)], {}, False),
    "21": ("26.0.rc2", [("Ascend910", "OK", 3419, 65536, 0), ("Ascend910", "OK", 2874, 65536, 1)], {}, False),
}


@needs_captures
@pytest.mark.parametrize("number", EXPECTED)
def test_every_info_capture_reads_right(number: str):
    """Driver, devices in logical order, health, memory, physical ids and processes, exactly."""
    driver, devices, processes, has_table = EXPECTED[number]
    info = npu_smi.parse_info(capture(number))
    assert driver == info.driver_version
    assert devices == [
        (d.name, d.health, d.hbm_used_bytes // MIB, d.hbm_bytes // MIB, d.physical_id) for d in info.devices
    ]
    assert list(range(len(devices))) == [d.index for d in info.devices]
    assert processes == {
        d.index: [(p.pid, p.name, p.hbm_bytes // MIB) for p in d.processes] for d in info.devices if d.processes
    }
    assert has_table == info.has_process_table


@needs_captures
def test_every_other_capture_reads_right():
    """Topologies, mapping, health, and captures of many commands at once."""
    topology = npu_tools.parse_topology(capture("12"))
    assert len(topology) == 8
    row = topology["NPU2"]
    assert (row["NPU7"], row["NPU2"], row["CPU Affinity"]) == ("HCCS", "X", "96-119")
    assert npu_tools.parse_topology(capture("13"))["NPU6"]["NPU7"] == "UB"
    assert [(i, 0, i, "Ascend 910A") for i in range(8)] == [
        (m.npu_id, m.chip_id, m.logic_id, m.name) for m in npu_tools.parse_mapping(capture("14"))
    ]
    assert len(npu_tools.parse_mapping(capture("15"))) == 8
    assert npu_tools.parse_device_ip(capture("15")) == "192.161.200.10"
    fields = npu_tools.parse_fields(capture("15"))
    assert (fields["Software Version"], fields["HBM Capacity(MB)"]) == ("23.0.5", "31129")
    healthy, sick, edge = (npu_tools.parse_health(capture(n)) for n in ("15", "16", "18"))
    assert healthy == Health("OK")
    assert sick is not None and edge is not None
    assert (sick.status, sick.codes) == ("Alarm", ("A4025021", "8C03A000", "8C084E00"))
    assert sick.information.startswith("ascend_monitor") and sick.information.endswith("Heartbeat Lost.")
    assert (edge.status, edge.codes) == ("Alarm", ("80E3A203",))
    assert edge.information.endswith("current is abnormal")
    assert npu_tools.parse_fields(capture("16"))["package_version"] == "23.0.7"


@needs_captures
def test_no_capture_is_left_out():
    """A capture added to the collection must be added here too."""
    numbers = {p.name[:2] for p in CAPTURES.glob("*.txt")}
    assert numbers == set(EXPECTED) | {"12", "13", "14", "15", "16", "18"}
