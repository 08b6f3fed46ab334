"""All hosts of a job that is started by ssh."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from launcher import __version__, confined, streams
from launcher.clusters.ssh.connection import Answer, Hub
from launcher.clusters.ssh.node import (
    CONNECT_S,
    FETCH_S,
    PATIENCE_S,
    PREPARE_S,
    SOON_S,
    STOP_MARGIN_S,
    Job,
    Node,
    refuse,
)
from launcher.clusters.ssh.outcome import judged, judged_of_command
from launcher.messages import Message
from launcher.rundir import events, lifecycle, records
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import RunDir
from launcher.rundir.records import Event
from launcher.signals import stop_signals_to


class Fleet:
    def __init__(
        self,
        job: Job,
        hub: Hub,
        nodes: list[Node],
        run_dir: RunDir,
        on_event: Callable[[Event], None],
        on_words: Callable[[str, str], None],
    ) -> None:
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
                Message("no word from there within {connect_s:.0f} s", connect_s=CONNECT_S),
                Message("try `ssh {destination} true`", destination=node.connection.host.destination),
            )
        refuse(problems)

    def prepare(self, token: str) -> None:
        job = self.job
        requests = {
            node: {
                "env": job.host_env(node.number),
                "cwd": job.cwd,
                "python": job.python,
                "setup": job.setup,
                "recipe": str(job.recipe or ""),
                "digest": job.digest,
                "version": __version__,
                "cann": job.cann,
                "run_dir": str(job.run_dir),
                "token": token,
            }
            for node in self.nodes
        }
        for node, answer in self.ask("prepare", requests, PREPARE_S).items():
            node.shares_files, node.address = answer["shared"], answer["address"]

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
                Message(
                    "does not share {place} with {first}: no checkpoint can be kept, which all ranks must reach",
                    place=self.job.remote_run_dir,
                    first=first.name,
                ),
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
                    problems[node] = (
                        Message("the connection ended: {last_words}", last_words=connection.last_words),
                        "look at that host",
                    )
        for node in requests:
            if node not in answers and node not in problems:
                problems[node] = Message("no answer within {timeout_s:.0f} s", timeout_s=timeout_s), "look at that host"
        refuse(problems)
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
            if self.job.command == "command":
                return judged_of_command(self.nodes, signals.first)
            self.fetch()
            outcome = judged(self.nodes, signals.first, self.on_words)
            if outcome.failure is not None and not self.run_dir.failure_path.exists():
                events.write_failure(self.run_dir.failure_path, outcome.failure)
            return outcome

    def tell(self, number: int) -> None:
        for node in self.nodes:
            if node.is_running:
                # A terminal's ^C reaches a command by its group, and not by the launcher that started it.
                is_for_all = self.job.command == "command" and number == signal.SIGINT
                node.connection.send("signal", number=number, is_for_all=is_for_all)

    def on_answer(self, node: Node, answer: Answer, payload: bytes) -> None:
        if "stream" in answer:
            node.log.write(payload)
            node.log.flush()
            if self.job.command == "command":
                self.has_begun = True
                self.on_output(node, answer["stream"], payload)
                return
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
            for stream, half in node.lines.items():
                if half and self.job.command == "command":
                    self.on_output(node, stream, b"\n")
        elif "closed" in answer and node.is_running:
            node.lost = node.connection.last_words or Message("ssh ended with code {closed}", closed=answer["closed"])
            node.log.write(f"{node.lost}\n".encode())
            if node.number == 0:
                self.release()

    def on_output(self, node: Node, stream: str, data: bytes) -> None:
        """What a command wrote: the first host's as it comes, the others' a line at a time with the host's name."""
        if node.number > 0:
            half = node.lines[stream]
            whole, newline, rest = bytes(half + data).rpartition(b"\n")
            half[:] = rest
            if not newline:
                return
            data = b"".join(f"[{node.name}] ".encode() + line + b"\n" for line in whole.split(b"\n"))
        text = data.decode(errors="surrogateescape")
        self.on_event(records.Output(stream=2 if stream == "err" else 1, text=text))

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
                    self.on_words(
                        node.name,
                        Message(
                            "{path} is large and stays there, in {place}", path=path, place=self.job.remote_run_dir
                        ),
                    )
        first = self.nodes[0]
        if not first.shares_files and first.code is not None and self.job.command == "run":
            self.on_words(
                first.name, Message("weights and checkpoints stay there, in {place}", place=self.job.remote_run_dir)
            )

    def _folder(self, node: Node, run_dir: Path) -> Path:
        """What is fetched of a node: its own part, or all of it where one speaks for all."""
        return lifecycle.for_node(run_dir, 0 if self.hosts_share else node.number).path

    def keep(self, node: Node, name: str, data: bytes) -> None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:  # a host may write below its folder here, and nowhere else
            return
        target = self._folder(node, self.run_dir.path) / path
        try:
            with os.fdopen(confined.open_write(target, self.run_dir.path), "wb") as file:
                file.write(data)
        except OSError as error:
            self.on_words(node.name, Message("{name} was not kept: {problem}", name=name, problem=error.strerror))


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
