"""What Slurm gave the job."""

from __future__ import annotations

import re

from launcher.accelerators import table as accelerators
from launcher.checks import Context, Finding, ok, skip
from launcher.clusters.slurm import script
from launcher.messages import Message


def check_slurm_cards(ctx: Context) -> Finding:
    """Asks the controller what the job was given."""
    name, job = "Slurm's cards", ctx.env.get("SLURM_JOB_ID")
    if not job or not ctx.recognised.startswith("Slurm"):
        return skip(name, "not a job of Slurm's")
    rc, text = ctx.run(["scontrol", "show", "job", "--oneliner", job])
    if rc != 0:
        return skip(name, Message("scontrol does not say what job {job} was given", job=job))
    asked = re.search(r"\bTresPerNode=(\S+)", text)
    cards = script.cards(asked[1], accelerators.load(ctx.device).gres) if asked else None
    if cards is None and re.search(r"\bOverSubscribe=NO\b", text):
        return ok(name, Message("job {job} has its nodes to itself", job=job))
    if cards is None:
        return Finding(
            name,
            "warn",
            Message(
                "job {job} asked for no card by the name npu{asked}", job=job, asked=f": {asked[1]}" if asked else ""
            ),
            "Slurm may give the same cards to another job",
            "ask with --gres=npu:N, or for whole nodes with --exclusive",
        )
    if ctx.nproc is not None and ctx.nproc > cards:
        return Finding(
            name,
            "fail",
            Message(
                "job {job} has {cards} cards a node, and {nproc} ranks are wanted",
                job=job,
                cards=cards,
                nproc=ctx.nproc,
            ),
            "ranks would take cards of another job",
            Message("--gres=npu:{nproc}, or --nproc {cards}", nproc=ctx.nproc, cards=cards),
        )
    return ok(name, Message("job {job} has {cards} a node", job=job, cards=cards))
