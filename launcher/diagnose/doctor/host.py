"""The host: its compiler, disks, memory and limits."""

from __future__ import annotations

import re
import shutil
import tempfile

from launcher import network, places
from launcher.accelerators import table as accelerators
from launcher.checks import Context, Finding, ok, skip
from launcher.errors import LaunchError
from launcher.messages import Message, joined
from launcher.strategies import table as strategies
from launcher.text import GIB


def check_compiler(ctx: Context) -> Finding:
    """DeepSpeed builds its CPU Adam when it is first used; torch 2.12 and later need C++20."""
    name = "compiler"
    strategy = strategies.chosen(ctx.strategy)
    if strategy is None or not strategy.offloads_optimizer:
        return skip(name, "only CPU offload compiles something")
    path = ctx.env.get("PATH")
    absent = [t for t in ("g++", "ninja") if shutil.which(t, path=path) is None]
    if absent:
        return Finding(
            name,
            "fail",
            Message("{absent} not found", absent=" and ".join(absent)),
            "DeepSpeed cannot build its CPU optimizer",
            Message("install {absent}, or choose a strategy without offload", absent=" and ".join(absent)),
        )
    if accelerators.load(ctx.device).needs_cann and not ctx.env.get("ASCEND_HOME_PATH"):
        return Finding(
            name, "fail", "ASCEND_HOME_PATH is not set", "DeepSpeed's build reads it", "source CANN's set_env.sh"
        )
    return ok(name, "g++ and ninja are there")


def check_disk(ctx: Context) -> Finding:
    name = "disk"
    if ctx.output_dir is None:
        return skip(name, "no output folder given")
    place = next(p for p in (ctx.output_dir.absolute(), *ctx.output_dir.absolute().parents) if p.exists())
    elsewhere = Message("name another folder: --run-dir or output_dir=")
    if why := places.obstacle(place):
        fix = places.Place(name, place, elsewhere).fix(why)
        return Finding(
            name,
            "fail",
            Message("{place} cannot be written to: {why}", place=place, why=why),
            "no checkpoint can be saved",
            fix,
        )
    free = shutil.disk_usage(place).free
    # save_total_limit of 2: the new checkpoint is written before the oldest goes.
    need = 3 * ctx.checkpoint_bytes if ctx.checkpoint_bytes else GIB
    if free < need:
        wants = (
            Message("three checkpoints take {need:.1f}", need=need / GIB)
            if ctx.checkpoint_bytes
            else Message("checkpoints may take more")
        )
        return Finding(
            name,
            "fail" if ctx.checkpoint_bytes else "warn",
            Message("{free:.1f} GiB free at {place}, {wants}", free=free / GIB, place=place, wants=wants),
            "a save in the middle of the run fails and leaves half a checkpoint",
            Message("free space, {elsewhere}, or save_only_model=true", elsewhere=elsewhere),
        )
    return ok(name, Message("{free:.1f} GiB free at {place}", free=free / GIB, place=place))


def check_places(ctx: Context) -> Finding:
    """A cache that is whole already is only read, so that this alone ends no launch."""
    name = "caches"
    try:
        tempfile.gettempdir()
        obstacles = [(place, why) for place in places.of_job(ctx.env) if (why := places.obstacle(place.path))]
    except LaunchError as error:
        return Finding(name, "fail", error.what, "nothing can be kept between runs", error.hint)
    except FileNotFoundError as error:
        refused = places.no_temporary(error)
        return Finding(name, "fail", refused.what, "programs and libraries cannot start", refused.hint)
    if not obstacles:
        return ok(name, "caches and temporary files can be written")
    what = "; ".join(f"{place.name}, {place.path}: {why}" for place, why in obstacles)
    return Finding(
        name,
        "warn",
        what,
        "what is not there already cannot be downloaded or prepared",
        "; ".join(dict.fromkeys(place.fix(why) for place, why in obstacles)),
    )


def memory_limit_bytes(ctx: Context) -> int | None:
    """Main memory that can be had now: MemAvailable, or what the container's limit leaves."""
    m = re.search(r"MemAvailable:\s+(\d+) kB", ctx.text("/proc/meminfo"))
    available = int(m.group(1)) * 1024 if m else None
    limit, used = ctx.text("/sys/fs/cgroup/memory.max").strip(), ctx.text("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        left = max(0, int(limit) - int(used))
        return left if available is None else min(left, available)
    return available


def check_host_memory(ctx: Context) -> Finding:
    name, have = "main memory", memory_limit_bytes(ctx)
    if have is None:
        return skip(name, "unknown")
    if ctx.host_bytes and ctx.host_bytes > have:
        return Finding(
            name,
            "fail",
            Message(
                "{have:.0f} GiB can be had, the ranks need {host_bytes:.0f}",
                have=have / GIB,
                host_bytes=ctx.host_bytes / GIB,
            ),
            "the kernel ends a rank with exit code -9",
            "use fewer ranks, no offload, or a larger machine",
        )
    return ok(name, Message("{have:.0f} GiB can be had", have=have / GIB))


def check_shm(ctx: Context) -> Finding:
    """Docker's default of 64 MB is too little for DataLoader workers."""
    name = "shared memory"
    try:
        usage = shutil.disk_usage(ctx.path("dev") / "shm")
    except OSError:
        return skip(name, "not there")
    if why := places.obstacle(ctx.path("dev") / "shm"):
        workers = Message(", or say training.dataloader_num_workers=0") if ctx.loader_workers else ""
        fix = joined((places.SHARED_MEMORY_HINT, workers), "")
        return Finding(
            name,
            "fail" if ctx.loader_workers else "warn",
            Message("cannot be written to: {why}", why=why),
            "DataLoader workers hand their batches over in /dev/shm",
            fix,
        )
    if usage.total < GIB:
        return Finding(
            name,
            "warn",
            f"{usage.total / GIB:.2f} GiB",
            "DataLoader workers end with a bus error",
            places.SHARED_MEMORY_HINT,
        )
    return ok(name, f"{usage.total / GIB:.0f} GiB")


def check_ulimit(ctx: Context) -> Finding:
    name = "open files"
    m = re.search(r"Max open files\s+(\d+|unlimited)\s+(\d+|unlimited)", ctx.text("/proc/self/limits"))
    if m is None:
        return skip(name, "unknown")
    needed = network.files_needed(ctx.num_nodes, ctx.num_nodes * (ctx.nproc or 1))
    if ctx.num_nodes > 1 and ctx.is_first_node and m.group(2) != "unlimited" and int(m.group(2)) < needed:
        return Finding(
            name,
            "fail",
            Message(
                "the first node may open {match:,} (ulimit -Hn), and {num_nodes:,} nodes with {nproc} ranks "
                "each need {needed:,}",
                match=int(m.group(2)),
                num_nodes=ctx.num_nodes,
                nproc=ctx.nproc or 1,
                needed=needed,
            ),
            "each node and each rank has a connection to it",
            Message(
                "raise the hard limit there to {needed}: /etc/security/limits.conf, systemd's LimitNOFILE, "
                "the container's --ulimit",
                needed=needed,
            ),
        )
    if m.group(1) != "unlimited" and int(m.group(1)) < 4096:
        return Finding(
            name,
            "warn",
            Message("at most {match}", match=m.group(1)),
            "many DataLoader workers run out",
            "ulimit -n 65536",
        )
    return ok(name, m.group(1))
