"""How a job on several hosts ended, by what each of them said last."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from launcher import files
from launcher.clusters.ssh.node import Node
from launcher.errors import EXIT_INTERRUPTED, EXIT_JOB_FAILED, EXIT_OK, EXIT_TERMINATED, EXIT_USER
from launcher.messages import Message
from launcher.rundir import records
from launcher.rundir.outcome import Outcome
from launcher.rundir.records import NODE_LOST, Failure


def judged(nodes: Sequence[Node], stop_signal: int | None, on_words: Callable[[str, str], None]) -> Outcome:
    """The job's outcome. `on_words` hears of connections that ended with a job that ended well."""
    metrics = nodes[0].outcome.metrics if nodes[0].outcome else None
    if stop_signal is not None:
        return Outcome(EXIT_INTERRUPTED if stop_signal == signal.SIGINT else EXIT_TERMINATED, None, metrics)
    if nodes[0].code == EXIT_OK:  # it ends well only once all nodes have reported success
        for node in nodes:
            if node.lost:
                on_words(node.name, Message("the connection ended with the job: {lost}", lost=node.lost))
        return Outcome(EXIT_OK, None, metrics)
    code, failure = _first_cause(nodes)
    return Outcome(code, failure, metrics)


def judged_of_command(nodes: Sequence[Node], stop_signal: int | None) -> Outcome:
    """The outcome of a command that ran on every node: the exit code of the first that failed of itself."""
    if stop_signal is not None:
        return Outcome(EXIT_INTERRUPTED if stop_signal == signal.SIGINT else EXIT_TERMINATED, None, None)
    failed = next((node for node in nodes if node.code is not None and node.has_failed), None)
    if failed is not None and failed.code is not None:
        what = Message("the command on {node} ended with exit code {code}", node=failed.name, code=failed.code)
        hint = Message("see {log}", log=failed.log.name)
        failure = Failure.of(
            rank=None,
            node_rank=failed.number,
            host=failed.name,
            what=what,
            hint=hint,
            exit_code=failed.code,
            traceback="",
        )
        return Outcome(failed.code if failed.code > 0 else 128 - failed.code, failure, None)
    lost = next((node for node in nodes if node.lost), None)
    if lost is not None:
        return Outcome(EXIT_JOB_FAILED, _loss(lost), None)
    return Outcome(max(node.code or 0 for node in nodes), None, None)


def _first_cause(nodes: Sequence[Node]) -> tuple[int, Failure | None]:
    """What a node's launcher said of the job; else a launcher that refused, a host that was lost, one that just ended."""
    lost = [node for node in nodes if node.lost]
    for node in nodes:
        if (failure := _failure_of(node)) is not None:
            code = node.code if node.code in (EXIT_USER, EXIT_JOB_FAILED) else EXIT_JOB_FAILED
            peer = next((n for n in lost if n.number == failure.node_rank), None)
            if peer is not None and failure.type == NODE_LOST:
                failure = failure.but(what=f"{failure.what} ({peer.name}: {peer.lost})")
            return code, failure
    refused = next((n for n in nodes if n.last_words and n.has_failed), None)
    if refused is not None:
        return refused.code or EXIT_JOB_FAILED, _refusal(refused)
    if lost:
        return EXIT_JOB_FAILED, _loss(lost[0])
    failed = next((node for node in nodes if node.has_failed), None)
    if failed is not None:
        return EXIT_JOB_FAILED, _end(failed)
    return max(node.code or 0 for node in nodes), None


def _loss(node: Node) -> Failure:
    """failure.json of a host whose connection ended before its launcher did."""
    return Failure.of(
        rank=None,
        node_rank=node.number,
        host=node.name,
        type=NODE_LOST,
        what=Message(
            "node {lost} ({lost_name}) is lost: {lost_lost}", lost=node.number, lost_name=node.name, lost_lost=node.lost
        ),
        hint=Message("look at that host and the network; the others saved and stopped if they could"),
        traceback="",
    )


def _end(node: Node) -> Failure:
    """failure.json of a launcher that ended without a word of why."""
    log = Path(node.log.name)
    what = Message("the launcher on {node} ended with code {code}", node=node.name, code=node.code)
    return Failure.of(rank=None, what=what, hint=Message("see {log}", log=log), traceback=files.tail(log))


def _refusal(node: Node) -> Failure:
    """failure.json of a launcher that refused to start: its own message."""
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
