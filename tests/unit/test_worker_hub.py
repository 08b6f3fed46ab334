"""A hub id becomes a folder on this node, from whichever hub or mirror HF_ENDPOINT names, and offline from its cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent
TINY = REPO / "recipes" / "tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {path.name: path.read_bytes() for path in TINY.glob("*.json")} | {"original.pth": b"never fetched"}
LOCATE = """
import sys
from launcher.errors import LaunchError
from launcher.recipe import schema
from launcher.worker.models import folder
recipe = schema.RecipeSpec(model=schema.Model(name=sys.argv[1], num_labels=5), data=schema.Data(path="json"))
try:
    print(folder.locate(recipe))
except LaunchError as error:
    print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as a snapshot needs: org/tiny is public, org/gated is gated, nothing else exists."""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        kind = self.path.split("?")[0].strip("/").split("/")
        name = "/".join(kind[2:4] if kind[0] == "api" else kind[:2])
        if name == "org/gated":
            self._send(403, b"{}", with_body, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        elif name != "org/tiny":
            self._send(404, b"{}", with_body, {"X-Error-Code": "RepoNotFound"})
        elif kind[0] == "api" and "tree" in kind:
            tree = [{"type": "file", "path": n, "size": len(b), "oid": f"{n}-1"} for n, b in FILES.items()]
            self._send(200, json.dumps(tree).encode(), with_body, {})
        elif kind[0] == "api":
            siblings = [{"rfilename": file} for file in FILES]
            self._send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), with_body, {})
        elif kind[-1] in FILES:
            headers = {"ETag": f'"{kind[-1]}-1"', "X-Repo-Commit": COMMIT}
            self._send(200, FILES[kind[-1]], with_body, headers)
        else:
            self._send(404, b"{}", with_body, {"X-Error-Code": "EntryNotFound"})

    def _send(self, status: int, body: bytes, with_body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def mirror() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def locate(name: str, home: Path, **env: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    env = {**clean, "HF_HOME": str(home), "PYTHONPATH": str(REPO), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*", **env}
    done = subprocess.run([sys.executable, "-c", LOCATE, name], env=env, capture_output=True, text=True, timeout=120)
    assert 0 == done.returncode, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_a_mirror_serves_the_model_and_its_cache_serves_it_offline(mirror, tmp_path):
    """HF_ENDPOINT is asked for the files that are needed and no others; afterwards HF_HUB_OFFLINE=1 finds them."""
    online = Path(locate("org/tiny", tmp_path, HF_ENDPOINT=mirror))
    offline = Path(locate("org/tiny", tmp_path, HF_HUB_OFFLINE="1"))

    assert online == offline
    assert COMMIT == online.name
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} == {path.name for path in online.iterdir()}
    assert FILES["config.json"] == (online / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [("org/gated", "is gated", "HF_TOKEN"), ("org/nothing", "no such model on the hub", "check the spelling")],
)
def test_a_hub_that_refuses_is_explained(mirror, tmp_path, name, what, fix):
    """Gated and missing models, in the hub's own status codes."""
    text = locate(name, tmp_path, HF_ENDPOINT=mirror)

    assert what in text
    assert fix in text


def test_a_mirror_that_is_down_is_explained(tmp_path):
    """Nothing listens there."""
    text = locate("org/tiny", tmp_path, HF_ENDPOINT="http://127.0.0.1:9")

    assert "the hub cannot be reached" in text
    assert "HF_ENDPOINT" in text
