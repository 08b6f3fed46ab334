"""The cards: their health, their memory, who holds them, and how many a job sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from launcher.accelerators.ascend import chips, npu_tools, visible
from launcher.accelerators.ascend.visible import VISIBLE
from launcher.checks import END_LEFTOVERS, Context, Finding, ok, skip
from launcher.machine.cluster import Device, Process
from launcher.machine.processes import Processes, Running
from launcher.messages import Message, joined
from launcher.text import GIB


def check_chip(ctx: Context) -> Finding:
    name = "chip"
    names = sorted({d.name for d in ctx.found.devices if d.name})
    if not names:
        return skip(name, "npu-smi did not say")
    if len(names) > 1:
        return Finding(
            name,
            "warn",
            Message("different chips in one node: {names}", names=", ".join(names)),
            "a job runs at the slowest one's pace",
            "choose cards of one kind with ASCEND_RT_VISIBLE_DEVICES",
        )
    chip = chips.first(ctx.found.devices)
    if chip is not None and not chip.trainable:
        return Finding(
            name,
            "fail",
            Message("{name} is for inference", name=names[0]),
            "it has no links between cards",
            "train on 910 or 950 cards",
        )
    return ok(name, names[0] if chip else Message("{name}, unknown to this launcher", name=names[0]))


def check_health(ctx: Context) -> Finding:
    name, shown = "health", visible.shown(ctx)
    sick = [d for d in shown if not d.is_usable]
    if sick:
        d = sick[0]
        good = ",".join(str(x.index) for x in shown if x.is_usable)
        return Finding(
            name,
            "fail",
            Message("card {index} is in state {health}", index=d.index, health=d.health),
            "the job would end on that card",
            Message(
                "export {visible}={good}; see `npu-smi info -t health -i {npu_id} -c {chip_id}`",
                visible=VISIBLE,
                good=good,
                npu_id=d.npu_id,
                chip_id=d.chip_id,
            ),
        )
    warned = [d for d in shown if d.health == "Warning"]
    if warned:
        d = warned[0]
        return Finding(
            name,
            "warn",
            Message("card {index} is in state Warning", index=d.index),
            "it may fail during a long run",
            Message("see `npu-smi info -t health -i {npu_id} -c {chip_id}`", npu_id=d.npu_id, chip_id=d.chip_id),
        )
    known = [d for d in shown if d.health.upper() == "OK"]
    return ok(name, Message("{num_known} cards OK", num_known=len(known))) if known else skip(name, "unknown")


def check_health_codes(ctx: Context) -> Finding:
    """The error codes of cards that are not OK. Asks npu-smi once per card."""
    name = "health codes"
    for d in (d for d in ctx.found.devices if d.health not in ("OK", "UNKNOWN") and d.npu_id is not None):
        argv = ["npu-smi", "info", "-t", "health", "-i", str(d.npu_id), "-c", str(d.chip_id or 0)]
        rc, text = ctx.run(argv)
        health = npu_tools.parse_health(text) if rc == 0 else None
        if health is not None and health.codes:
            return Finding(
                name,
                "warn",
                Message("card {index}: {codes}", index=d.index, codes=" ".join(health.codes)),
                health.information,
                "look the codes up in the driver's list of health codes, or send them to support",
            )
    return ok(name, "none")


IDLE_BYTES = int(4.5 * GIB)
"""An idle 64 GB card shows about 3.4 GB in use, which is the driver's own."""


MOST_NAMED = 4


@dataclass(frozen=True)
class Holder:
    """Who holds a card."""

    device: Device
    listed: Process | None = None
    """As npu-smi lists it; None where only the kernel knows of it."""
    process: Running | None = None
    """Which one of this machine that is; None where that cannot be said."""


def holders(ctx: Context) -> list[Holder]:
    """Those of the cards that a launch would use. npu-smi lists eight a card at most, and none with an old driver; so what
    jobs that are over have left open counts too. Daemons of the driver have cards open as well, and hold none."""
    shown = visible.shown(ctx)
    if not any(d.processes or d.hbm_used_bytes > IDLE_BYTES for d in shown) and ctx.found.has_process_table:
        return []  # which saves a look at every process
    seen = ctx.processes()
    found = [
        Holder(device, listed, seen.by_driver(listed.pid, listed.container_pid, listed.name))
        for device in shown
        for listed in device.processes
    ]
    known = {(holder.device.index, holder.process.pid) for holder in found if holder.process is not None}
    opened = seen.opened("/dev/davinci")
    return found + [
        Holder(device, None, seen.running[pid])
        for device in shown
        for pid in sorted(opened.get(f"/dev/davinci{device.physical_id}", ()))
        if pid in seen.running and seen.is_left_over(seen.running[pid]) and (device.index, pid) not in known
    ]


def check_busy(ctx: Context) -> Finding:
    name, busy = "busy cards", holders(ctx)
    if busy:
        seen = ctx.processes()
        more = Message("and {num_busy} more", num_busy=len(busy) - MOST_NAMED) if len(busy) > MOST_NAMED else None
        named = [_holds(holder, seen) for holder in busy[:MOST_NAMED]]
        return Finding(
            name,
            "fail",
            joined([*named, more] if more else named, "; "),
            "two jobs on a card run out of memory, or fail to bind port 16666",
            joined(_ways_out(busy, seen), "; "),
        )
    full = [d for d in visible.shown(ctx) if d.hbm_used_bytes > IDLE_BYTES and d.hbm_bytes]
    if full:
        d = full[0]
        return Finding(
            name,
            "warn",
            Message(
                "card {index} has {hbm_used_bytes:.1f} GiB in use by nobody that is listed",
                index=d.index,
                hbm_used_bytes=d.hbm_used_bytes / GIB,
            ),
            "a process of another container, or one that is ending",
            "look on the host; npu-smi in a container shows its own processes only",
        )
    if not ctx.found.has_process_table:
        return skip(name, "this npu-smi lists no processes")
    return ok(name, "no process on any card")


def _holds(holder: Holder, seen: Processes) -> Message:
    """One holder in words."""
    listed, who = holder.listed, holder.process
    text: str = seen.described(who) if who is not None else Message("a process")
    if who is None and listed is not None:
        text = Message("process {pid}{path}", pid=listed.pid, path=f" ({listed.name})" if listed.name else "")
    if listed is None:
        return Message("card {index} is used by {who}", index=holder.device.index, who=text)
    return Message(
        "card {index} is used by {who} with {hbm_bytes:.1f} GiB",
        index=holder.device.index,
        who=text,
        hbm_bytes=listed.hbm_bytes / GIB,
    )


def _ways_out(busy: list[Holder], seen: Processes) -> Iterator[Message]:
    """What ends the holders, as far as that is for this user to do."""
    known = [holder.process for holder in busy if holder.process is not None]
    if any(map(seen.is_left_over, known)):
        yield Message("{command} ends what is left over of jobs of yours", command=END_LEFTOVERS)
    own = [p for p in known if seen.is_own(p) and not seen.is_left_over(p)]
    strange = [h.listed.pid for h in busy if h.process is None and h.listed is not None]
    if pids := [*dict.fromkeys(p.pid for p in own), *dict.fromkeys(strange)]:
        yield Message("end it (kill {pid}), wait 10 s", pid=" ".join(map(str, pids[:MOST_NAMED])))
    if users := list(dict.fromkeys(p.user for p in known if not seen.is_own(p))):
        yield Message("ask {users} to end it", users=", ".join(users))
    yield Message("or leave the card out with {visible}", visible=VISIBLE)


def check_hbm(ctx: Context) -> Finding:
    name = "free HBM"
    known = [d for d in visible.shown(ctx) if d.hbm_bytes]
    if not known:
        return skip(name, "unknown")
    least = min(known, key=lambda d: d.hbm_free_bytes)
    sizes = {round(d.hbm_bytes / GIB) for d in known}
    text = Message(
        "{hbm_free_bytes:.1f} GiB free on card {index}, the fullest of {num_known}",
        hbm_free_bytes=least.hbm_free_bytes / GIB,
        index=least.index,
        num_known=len(known),
    )
    if len(sizes) > 1:
        return Finding(
            name,
            "warn",
            Message("cards of {sizes} GiB in one node", sizes=" and ".join(map(str, sorted(sizes)))),
            "the smallest decides what fits",
            "choose cards of one size",
        )
    if least.hbm_free_bytes < least.hbm_bytes * 0.85:
        return Finding(name, "warn", text, "the plan counts on a free card", "end what holds it; see busy cards")
    return ok(name, text)


def check_visible(ctx: Context) -> Finding:
    name, value = VISIBLE, ctx.env.get(VISIBLE)
    count = len(ctx.found.devices)
    if value is None:
        return ok(name, Message("not set: all {count} cards", count=count))
    if not count:
        return skip(name, Message("{value!r}; the number of cards is unknown", value=value))
    result = visible.visible(value, count)
    if result.problems:
        fix = (
            Message("export {visible}={suggestion}", visible=VISIBLE, suggestion=result.suggestion)
            if result.suggestion
            else Message("unset {visible}", visible=VISIBLE)
        )
        return Finding(
            name,
            "fail",
            result.problems[0],
            Message("CANN would show {num_indices} of {count} cards", num_indices=len(result.indices), count=count),
            fix,
        )
    return ok(
        name,
        Message("{value}: {num_indices} of {count} cards", value=value, num_indices=len(result.indices), count=count),
    )


def check_count(ctx: Context) -> Finding:
    name, have = "ranks and cards", len(visible.shown(ctx))
    if ctx.nproc is None:
        return skip(name, Message("{have} cards visible", have=have))
    if ctx.nproc > have:
        return Finding(
            name,
            "fail",
            Message("{nproc} ranks are wanted, {have} cards are visible", nproc=ctx.nproc, have=have),
            "the ranks beyond the last card fail with 107001",
            Message("use --nproc {have}", have=have) if have else "see driver",
        )
    return ok(name, Message("{nproc} ranks on {have} cards", nproc=ctx.nproc, have=have))


def check_bf16(ctx: Context) -> Finding:
    name, chip = "bf16", chips.first(ctx.found.devices)
    if chip is None:
        return skip(name, "the chip is unknown")
    if chip.supports_bf16:
        return ok(name, Message("{soc} computes in bf16", soc=chip.soc))
    if ctx.precision == "bf16":
        return Finding(
            name,
            "fail",
            Message("{soc} has no bf16", soc=chip.soc),
            "the Trainer refuses to start",
            "parallel.precision=fp16",
        )
    return ok(name, Message("{soc} has no bf16; precision auto takes fp16", soc=chip.soc))


def check_tls(ctx: Context) -> Finding:
    """Asks hccn_tool once per card."""
    name, tool = "TLS switch", "/usr/local/Ascend/driver/tools/hccn_tool"
    states: dict[int, int] = {}
    for d in ctx.found.devices:
        rc, text = ctx.run([tool, "-i", str(d.physical_id if d.physical_id is not None else d.index), "-tls", "-g"])
        state = npu_tools.parse_tls(text) if rc == 0 else None
        if state is not None:
            states[d.index] = state
    if not states:
        return skip(name, "hccn_tool does not say (it needs root)")
    if len(set(states.values())) > 1:
        off = [str(i) for i, s in states.items() if s == 0]
        return Finding(
            name,
            "fail",
            Message("off on cards {off}, on elsewhere", off=", ".join(off)),
            "links fail (EI0016)",
            "hccn_tool -i N -tls -s enable 0 on every card of every node",
        )
    return ok(
        name,
        Message(
            "{detail} on all {num_states} cards",
            detail="on" if next(iter(states.values())) else "off",
            num_states=len(states),
        ),
    )


def check_page_size(ctx: Context) -> Finding:
    name, chip = "page size", chips.first(ctx.found.devices)
    if ctx.num_nodes == 1 or chip is None or chip.family != "A2":
        return skip(name, "matters on A2 with several nodes")
    rc, text = ctx.run(["getconf", "PAGESIZE"])
    wanted = ctx.env.get("HCCL_RDMA_PCIE_DIRECT_POST_NOSTRICT")
    if rc == 0 and text.strip() not in ("", "4096") and wanted != "TRUE":
        return Finding(
            name,
            "warn",
            Message("pages of {text} bytes", text=text.strip()),
            "RDMA between nodes may fail on A2",
            "export HCCL_RDMA_PCIE_DIRECT_POST_NOSTRICT=TRUE on all nodes",
        )
    return ok(name, text.strip() or "unknown")
