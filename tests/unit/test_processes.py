"""Which processes a job that is over has left behind: judged from a table of what runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from launcher.accelerators.ascend import checks_cards, checks_hccl
from launcher.accelerators.ascend.npu import NPU
from launcher.checks import Context
from launcher.clusters import checks
from launcher.diagnose.doctor import leftovers
from launcher.machine import processes
from launcher.machine.cluster import Device, Found, Process
from launcher.machine.processes import Processes, Running
from launcher.text import GIB

ME, BOB = 1000, 1001
NOW = 1_000_000.0
LISTEN = "  sl  local_address rem_address   st\n   0: 00000000:{:04X} 00000000:0000 0A 0:0 0:0 0 {} 0 1\n"
ENDS = "ascend-launch doctor --end-leftovers"


def running(pid: int, parent: int, *argv: str, **values: object) -> Running:
    values = {"uid": ME, "user": "me", "name": "python", "started": NOW - 7200, **values}
    return Running(pid, parent, argv=argv, **values)  # type: ignore[arg-type]


def table(*rows: Running, **values: object) -> Processes:
    values = {"own_pid": 900, "own_uid": ME, "now": NOW, **values}
    return Processes({row.pid: row for row in rows}, **values)  # type: ignore[arg-type]


INIT = running(1, 0, "/sbin/init", uid=0, user="root", name="init")
BASH = running(1, 0, "bash", "train.sh", name="bash")
TORCHRUN = running(50, 1, "python", "torchrun", "train.py", is_python=True)
RANK = running(60, 50, "python", "train.py", is_python=True, is_of_job=True)
LAUNCHER = running(10, 1, "python", "ascend-launch", is_python=True)
AGENT = running(11, 10, "python", is_python=True, is_of_job=True, is_agent=True, run_dir="/runs/a")
ZYGOTE, OURS = replace(AGENT, pid=12, parent=11), replace(AGENT, pid=13, parent=12)
WRAPPED = running(14, 13, "bash", "wrapper.sh", name="bash", is_of_job=True)
SERVER = running(15, 14, "python", "serve.py", is_python=True, is_of_job=True, run_dir="/runs/a")


def test_a_rank_whose_launcher_lives_is_of_a_running_job():
    seen = table(INIT, TORCHRUN, RANK, LAUNCHER, AGENT, ZYGOTE, OURS, WRAPPED, SERVER)

    assert [] == [p.pid for p in seen.running.values() if seen.is_left_over(p)]
    assert "(of /runs/a, which is running)" in seen.described(SERVER)


@pytest.mark.parametrize("first", [INIT, BASH])
def test_a_rank_that_came_to_the_first_process_is_left_over(first: Running):
    """In a container that may be the shell that the job was started from."""
    seen = table(first, replace(RANK, parent=1), replace(WRAPPED, parent=1), SERVER)

    assert [60, 14, 15] == [p.pid for p in seen.running.values() if seen.is_left_over(p)]
    assert "process 15 of me, started 2 h ago: python serve.py (left over by /runs/a)" == seen.described(SERVER)


def test_a_rank_whose_parent_cannot_be_seen_is_left_over():
    """A /proc mounted with hidepid hides the first process."""
    rank = replace(RANK, parent=1)

    assert table(rank).is_left_over(rank)


@pytest.mark.parametrize(
    "first", [running(1, 0, "python", "torchrun", is_python=True), running(1, 0, is_python=True, is_of_job=True)]
)
def test_a_launcher_may_be_the_first_process_of_a_container(first: Running):
    rank = replace(RANK, parent=1)

    assert not table(first, rank).is_left_over(rank)


def test_an_agent_whose_launcher_was_killed_is_left_over_with_its_tree():
    seen = table(INIT, replace(AGENT, parent=1), ZYGOTE, OURS, replace(OURS, pid=16, parent=13, uid=BOB))

    assert all(map(seen.is_left_over, (seen.running[11], ZYGOTE, OURS)))
    assert [11, 12, 13] == [p.pid for p in seen.job_of(OURS)]


def test_nothing_else_is_left_over():
    """Another user's, one of no job (nohup python train.py), and the job that asks."""
    nohup, bobs, mine = (
        running(70, 1, is_python=True),
        replace(RANK, parent=1, uid=BOB),
        replace(RANK, pid=80, parent=1),
    )
    seen = table(INIT, nohup, bobs, mine, running(900, 80))

    assert [] == [p.pid for p in seen.running.values() if seen.is_left_over(p)]


@pytest.mark.parametrize(
    ("pid", "container_pid", "name", "shares_pids", "found"),
    [
        (60, None, "python", True, 60),
        (60, 50, "python", False, 50),
        (60, None, "python", False, None),
        (60, None, "", True, None),
        (60, None, "sglangschedul", True, None),
        (61, None, "sglangschedul", True, 61),
        (None, None, "python", True, None),
        (9999, None, "python", True, None),
    ],
)
def test_a_drivers_pid_is_believed_where_its_name_fits(
    pid: int | None, container_pid: int | None, name: str, shares_pids: bool, found: int | None
):
    """A container may have process ids of its own, where the host's number is somebody else; names lose their signs."""
    seen = table(TORCHRUN, RANK, running(61, 1, name="sglang::scheduler"), shares_pids=shares_pids)
    process = seen.by_driver(pid, container_pid, name)

    assert found == (None if process is None else process.pid)


def test_a_command_is_shown_without_secrets_and_cut():
    secret = running(5, 1, "python", "train.py", "--hf_token", "hf_abcdefghijklmnopqrstuvwxyz0123456789", "x" * 200)

    assert "hf_abc" not in secret.command and "train.py" in secret.command
    assert 100 == len(secret.command)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (59, "59 s"), (61, "1 min"), (7300, "2 h"), (200_000, "2 d")]
)
def test_ages_are_in_their_largest_unit(seconds: float, text: str):
    assert text == processes.age(seconds)


# --- in the doctor -------------------------------------------------------------------------------------------------


def node(tmp_path, seen: Processes, **values: object) -> Context:
    values = {"env": {}, **values}
    return Context(device="npu", found=Found(()), root=tmp_path, processes=lambda: seen, **values)  # type: ignore[arg-type]


def listens(ctx: Context, port: int, uid: int) -> None:
    path = ctx.path("/proc/net/tcp")
    path.parent.mkdir(parents=True)
    path.write_text(LISTEN.format(port, uid))


def test_a_taken_port_names_who_has_it_and_what_ends_that(tmp_path):
    seen = table(INIT, replace(WRAPPED, parent=1), SERVER, listening={29500: 15})
    ctx = node(tmp_path, seen, rdzv_endpoint="n0:29500")
    listens(ctx, 29500, ME)
    finding = checks.check_rendezvous(ctx)

    assert "fail" == finding.ok and "by process 15 of me" in finding.what and "left over by /runs/a" in finding.what
    assert finding.fix.startswith(f"{ENDS} --rdzv-endpoint n0:29500; or")
    assert [14, 15] == [p.pid for p in leftovers.found(ctx)]
    assert [] == leftovers.found(replace(ctx, is_first_node=False))

    live = replace(
        ctx, processes=lambda: table(INIT, LAUNCHER, AGENT, ZYGOTE, OURS, WRAPPED, SERVER, listening={29500: 15})
    )
    assert "end it (kill 15)" in checks.check_rendezvous(live).fix
    assert [] == leftovers.found(live)


def test_a_port_of_another_user_names_the_user(tmp_path):
    """Whose process it is the kernel does not say, only whose socket."""
    ctx = node(tmp_path, table(INIT), env={"HCCL_IF_BASE_PORT": "61000"})
    listens(ctx, 61003, 4_000_000_000)
    finding = checks_hccl.check_hccl_ports(ctx)

    assert "port 61003 is taken by a process of 4000000000; HCCL wants 61000 to 61031" == finding.what
    assert "have 4000000000 end it" in finding.fix
    assert list(range(61000, 61032)) == list(NPU.fixed_ports(ctx.env))
    assert () == NPU.fixed_ports({})


def card(index: int, *listed: Process, used: int = 3) -> Device:
    return Device(index, "910B3", 64 * GIB, used * GIB, "OK", index, processes=listed, npu_id=index, chip_id=0)


def test_a_busy_card_names_each_kind_of_holder_and_its_way_out(tmp_path):
    """Left over, of a running job, another user's, and one that cannot be told; a driver without a table adds what a job has
    open, and no daemon."""
    rank, bobs = replace(RANK, parent=1), running(71, 1, "python", "b.py", uid=BOB, user="bob")
    daemon = running(72, 1, "dmp_daemon", name="dmp_daemon", uid=ME)
    opened = {"/dev/davinci0": [60, 72], "/dev/davinci4": [60, 72], "/dev/davinci_manager": [72]}
    seen = table(INIT, rank, bobs, daemon, LAUNCHER, AGENT, ZYGOTE, OURS, opened=lambda prefix: opened)
    held = (
        card(0, Process(60, "python", 20 * GIB)),
        card(1, Process(13, "python", 20 * GIB)),
        card(2, Process(71, "python", 20 * GIB)),
        card(3, Process(4242, "", 20 * GIB)),
        card(4),
    )
    ctx = replace(node(tmp_path, seen), found=Found(held, has_process_table=True))
    finding = checks_cards.check_busy(ctx)

    assert (
        "card 0 is used by process 60 of me, started 2 h ago: python train.py (left over by a job that is over)"
        in finding.what
    )
    assert "of /runs/a, which is running) with 20.0 GiB; card 2 is used by process 71 of bob" in finding.what
    assert finding.what.endswith("card 3 is used by process 4242 with 20.0 GiB; and 1 more")
    assert (
        f"{ENDS} ends what is left over of jobs of yours; end it (kill 13 4242), wait 10 s; ask bob to end it; or"
        in finding.fix
    )
    assert [60] == [p.pid for p in leftovers.found(ctx)]

    hidden = replace(ctx, env={"ASCEND_RT_VISIBLE_DEVICES": "1,2"})
    assert [] == leftovers.found(hidden)
    old = replace(ctx, found=Found((replace(card(4), index=0),), has_process_table=False))
    assert checks_cards.check_busy(old).what.startswith("card 0 is used by process 60 of me")
    assert "skip" == checks_cards.check_busy(replace(old, processes=lambda: table(INIT, daemon))).ok


# --- the end -------------------------------------------------------------------------------------------------------

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"


@pytest.fixture
def stubborn() -> Iterator[Running]:
    """A process that SIGTERM does not end."""
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield running(process.pid, 1, started=psutil.Process(process.pid).create_time())
        process.kill()


@pytest.mark.slow
def test_a_process_that_does_not_stop_is_killed(stubborn: Running):
    assert [] == processes.end([stubborn], grace_s=0.1)
    assert not psutil.pid_exists(stubborn.pid) or psutil.Process(stubborn.pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_pid_that_another_process_has_by_now_is_left_alone(stubborn: Running):
    """The one that was meant had started at another time."""
    assert [] == processes.end([replace(stubborn, started=stubborn.started - 60)], grace_s=0.1)
    assert psutil.STATUS_ZOMBIE != psutil.Process(stubborn.pid).status()


def test_this_process_is_seen_as_it_is():
    seen = processes.look()
    me = seen.running[seen.own_pid]

    assert seen.is_own(me) and me.is_python and me.argv == tuple(psutil.Process().cmdline())
    assert not seen.is_left_over(me)
