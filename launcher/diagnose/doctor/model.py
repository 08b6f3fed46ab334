"""The model of a recipe: whether it is there, or can be fetched."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from launcher import assets
from launcher.checks import Context, Finding, ok, skip
from launcher.messages import Message


def is_hub_id(name: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not name.startswith(".")


def is_cached(ctx: Context, model: str) -> bool:
    """Whether the hub's cache has the model, of any revision."""
    snapshots = assets.hub_repository(model, ctx.env) / "snapshots"
    try:
        return any((s / "config.json").exists() for s in snapshots.iterdir())
    except OSError:
        return False


def check_model(ctx: Context) -> Finding:
    name, model = "model", ctx.model_name
    if not model:
        return skip(name, "no recipe given")
    folder = Path(model).expanduser()
    if folder.is_dir():
        return ok(name, Message("folder {folder}", folder=folder))
    if not is_hub_id(model):
        return Finding(
            name,
            "fail",
            Message("{model}: no such folder", model=model),
            "nothing can be loaded",
            "check model.name; it must exist on every node",
        )
    if ctx.hub == "huggingface" and is_cached(ctx, model):
        return ok(name, Message("{model} is in the cache", model=model))
    if ctx.env.get("HF_HUB_OFFLINE") == "1":
        return Finding(
            name,
            "fail",
            Message("{model} is not in the cache, and HF_HUB_OFFLINE=1", model=model),
            "it cannot be downloaded",
            Message("hf download {model} where there is a network, then copy HF_HOME", model=model),
        )
    return ok(name, Message("{model} will be downloaded", model=model))


def token(ctx: Context) -> str | None:
    """Where a hub token comes from; never the token."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if ctx.env.get(variable):
            return variable
    file = Path(ctx.env.get("HF_TOKEN_PATH") or assets.hub_home(ctx.env) / "token")
    return str(file) if file.is_file() else None


GATED = ("meta-llama/", "google/gemma", "mistralai/")


def check_token(ctx: Context) -> Finding:
    name, model = "hub token", ctx.model_name or ""
    if not model.startswith(GATED) or ctx.hub != "huggingface" or is_cached(ctx, model) or Path(model).is_dir():
        return skip(name, "not needed")
    where = token(ctx)
    if where is None:
        return Finding(
            name,
            "fail",
            Message("{model} is gated, and there is no token", model=model),
            "the download is refused",
            "accept the terms on the model's page, then `hf auth login`; or model.hub=modelscope, or a folder",
        )
    return ok(name, Message("from {where}", where=where))


def check_hub(ctx: Context) -> Finding:
    """Opens a connection to the hub, which may take seconds."""
    name, model = "hub", ctx.model_name or ""
    if not is_hub_id(model) or Path(model).is_dir() or is_cached(ctx, model) or ctx.hub != "huggingface":
        return skip(name, "not needed")
    endpoint = ctx.env.get("HF_ENDPOINT", "https://huggingface.co")
    host = re.sub(r"^https?://", "", endpoint).split("/")[0]
    if ctx.env.get("HTTPS_PROXY") or ctx.env.get("https_proxy"):
        return skip(name, Message("{host} goes through a proxy", host=host))
    address, _, port = host.partition(":")
    try:
        with socket.create_connection((address, int(port or (443 if endpoint.startswith("https") else 80))), timeout=3):
            return ok(name, Message("{host} answers", host=host))
    except (OSError, ValueError):
        return Finding(
            name,
            "fail",
            Message("{host} does not answer", host=host),
            Message("{model} cannot be downloaded", model=model),
            "set HF_ENDPOINT to a mirror, use model.hub=modelscope, or a local folder",
        )
