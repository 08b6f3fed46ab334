"""ranktable: the file that HCCL can read instead of asking rank 0, made or checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from launcher.cli import outputs
from launcher.errors import EXIT_USER, LaunchError
from launcher.messages import Message, translated

HCCN_CONF = Path("/etc/hccn.conf")
MAX_BYTES = 64 << 20
HCCN_TOOL = "/usr/local/Ascend/driver/tools/hccn_tool"


@click.command(name="ranktable")
@click.argument("sources", nargs=-1, metavar="[[SERVER=]FILE]...")
@click.option("--check", "is_check", is_flag=True, help="Say what is wrong with FILE, a rank table; write nothing.")
@click.option("--ranks", type=click.IntRange(1), help="With --check: number of ranks of the job that the table is for.")
@click.option(
    "--super-pod",
    metavar="ID",
    help="Without FILE: the super pod that this node is in; asks npu-smi for the ids there.",
)
@click.option("--out", metavar="FILE", type=outputs.Target(), help="File to write the table to [default: show it].")
@outputs.force_option
def ranktable_command(
    sources: tuple[str, ...], is_check: bool, ranks: int | None, super_pod: str | None, out: Path | None, force: bool
) -> None:
    """Make HCCL's rank table of this node, or of FILEs in the order of their ranks: hccn.conf, hosts file, rank table.

    A launch needs none and uses none, unless you give it with --rank-table.
    """
    from launcher.accelerators.ascend import ranktable_check

    if is_check:
        if len(sources) != 1:
            raise LaunchError("--check takes one FILE", hint="ascend-launch ranktable --check FILE")
        problems = ranktable_check.check(_read(Path(sources[0])), ranks)
        for problem in problems:
            click.echo(translated(Message("fail  {source}: {problem}", source=sources[0], problem=problem)))
        if not problems:
            click.echo(translated(Message("ok    {source}", source=sources[0])))
        raise SystemExit(EXIT_USER if problems else 0)
    if out is not None:
        outputs.check(out, force=force)
    text = _table(sources, super_pod)
    if out is None:
        click.echo(text, nl=False)
        return
    outputs.write(out, text, force=force)
    click.echo(str(out))


def _table(sources: tuple[str, ...], super_pod: str | None) -> str:
    """A table that is given alone stays as it is; what several files describe is numbered in their order, and that is said
    where it changes a table's own ranks."""
    from launcher.accelerators.ascend import ranktable

    contents = [_content(word) for word in sources]
    if len(contents) == 1 and ranktable.is_table(contents[0][2]):
        return ranktable.kept(*contents[0][1:])
    servers: list[Any] = []
    for name, path, content in contents:
        first = sum(len(server.devices) for server in servers)
        servers += ranktable.servers_of(path if ranktable.is_table(content) else name, content)
        change = ranktable.moved(content, first) if ranktable.is_table(content) else ""
        if change:
            click.echo(translated(Message("{name}: ranks {change}", name=name, change=change)), err=True)
    return ranktable.text(servers or [_this_node(super_pod)])


def _content(word: str) -> tuple[str, str, str]:
    """The name, the path and the text of `NAME=FILE` or FILE."""
    name, equals, path = word.partition("=")
    if not equals or Path(word).exists():
        name, path = Path(word).name, word
    return name, path, _read(Path(path))


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise LaunchError(
                "{path}: {st_size} bytes is too large for a rank table",
                hint="name another file",
                path=path,
                st_size=path.stat().st_size,
            )
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else Message("not text")
        raise LaunchError("{path}: {reason}", hint="name a file that can be read", path=path, reason=reason) from None


def _this_node(super_pod: str | None) -> Any:
    """This node: its visible cards by physical id, their addresses from hccn.conf or hccn_tool."""
    import socket

    from launcher.accelerators.ascend import discover, npu_tools
    from launcher.accelerators.ascend import visible as visibility
    from launcher.accelerators.ascend.ranktable import Server, TableDevice, addresses
    from launcher.accelerators.ascend.visible import VISIBLE
    from launcher.machine import commands

    run = commands.runner(os.environ)
    machine = discover.look(run, os.environ)
    if not machine.devices:
        raise machine.problem or LaunchError(
            "no NPU found on this node", hint="name files: ascend-launch ranktable node0=hccn.conf ..."
        )
    visible = visibility.visible(os.environ.get(VISIBLE), len(machine.devices))
    known = addresses(HCCN_CONF.read_text(encoding="utf-8")) if os.access(HCCN_CONF, os.R_OK) else {}
    devices = []
    for card in (machine.devices[i] for i in visible.indices):
        number = card.physical_id if card.physical_id is not None else card.index
        ip = known.get(number) or _asked(run, number)
        sdid = npu_tools.parse_fields(_spod(run, card)).get("SDID", "") if super_pod is not None else ""
        devices.append(TableDevice(number, ip, sdid))
    return Server(socket.gethostname(), tuple(devices), super_pod=super_pod or "")


def _asked(run: Any, number: int) -> str:
    from launcher.accelerators.ascend import npu_tools

    for tool in ("hccn_tool", HCCN_TOOL):
        rc, text = run([tool, "-i", str(number), "-ip", "-g"])
        if rc == 0:
            return npu_tools.parse_device_ip(text) or ""
    return ""


def _spod(run: Any, card: Any) -> str:
    npu_id = card.npu_id if card.npu_id is not None else card.index
    rc, text = run(["npu-smi", "info", "-t", "spod-info", "-i", str(npu_id), "-c", str(card.chip_id or 0)])
    return text if rc == 0 else ""
