"""A job in Slurm's queue: submitted by sbatch, looked up by squeue. The only place that calls them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launcher import files
from launcher.clusters.command import client, refused
from launcher.clusters.slurm.script import filled
from launcher.clusters.submission import Job, Script
from launcher.errors import EXIT_JOB_FAILED, EXIT_OK, EXIT_TERMINATED, LaunchError
from launcher.messages import Message
from launcher.rundir import events
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import RunDir
from launcher.rundir.records import Failure

REQUEUED_FROM = frozenset({"NODE_FAIL", "PREEMPTED", "BOOT_FAIL"})
"""Ends that Slurm itself may turn into another start a moment later."""
GOING = frozenset(
    {
        "",
        "PENDING",
        "CONFIGURING",
        "RUNNING",
        "COMPLETING",
        "SUSPENDED",
        "STOPPED",
        "REQUEUED",
        "REQUEUE_HOLD",
        "REQUEUE_FED",
        "RESIZING",
        "SIGNALING",
        "STAGE_OUT",
    }
)
"""States of a job that has not ended."""

WHERE = Message("a login node of the cluster")
KEPT_SLURM = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT", "SLURM_JWT"})
"""Of the variables of an allocation that submit is called from, those that say where Slurm is. The others describe that
allocation, and srun in the new job would take them for its own."""

SBATCH_HINTS = (
    (r"invalid partition", Message("`sinfo -o '%P %l %D %G'` lists partitions; name one with --partition")),
    (
        r"invalid generic resource|gres",
        Message("`sinfo -o '%P %G'` lists what nodes offer; say it with --gres, or leave --npus out"),
    ),
    (r"invalid account", Message("`sacctmgr show associations user=$USER` lists yours; name one with --account")),
    (r"invalid qos", Message("`sacctmgr show qos` lists them; name one with --qos")),
    (r"time limit|invalid --time", Message("`sinfo -o '%P %l'` lists each partition's limit; give less with --time")),
    (
        r"node configuration is not available|node count specification|more processors|memory specification",
        Message("`sinfo -N -o '%N %P %c %m %G'` lists what each node has; ask for less, or for another --partition"),
    ),
    (
        r"unable to contact|connection refused|munge|authentication|configuration file|cannot stat file|clustername",
        Message("this machine does not reach Slurm: submit from a login node, or set SLURM_CONF"),
    ),
    (r"policy|limits|qosmax|assoc", Message("the site limits what one user may ask for: ask for less")),
)


class SlurmJob(Job):
    """As squeue reports it; states are Slurm's names."""

    @property
    def has_ended(self) -> bool:
        return self.state not in GOING

    @property
    def may_start_again(self) -> bool:
        return self.state in REQUEUED_FROM

    @property
    def was_cancelled(self) -> bool:
        return self.state == "CANCELLED"


def sbatch(script: str, env: Mapping[str, str]) -> str:
    """Submit a batch script; the job's id.

    Raises:
        LaunchError: sbatch is missing, or refuses, with its message and a hint.
    """
    inside = "SLURM_JOB_ID" in env
    env = {k: v for k, v in env.items() if not inside or not k.startswith("SLURM_") or k in KEPT_SLURM}
    done = client(["sbatch", "--parsable"], env, script.encode(errors="surrogateescape"), WHERE)
    if done.returncode:
        raise refused("sbatch", done.stderr, SBATCH_HINTS, Message("`--dry-run` shows the script"))
    job = done.stdout.decode().strip().partition(";")[0]  # the rest is the cluster's name
    if not job.isdigit():
        raise LaunchError(
            "sbatch answered {stdout!r}, which is not a job id",
            hint="a site's wrapper may have changed it; `squeue --me` lists your jobs",
            stdout=done.stdout.decode(errors="replace"),
        )
    return job


def look(job: str, env: Mapping[str, str]) -> SlurmJob | None:
    """The job now; without a state where Slurm knows none of that number; None where Slurm does not answer."""
    columns = "State:32|,Reason:80|,exit_code:16|,RestartCnt:16|,NodeList:200|"
    try:
        done = client(["squeue", "--noheader", "--states=all", f"--jobs={job}", f"--Format={columns}"], env, b"", WHERE)
    except LaunchError:
        return None
    if done.returncode:
        return SlurmJob(job) if b"Invalid job id" in done.stderr else None
    cells = [cell.strip() for cell in done.stdout.decode(errors="replace").split("|")]
    if len(cells) < 5 or not cells[2].isdigit():
        return SlurmJob(job)
    status = int(cells[2])  # as wait() gives it
    code = 128 + (status & 127) if status & 127 else status >> 8
    return SlurmJob(job, cells[0], "" if cells[1] == "None" else cells[1], cells[4], code, int(cells[3] or 0))


def outcome(job: Job, run: RunDir, output: Path) -> Outcome:
    """How the job ended, by Slurm's word first: what a run left may be of an attempt before the last."""
    failure, metrics = events.read_failure(run.failure_path), files.read_json(run.metrics_path)
    if job.state == "COMPLETED" or (not job.has_ended and metrics):
        return Outcome(EXIT_OK, None, metrics)
    if job.state in ("CANCELLED", "PREEMPTED") or job.exit_code == EXIT_TERMINATED:
        return Outcome(EXIT_TERMINATED)
    code = job.exit_code if 0 < job.exit_code < 4 else EXIT_JOB_FAILED
    return Outcome(code, failure or _without_a_word(job, output))


def _without_a_word(job: Job, output: Path) -> Failure:
    """The job failed, and no agent could say why: the last that it printed."""
    what = {
        "TIMEOUT": "Slurm ended the job at its time limit",
        "NODE_FAIL": Message("a node of the job failed ({nodes})", nodes=job.nodes),
        "OUT_OF_MEMORY": "a node's memory limit was exceeded",
        "": "Slurm no longer knows the job, and it left no result",
    }.get(
        job.state, Message("the job ended as {state}, exit code {exit_code}", state=job.state, exit_code=job.exit_code)
    )
    return Failure.of(rank=None, what=what, hint=Message("see {output}", output=output), traceback=files.tail(output))


class Queue:
    """Slurm's, of which a job is followed."""

    def run_name(self, job: str) -> str:
        return f"slurm-{job}"

    def output(self, script: Script, job: str) -> Path:
        return Path(filled(script.output, job))

    def look(self, job: str, env: Mapping[str, str]) -> Job | None:
        return look(job, env)

    def outcome(self, job: Job, run: RunDir, output: Path) -> Outcome:
        return outcome(job, run, output)
