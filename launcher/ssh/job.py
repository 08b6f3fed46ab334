"""A job on several hosts: every host is checked before any starts, all are followed to the end, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from launcher import __version__, confined, records, rundir, streams
from launcher.cluster.hosts import Host
from launcher.cluster.nodes import join_endpoint, split_endpoint
from launcher.errors import EXIT_INTERRUPTED, EXIT_JOB_FAILED, EXIT_OK, EXIT_TERMINATED, EXIT_USER, LaunchError
from launcher.records import NODE_LOST, Event, Failure
from launcher.rundir import JOB_SECRET, RunDir
from launcher.ssh.connection import Answer, Connection, Hub, address_of
from launcher.supervise import Outcome, stop_signals_to

CONNECT_S = 45.0
"""ssh gives up by itself after 15 seconds without a connection; logging in may take a while beyond."""
PREPARE_S = 300.0
PATIENCE_S = 30.0
"""After one node's end by a failure, what the others get to end by themselves: a lost node is seen after 15 seconds."""
SOON_S = 2.0
"""The same where the job has not begun, so that the others do not know of it."""
STOP_MARGIN_S = 30.0
"""Beyond the ranks' grace, what a told host may take. The far side kills after 20."""
FETCH_S = 60.0


@dataclass(frozen=True)
class Job:
    """All that is decided before a host is asked."""

    hosts: tuple[Host, ...]
    words: tuple[str, ...]
    """Of `command`: the options that all nodes share."""
    recipe: Path | None
    """A file that every host must have as it is here: the recipe, or a program's script; None where there is none."""
    overrides: tuple[str, ...]
    """What comes after the options and the recipe."""
    digest: str
    """Of `recipe`."""
    nproc: int | None
    endpoint: str | None
    """The user's own --rdzv-endpoint."""
    run_dir: Path
    """As every node is told it: relative to `cwd`, or absolute."""
    cwd: str
    python: str
    setup: str | None
    env: Mapping[str, str]
    first_env: Mapping[str, str]
    """What the first node needs beyond: it alone reports to others."""
    cann: str | None
    """Where CANN is on this machine; looked for there first."""
    grace_s: float
    ssh_config: Path | None = None
    command: str = "run"
    """Of `ascend-launch`, or `program`."""
    secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    """By which the nodes know each other's words, where the user has none. A connection's standard input takes it there."""

    def argv(self, node: int, endpoint: str | None) -> list[str]:
        """The words after `ascend-launch` on that node."""
        words = [self.command, *self.words, "--json", "--run-dir", str(self.run_dir)]
        if self.nproc is not None:
            words += ["--nproc", str(self.nproc)]
        words += ["--nnodes", str(len(self.hosts))]
        if len(self.hosts) > 1:
            words += ["--node-rank", str(node), "--rdzv-endpoint", str(endpoint)]
        if self.command != "run":
            return [*words, "--output-events", *self.overrides]
        return [*words, "--", str(self.recipe), *self.overrides]

    @property
    def there(self) -> str:
        """The run directory on a host."""
        return str(PurePosixPath(self.cwd, self.run_dir))

    def host_env(self, node: int) -> dict[str, str]:
        cards = self.hosts[node].cards
        own = {} if cards is None else {"ASCEND_RT_VISIBLE_DEVICES": ",".join(map(str, cards))}
        return {JOB_SECRET: self.secret, **self.env, **(self.first_env if node == 0 else {}), **own}


@dataclass(eq=False)
class Node:
    """What is known of one host's part."""

    number: int
    connection: Connection
    log: BinaryIO
    shares_files: bool = False
    address: str | None = None
    lines: dict[str, bytearray] = field(default_factory=lambda: {"out": bytearray(), "err": bytearray()})
    last_words: list[str] = field(default_factory=list)
    """Standard error, from `error:` on."""
    code: int | None = None
    outcome: records.Ended | None = None
    lost: str = ""
    """Why there is nothing more to hear."""

    @property
    def name(self) -> str:
        return self.connection.host.name

    @property
    def is_running(self) -> bool:
        return self.code is None and not self.lost

    @property
    def has_failed(self) -> bool:
        return bool(self.lost) or self.code not in (None, EXIT_OK, EXIT_TERMINATED, EXIT_INTERRUPTED)


def run(job: Job, run_dir: RunDir, on_event: Callable[[Event], None], on_words: Callable[[str, str], None]) -> Outcome:
    """Run the job on all hosts to its end. The first node's events are handed on, and what other words came by host.

    Raises:
        LaunchError: a host cannot take part; all that are in the way are named, and none has started anything.
    """
    token = f".launch-{secrets.token_hex(8)}"
    rundir.touch(run_dir.path / token)
    rundir.remove(run_dir.failure_path)
    hub = Hub(job.hosts, job.python, job.ssh_config)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: rundir.remove(run_dir.path / token))
        patience = [0.0]
        stack.callback(lambda: hub.close(patience[0]))
        nodes = [Node(i, c, stack.enter_context(_log_of(c.host, run_dir))) for i, c in enumerate(hub.connections)]
        fleet = _Fleet(job, hub, nodes, run_dir, on_event, on_words)
        fleet.connect()
        fleet.prepare(token)
        endpoint = fleet.meet()
        fleet.share(f"{token}-first")
        outcome = fleet.follow(endpoint)
        patience[0] = 5.0
        return outcome


class _Fleet:
    def __init__(
        self, job: Job, hub: Hub, nodes: list[Node], run_dir: RunDir,
        on_event: Callable[[Event], None], on_words: Callable[[str, str], None],
    ) -> None:  # fmt: skip
        self.job, self.hub, self.nodes, self.run_dir = job, hub, nodes, run_dir
        self.on_event, self.on_words = on_event, on_words
        self.by_connection = {node.connection: node for node in nodes}
        self.has_begun = False
        self.hosts_share = False
        """Whether the hosts see each other's run directory."""
        self.held: list[Event] | None = None
        """The first node's events, while a file of its that they speak of is on its way."""

    # -- before anything starts ---------------------------------------------------------------------------------------

    def connect(self) -> None:
        problems: dict[Node, tuple[str, str]] = {}
        waiting, deadline = set(self.nodes), time.monotonic() + CONNECT_S
        while waiting and time.monotonic() < deadline:
            for connection, answer, _ in self.hub.take(0.1):
                node = self.by_connection[connection]
                if answer.get("re") == "hello":
                    waiting.discard(node)
                elif "closed" in answer:
                    waiting.discard(node)
                    problems[node] = connection.why_not()
        for node in waiting:
            problems[node] = (
                f"no word from there within {CONNECT_S:.0f} s",
                f"try `ssh {node.connection.host.destination} true`",
            )
        _refuse(problems)

    def prepare(self, token: str) -> None:
        job = self.job
        requests = {
            node: {
                "env": job.host_env(node.number), "cwd": job.cwd, "python": job.python, "setup": job.setup,
                "recipe": str(job.recipe or ""), "digest": job.digest, "version": __version__, "cann": job.cann,
                "run_dir": str(job.run_dir), "token": token,
            }
            for node in self.nodes
        }  # fmt: skip
        for node, answer in self.ask("prepare", requests, PREPARE_S).items():
            node.shares_files, node.address = answer["shared"], answer["address"]

    def meet(self) -> str | None:
        """Where the nodes will meet: the user's endpoint, or the first host's address as the others reach it and a free
        port. Either is tried out."""
        first, others = self.nodes[0], self.nodes[1:]
        if not others:
            return None
        port: int | None = None
        if self.job.endpoint is not None:
            name, port = split_endpoint(self.job.endpoint)
        else:
            name = address_of(first.connection.host, self.job.ssh_config)
        found = [a["addresses"] for a in self.ask("resolve", {n: {"name": name} for n in others}).values()]
        candidates = [a for a in found[0] if all(a in addresses for addresses in found)]
        if first.address is not None and self.job.endpoint is None:
            candidates.append(first.address)
        if not candidates:
            hint = "give every host the same address for it, or name one with --rdzv-endpoint HOST:PORT"
            raise LaunchError(f"{others[0].name} does not know the address of {name}, the first host", hint=hint)
        heard = self.ask("listen", {first: {"addresses": candidates, "port": port}})[first]
        address = heard["address"] or candidates[0]
        tried = self.ask("reach", {n: {"address": address, "port": heard["port"]} for n in others})
        endpoint = join_endpoint(address, heard["port"])
        hint = "open that port in the firewall, or name another address or port with --rdzv-endpoint HOST:PORT"
        _refuse(
            {
                n: (f"cannot reach {first.name} at {endpoint}: {a['error']}", hint)
                for n, a in tried.items()
                if a["error"]
            }
        )
        return self.job.endpoint or endpoint

    def share(self, token: str) -> None:
        """See whether the hosts share the run directory, which checkpoints need."""
        first, others = self.nodes[0], self.nodes[1:]
        request = {"run_dir": str(self.job.run_dir), "token": token}
        self.ask("share", {first: {**request, "step": "make"}})
        seen = self.ask("share", {node: {**request, "step": "look"} for node in others})
        self.ask("share", {first: {**request, "step": "remove"}})
        self.hosts_share = all(answer["seen"] for answer in seen.values())
        if not self.hosts_share and self.job.command == "run":
            apart = next(node.name for node, answer in seen.items() if not answer["seen"])
            self.on_words(
                apart,
                f"does not share {self.job.there} with {first.name}: no checkpoint can be kept, which all ranks must reach",
            )

    def ask(self, do: str, requests: Mapping[Node, dict[str, Any]], timeout_s: float = CONNECT_S) -> dict[Node, Answer]:
        """Send a request to each node, and wait for all answers.

        Raises:
            LaunchError: a host has a problem, or its connection ended; all hosts' at once.
        """
        for node, request in requests.items():
            node.connection.send(do, **request)
        answers: dict[Node, Answer] = {}
        problems: dict[Node, tuple[str, str]] = {}
        deadline = time.monotonic() + timeout_s
        while len(answers) + len(problems) < len(requests) and time.monotonic() < deadline:
            for connection, answer, _ in self.hub.take(0.1):
                node = self.by_connection[connection]
                if "problem" in answer:
                    problems[node] = answer["problem"]["what"], answer["problem"]["hint"]
                elif answer.get("re") == do:
                    answers[node] = answer
                elif "closed" in answer:
                    problems[node] = f"the connection ended: {connection.last_words}", "look at that host"
        for node in requests:
            if node not in answers and node not in problems:
                problems[node] = f"no answer within {timeout_s:.0f} s", "look at that host"
        _refuse(problems)
        return answers

    # -- the job --------------------------------------------------------------------------------------------------------

    def follow(self, endpoint: str | None) -> Outcome:
        """Start all, and stay until all have ended, or are given up."""
        tell_at = kill_at = float("inf")
        signals = _Signals()
        with stop_signals_to(signals.on_signal):
            for node in self.nodes:
                argv = self.job.argv(node.number, endpoint)
                node.connection.send("start", argv=argv, grace=self.job.grace_s)
            while any(node.is_running for node in self.nodes):
                for connection, answer, payload in self.hub.take(0.1):
                    self.on_answer(self.by_connection[connection], answer, payload)
                now = time.monotonic()
                for number in signals.take():
                    self.tell(number)
                    kill_at = min(kill_at, now + self.job.grace_s + STOP_MARGIN_S)
                if tell_at == float("inf") and any(node.has_failed for node in self.nodes):
                    tell_at = now + (PATIENCE_S if self.has_begun else SOON_S)
                if now >= tell_at and kill_at == float("inf"):
                    self.tell(signal.SIGTERM)
                    kill_at = now + self.job.grace_s + STOP_MARGIN_S
                if now >= kill_at:
                    for node in self.nodes:
                        if node.is_running:
                            node.lost = "did not stop in time"
            self.fetch()
            return self.outcome(signals.first)

    def tell(self, number: int) -> None:
        for node in self.nodes:
            if node.is_running:
                node.connection.send("signal", number=number)

    def on_answer(self, node: Node, answer: Answer, payload: bytes) -> None:
        if "stream" in answer:
            node.log.write(payload)
            node.log.flush()
            lines = node.lines[answer["stream"]]
            lines += payload
            *whole, rest = bytes(lines).split(b"\n")
            lines[:] = rest
            for line in whole:
                self.on_line(node, answer["stream"], line.decode(errors="replace"))
        elif "file" in answer:
            self.keep(node, answer["file"], payload)
        elif answer.get("re") == "fetch":
            self.release()
        elif "ended" in answer:
            node.code = answer["ended"]
        elif "closed" in answer and node.is_running:
            node.lost = node.connection.last_words or f"ssh ended with code {answer['closed']}"
            node.log.write(f"{node.lost}\n".encode())
            if node.number == 0:
                self.release()

    def on_line(self, node: Node, stream: str, line: str) -> None:
        event = records.event_in(line) if stream == "out" else None
        if event is None:
            if stream == "err" and (node.last_words or line.startswith("error: ")):
                node.last_words.append(line)
            elif stream == "err":
                self.on_words(node.name, line)
            return
        if isinstance(event, records.Ended):
            node.outcome = event
        elif isinstance(event, records.Output):
            self.on_event(event)
        elif node.number == 0:
            self.has_begun = self.has_begun or isinstance(event, records.Ranks)
            if isinstance(event, records.Start) and not node.shares_files and self.held is None:
                self.held = []
                node.connection.send("fetch", folder=str(self.job.run_dir), names=[self.run_dir.data_path.name])
            if self.held is not None:
                self.held.append(event)
            else:
                self.on_event(event)

    def release(self) -> None:
        held, self.held = self.held or [], None
        for event in held:
            self.on_event(event)

    # -- after it -------------------------------------------------------------------------------------------------------

    def fetch(self) -> None:
        """Bring the run's files here from hosts with file systems of their own."""
        wanted = {n for n in self.nodes if not n.shares_files and n.code is not None and not n.connection.closed}
        if self.hosts_share:
            wanted = set(sorted(wanted, key=lambda n: n.number)[:1])
        for node in wanted:
            node.connection.send("fetch", folder=str(self._folder(node, self.job.run_dir)), names=None)
        deadline = time.monotonic() + FETCH_S
        while wanted and time.monotonic() < deadline:
            for connection, answer, payload in self.hub.take(0.1):
                deadline = time.monotonic() + FETCH_S
                node = self.by_connection[connection]
                self.on_answer(node, answer, payload)
                if "closed" in answer or (answer.get("re") == "fetch" and answer["names"] is None):
                    wanted.discard(node)
                for path in answer.get("skipped", ()):
                    self.on_words(node.name, f"{path} is large and stays there, in {self.job.there}")
        first = self.nodes[0]
        if not first.shares_files and first.code is not None and self.job.command == "run":
            self.on_words(first.name, f"weights and checkpoints stay there, in {self.job.there}")

    def _folder(self, node: Node, run_dir: Path) -> Path:
        """What is fetched of a node: its own part, or all of it where one speaks for all."""
        return rundir.for_node(run_dir, 0 if self.hosts_share else node.number).path

    def keep(self, node: Node, name: str, data: bytes) -> None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:  # a host may write below its folder here, and nowhere else
            return
        target = self._folder(node, self.run_dir.path) / path
        try:
            with os.fdopen(confined.open_write(target, self.run_dir.path), "wb") as file:
                file.write(data)
        except OSError as error:
            self.on_words(node.name, f"{name} was not kept: {error.strerror}")

    def outcome(self, stop_signal: int | None) -> Outcome:
        metrics = self.nodes[0].outcome.metrics if self.nodes[0].outcome else None
        if stop_signal is not None:
            return Outcome(EXIT_INTERRUPTED if stop_signal == signal.SIGINT else EXIT_TERMINATED, None, metrics)
        lost = [node for node in self.nodes if node.lost]
        if self.nodes[0].code == EXIT_OK:  # it ends well only once all nodes have reported success
            for node in lost:
                self.on_words(node.name, f"the connection ended with the job: {node.lost}")
            return Outcome(EXIT_OK, None, metrics)
        failed, failure = next(((n, f) for n in self.nodes if (f := _failure_of(n)) is not None), (None, None))
        refused = next((n for n in self.nodes if n.last_words and n.has_failed), None)
        if failed is not None and failure is not None:
            code = failed.code if failed.code in (EXIT_USER, EXIT_JOB_FAILED) else EXIT_JOB_FAILED
            said = next((n for n in lost if n.number == failure.node_rank), None)
            if said is not None and failure.type == NODE_LOST:
                failure = failure.but(what=f"{failure.what} ({said.name}: {said.lost})")
        elif refused is not None:
            failure = _refusal(refused)
            code = refused.code or EXIT_JOB_FAILED
        elif lost:
            what = f"node {lost[0].number} ({lost[0].name}) is lost: {lost[0].lost}"
            hint = "look at that host and the network; the others saved and stopped if they could"
            failure = Failure.of(
                rank=None,
                node_rank=lost[0].number,
                host=lost[0].name,
                type=NODE_LOST,
                what=what,
                hint=hint,
                traceback="",
            )
            code = EXIT_JOB_FAILED
        elif any(node.has_failed for node in self.nodes):
            node = next(node for node in self.nodes if node.has_failed)
            what = f"the launcher on {node.name} ended with code {node.code}"
            log = Path(node.log.name)
            failure = Failure.of(rank=None, what=what, hint=f"see {log}", traceback=rundir.tail(log))
            code = EXIT_JOB_FAILED
        else:
            return Outcome(max(node.code or 0 for node in self.nodes), None, metrics)
        if not self.run_dir.failure_path.exists():
            rundir.write_failure(self.run_dir.failure_path, failure)
        return Outcome(code, failure, metrics)


class _Signals:
    """Collects the signals that are ours to pass on."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._new: list[int] = []

    def on_signal(self, number: int, frame: object) -> None:
        streams.hurry()
        # A second ^C ends it at once over there too; other signals count once.
        if self.first is None or number == signal.SIGINT:
            self._new.append(number)
        self.first = self.first or number

    def take(self) -> list[int]:
        new, self._new = self._new, []
        return new


def _refuse(problems: Mapping[Node, tuple[str, str]]) -> None:
    """Raises LaunchError with a line for each host that has a problem."""
    if not problems:
        return
    rows = [(node, *problems[node]) for node in sorted(problems, key=lambda n: n.number)]
    what = "\n".join(f"{node.connection.host.where}: {node.name}: {what}" for node, what, _ in rows)
    raise LaunchError(what, hint="\n       ".join(dict.fromkeys(hint for *_, hint in rows)))


def _refusal(node: Node) -> Failure:
    """failure.json of a launcher that refused to start: its own words."""
    text = "\n".join(node.last_words)
    what, _, hint = text.removeprefix("error: ").partition("\n  fix: ")
    return Failure.of(
        rank=None,
        node_rank=node.number,
        host=node.name,
        type="LaunchError",
        what=f"{node.name}: {what}",
        hint=hint,
        exit_code=node.code,
        traceback="",
    )


def _failure_of(node: Node) -> Failure | None:
    return records.failure(node.outcome.failure) if node.outcome else None


def _log_of(host: Host, run_dir: RunDir) -> BinaryIO:
    path = run_dir.path / "nodes" / f"{_file_name(host)}.log"
    return open(path, "ab", opener=lambda *_: rundir.open_append(path))


def _file_name(host: Host) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in host.name)
