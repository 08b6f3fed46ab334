"""No secret and no terminal escape in what is written or shown, whatever writes it; `test_scrub` has the forms."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher.clusters.kubernetes import document
from launcher.clusters.slurm import script
from launcher.clusters.ssh.connection import argv
from launcher.clusters.ssh.hostfile import parse
from launcher.clusters.ssh.node import Job
from launcher.diagnose.explain.report import explain_path
from launcher.errors import LaunchError
from launcher.recipe import load
from launcher.render import env
from launcher.report import page as report_page
from launcher.rundir import events, records
from launcher.rundir.outcome import Outcome
from launcher.rundir.paths import RunDir
from launcher.show import findings
from launcher.show.console import err, out
from launcher.show.run import JsonView, OtherNodeView, View
from launcher.worker.agent import agent as agent_module
from launcher.worker.agent.agent import Agent
from launcher.worker.agent.nodes.many import ManyNodes
from launcher.worker.runtime import failure
from tests.unit import test_kubernetes, test_sbatch
from tests.unit.test_report import write_run
from tests.unit.test_worker_nodes import two_nodes

Write = Callable[..., Path]
SECRET = "n0t4eyes"
FORMS = [
    f"https://user:{SECRET}@host/x",
    f"http://u:p@ss/{SECRET}@proxy:8080",
    f"https://{SECRET}@host/x",
    f"https://host/x?token={SECRET}&a=b",
    f"MY_API_KEY={SECRET}",
    f"DB_PASS: {SECRET}",
    f"--hub-token {SECRET}",
    f"hf_{SECRET}",
    f"Bearer {SECRET}",
]
SAID = " and ".join(FORMS)
ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp.exe"
FAILURE = {
    "rank": 0,
    "attempt": 0,
    "what": f"{SAID}{ESCAPES}",
    "message": SAID,
    "hint": f"try {SAID}{ESCAPES}",
    "traceback": f"{SAID}{ESCAPES}",
    "explanation": {"cause": SAID, "fix": SAID},
    "exit_code": 1,
}


def is_clean(text: str) -> bool:
    return SECRET not in text and not any(c in text for c in "\x1b\x07\x9b\u202e")


def test_events_and_records_hold_no_secret(tmp_path: Path):
    """Whatever is handed to the two functions that write them."""
    failed = records.failure(FAILURE)
    assert failed is not None
    events.append_event(
        tmp_path / "events.jsonl", records.Note(text=SAID, more={"deep": [{"fix": SAID}], "HF_TOKEN": SECRET})
    )
    events.write_failure(tmp_path / "failure.json", failed)

    assert [] == [path.name for path in tmp_path.iterdir() if SECRET in path.read_text()]
    assert "try https://<hidden>@host/x" in (tmp_path / "failure.json").read_text()


def test_a_report_of_a_run_with_secrets_holds_none(tmp_path: Path):
    """Files of any version, and of programs that know nothing of this: failure, its hint, logs, recipe, notes."""
    folder = write_run(tmp_path / "run", failed=True)
    (folder / "metrics.json").unlink(missing_ok=True)
    (folder / "failure.json").write_text(json.dumps(FAILURE))
    (folder / "attempt_0").mkdir(exist_ok=True)
    (folder / "attempt_0" / "rank_0.log").write_text(SAID + ESCAPES)
    (folder / "recipe.yaml").write_text(
        f"# x.yaml\n#   data.path: {FORMS[0]}\ndata: {{path: '{FORMS[0]}', HF_TOKEN: {SECRET}}}\n"
    )
    with (folder / "events.jsonl").open("a") as file:
        for event in (
            {"event": "note", "text": SAID + ESCAPES},
            {"event": "restart", "time": 9, "attempt": 1, "of": 1, "rank": 0, "what": SAID},
        ):
            file.write(json.dumps(event, ensure_ascii=False) + "\n")
    runs = [report_page.load(folder)]
    page = report_page.html(runs)

    assert is_clean(page)
    assert is_clean(json.dumps(report_page.summary(runs), ensure_ascii=False))
    assert "host/x" in page


def test_nothing_secret_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """On either stream, in lines and as JSON."""
    texts = io.StringIO()
    for console in (out, err):
        monkeypatch.setattr(console, "_file", texts)  # `file` is the stream of the moment, and would stay it
    run = RunDir(tmp_path)
    (tmp_path / "x.log").write_text(f"Traceback (most recent call last):\nValueError: {SAID}{ESCAPES}\n")
    found = explain_path(tmp_path / "x.log")
    for view in (View(), JsonView(), OtherNodeView(1)):
        view.event(records.Note(text=SAID + ESCAPES))
        view.words("host", SAID + ESCAPES)
        view.end(Outcome(1, records.failure(FAILURE)), run, found)
    findings.explanation(found, "en", False)
    findings.explanation(found, "en", True)
    shown = texts.getvalue() + capsys.readouterr().out

    assert is_clean(shown)
    assert "gnp.exe" in shown


def test_an_exception_leaves_no_secret_in_its_record_and_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    try:
        raise RuntimeError(SAID)
    except RuntimeError as error:
        failure.record(tmp_path / "error_0.json", error, 0)

    assert SECRET not in (tmp_path / "error_0.json").read_text() + capfd.readouterr().err


@pytest.mark.parametrize("value", [FORMS[0], FORMS[2], FORMS[3]])
def test_a_recipe_with_a_secret_is_refused_without_saying_it(recipe: Write, value: str):
    """It would be copied into the run directory, the batch script, the manifest and the other nodes."""
    for path, overrides, variables in (
        (recipe(data={"path": value}), (), {}),
        (recipe(), (f"data.path={value}",), {}),
        (recipe(training={"logging_dir": value}), (), {}),
    ):
        with pytest.raises(LaunchError, match="holds a user, a password or a token in a URL") as caught:
            load.load(path, overrides, variables)
        assert SECRET not in str(caught.value)


def test_the_jobs_secret_is_no_recipe_key(recipe: Write):
    """As all variables of that prefix are that name a section."""
    assert load.load(recipe(), (), {"ASCEND_LAUNCH_SECRET": SECRET}).spec


def test_a_recipe_with_addresses_is_taken(recipe: Write):
    loaded = load.load(
        recipe(data={"path": "https://host:8080/@scope/x?page=2"}), ("output_dir=/data/me@example.com/runs",), {}
    )

    assert "/data/me@example.com/runs" == loaded.spec.output_dir


def test_env_json_and_the_other_node_hold_no_secret(recipe: Write, monkeypatch: pytest.MonkeyPatch):
    user = {
        "HF_ENDPOINT": FORMS[0],
        "ASCEND_LAUNCH_SECRET": SECRET,
        "HCCL_X_AUTH": SECRET,
        "HF_MY_PWD": SECRET,
        "HCCL_URL": FORMS[3],
    }
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    cards = two_nodes(recipe()).model_copy(update={"device": "npu"})
    link = ManyNodes(cards, 1, stop=lambda: None, on_stop=lambda number: None)

    assert SECRET not in json.dumps(env.record((), user))
    assert SECRET not in json.dumps(link._introduction)
    assert "HCCL_URL" in json.dumps(link._introduction)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_PASS", "x"),
        ("SMTP_PWD", "x"),
        ("MY_KEY", "x"),
        ("REGISTRY_AUTH", "x"),
        ("HF_ENDPOINT", FORMS[0]),
        ("PROXY", FORMS[2]),
        ("HF_MIRROR", FORMS[3]),
        ("http_proxy", f"user:{SECRET}@proxy:3128"),
        ("EXTRA", f"--token {SECRET}"),
        ("ASCEND_LAUNCH_SECRET", "x"),
    ],
)
def test_a_manifest_takes_no_secret_by_env(recipe: Write, name: str, value: str):
    with pytest.raises(LaunchError, match=f"--env {name}: a secret's value must not stand in a manifest") as caught:
        test_kubernetes.manifest(
            test_kubernetes.make(recipe()), "volcano", replace(test_kubernetes.POD, env={name: value})
        )
    assert SECRET not in str(caught.value)


def test_a_manifest_takes_what_is_no_secret_by_env(recipe: Write):
    variables = {
        "TOKENIZERS_PARALLELISM": "false",
        "TOKENIZER_KEY": "text",
        "HF_ENDPOINT": "https://mirror:8443/x",
        "OWNER": "me@example.com",
    }
    pod = replace(test_kubernetes.POD, env=variables)

    assert "me@example.com" in document.text(test_kubernetes.manifest(test_kubernetes.make(recipe()), "volcano", pod))


def test_a_slurm_jobs_nodes_share_a_secret_that_no_file_holds(recipe: Write, tmp_path: Path):
    """Another one at each start."""
    code = "import os; print(os.environ.get('ASCEND_LAUNCH_SECRET'))"
    command = replace(test_sbatch.command(), argv=[str(test_sbatch.command().python), "-c", code])
    many, one = (script.script(test_sbatch.make(recipe(), nodes=n), test_sbatch.JOB, command) for n in (2, 1))
    said = [test_sbatch.run_in_bash(many, tmp_path).stdout.decode().strip() for _ in range(2)]

    assert [64, 64] == [len(text) for text in said]
    assert said[0] != said[1]
    assert b"None\n" == test_sbatch.run_in_bash(one, tmp_path).stdout


def test_hosts_of_an_ssh_job_share_a_secret(tmp_path: Path):
    """It is in what standard input takes there, and in no word of a command line; the user's own where there is one."""
    host = parse("a slots=1\nb slots=1\n", "hosts")
    one = Job(
        hosts=host,
        words=(),
        recipe=Path("r.yaml"),
        overrides=(),
        digest="",
        nproc=1,
        endpoint=None,
        run_dir=tmp_path,
        cwd="/",
        python="python3",
        setup=None,
        env={},
        first_env={},
        cann=None,
        grace_s=1.0,
    )
    first, other = (one.host_env(n)["ASCEND_LAUNCH_SECRET"] for n in (0, 1))

    assert (first, 64) == (other, len(first))
    assert first != replace(one, secret=Job.__dataclass_fields__["secret"].default_factory()).secret
    assert first not in str(one) + " ".join([*one.argv(0, "a:1"), *argv(host[0], "python3", None)])
    assert "mine" == replace(one, env={"ASCEND_LAUNCH_SECRET": "mine"}).host_env(1)["ASCEND_LAUNCH_SECRET"]


def test_ranks_do_not_inherit_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A program of the user's may print its environment."""
    monkeypatch.setenv("ASCEND_LAUNCH_SECRET", SECRET)
    monkeypatch.setattr(
        Agent, "run", lambda agent: [agent.secret, os.environ.get("ASCEND_LAUNCH_SECRET"), SECRET in repr(agent)]
    )
    monkeypatch.setattr(agent_module.zygote, "die_with_parent", lambda number: None)
    monkeypatch.setattr(agent_module.start, "settle", lambda run: None)
    monkeypatch.setattr(RunDir, "plan", lambda run: SimpleNamespace(program=None))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        found = agent_module.main(["--run-dir", str(tmp_path)])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    assert [SECRET, None, False] == found
