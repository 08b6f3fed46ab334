"""Where models and the token are looked for is where huggingface_hub puts them; it is asked itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import assets
from launcher.checks import Context
from launcher.diagnose.doctor import model
from launcher.machine.cluster import Found

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ASK = """
import json, sys
from huggingface_hub import constants, file_download, try_to_load_from_cache
folder = file_download.repo_folder_name(repo_id=sys.argv[1], repo_type="model")
print(json.dumps([constants.HF_HUB_CACHE + "/" + folder, constants.HF_TOKEN_PATH,
                  [try_to_load_from_cache(sys.argv[1], "config.json", revision=r) for r in (None, "v1", sys.argv[2])]]))
"""


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"HF_HOME": "hf"},
        {"XDG_CACHE_HOME": "xdg"},
        {"HF_HOME": "hf", "HUGGINGFACE_HUB_CACHE": "old"},
        {"HF_HUB_CACHE": "new", "HUGGINGFACE_HUB_CACHE": "old", "HF_TOKEN_PATH": "token"},
    ],
    ids=" ".join,
)
def test_a_cached_model_is_where_huggingface_hub_finds_it(tmp_path: Path, said: dict[str, str]):
    """By branch, tag and commit; whichever variable moves the cache."""
    pytest.importorskip("huggingface_hub")
    env = {"HOME": str(tmp_path), **{name: str(tmp_path / value) for name, value in said.items()}}
    name = "org/some-model"
    repository = assets.hub_repository(name, env)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "snapshots" / COMMIT / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    for ref in ("main", "v1"):
        (repository / "refs" / ref).write_text(COMMIT)
    token = Path(env.get("HF_TOKEN_PATH") or assets.hub_home(env) / "token")
    token.parent.mkdir(parents=True, exist_ok=True)
    token.write_text("hf_x")
    ctx = Context(env, "cpu", Found(()), {})
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "XDG_"))}

    asked = subprocess.run(
        [sys.executable, "-c", ASK, name, COMMIT], env={**clean, **env}, capture_output=True, text=True, check=True
    )
    folder, token_path, files = json.loads(asked.stdout)

    assert (folder, token_path) == (str(repository), model.token(ctx))
    assert files == [str(assets.snapshot(name, revision, env) / "config.json") for revision in (None, "v1", COMMIT)]
    assert model.is_cached(ctx, name)
    assert not model.is_cached(ctx, "org/other")
