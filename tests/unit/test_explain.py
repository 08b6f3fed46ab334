"""What a log means: every real excerpt at hand, every row of the table, and texts that only look alike."""

from __future__ import annotations

import io
import json
import os
import re
import time
from pathlib import Path

import pytest

from launcher import explain
from launcher.errors import LaunchError

EXCERPTS = Path(__file__).parents[2].parent / "shared" / "facts" / "npu-logs"
needs_excerpts = pytest.mark.skipif(not EXCERPTS.is_dir(), reason="no real log excerpts beside the repo")

# excerpt → verdict, and what else must be named: culprit rank(s), host, card, the rank that reported
VERDICTS: dict[str, tuple[str | None, dict[str, object]]] = {
    "EI0001-env-invalid-plog": ("hccl-env-invalid", {}),
    "EI0001-socket-ifname-not-found-plog": ("hccl-ifname-not-found", {}),
    "EI0002-507048-notify-timeout-screen": ("hccl-heartbeat-lost", {"host": "90.90.92.240", "card": 1}),
    "EI0002-notify-wait-task-exception-plog": ("hccl-notify-timeout", {"rank": None, "reported_by": 2}),
    "EI0005-inconsistent-args-plog": ("hccl-args-inconsistent", {}),
    "EI0005-inconsistent-args-screen": ("hccl-args-inconsistent", {"rank": 4}),
    "EI0006-link-establish-timeout-plog": (
        "hccl-link-timeout",
        {"rank": 0, "host": "192.168.200.100", "card": 0, "reported_by": 1},
    ),
    "EI0012-sdma-screen": ("hccl-sdma", {"rank": 4800}),
    "EI0013-roce-cqe-plog": ("hccl-roce-cqe", {"host": "127.10.0.2"}),
    "EI0013-roce-cqe-screen": ("hccl-roce-cqe", {"host": "127.0.0.2", "card": 1}),
    "EI0015-agent-cannot-reach-root-plog": ("hccl-root-unreachable", {"host": "127.10.0.1"}),
    "EI0015-agent-missing-ranks-plog": ("hccl-ranks-missing", {"ranks": (1, 3, 5, 7)}),
    "EI0015-root-missing-ranks-plog": ("hccl-ranks-missing", {"ranks": (1, 3, 5, 7)}),
    "EI0019-host-port-60000-bound-plog": ("hccl-host-port-bound", {}),
    "EI0019-host-port-60000-bound-screen": ("hccl-host-port-bound", {}),
    "EI0019-npu-port-16666-bound-plog": ("hccl-npu-port-bound", {}),
    "ERR01002-mixed-device-screen": ("mixed-device", {"card": 0}),
    "ERR01007-op-fallback-cpu-screen": ("op-not-on-npu", {"card": 0}),
    "ERR02002-noncontiguous-screen": ("noncontiguous", {"rank": 0, "card": 0}),
    "address-already-in-use-29500-screen": ("port-in-use", {}),
    "doc-107001-EE1001-oldformat-screen": ("device-id-beyond", {}),
    "hccl-env-effective-values-plog": (None, {}),
    "heartbeat-stuck-cluster-exception-plog": ("hccl-stuck", {"host": "127.10.0.1", "card": 1}),
    "issue-107001-setdevice-EE1003-newformat-screen": ("device-id-beyond", {}),
    "issue-107001-visible-devices-beyond-cards-newformat-screen": ("visible-devices-none", {}),
    "issue-107020-EH9999-deepspeed-zero3-screen": ("hccl-task-timeout", {}),
    "issue-507011-synchronize-stream-screen": ("model-execution-failed", {"card": 0}),
    "issue-507018-aicpu-E39999-newformat-screen": ("aicpu-exception", {"card": 0}),
    "issue-507048-synchronize-internal-task-timeout-screen": ("hccl-notify-timeout", {"rank": None, "reported_by": 8}),
    "issue-507899-aclInit-no-device-access": ("driver-unreachable", {}),
    "issue-E40021-op-compile-failed-Conv3D-screen": ("op-compile", {"rank": 3, "card": 3}),
    "issue-EH9999-500001-missing-python-deps-screen": ("cann-python-deps", {}),
    "issue-EI0002-107020-accelerate-multi-npu-2023-screen": ("hccl-notify-timeout", {"rank": None}),
    "issue-EI0002-rank101-remote24-2025-screen": ("hccl-notify-timeout", {"rank": 24, "reported_by": 101}),
    "issue-EI0006-ppo-800TA2-CANN8.0.RC2-noPID-screen": ("hccl-socket-timeout", {}),
    "issue-EI0015-masked-one-npu-per-proc": ("hccl-rank-count", {}),
    "issue-EI0020-npu-port-16666-bound-newformat-screen": ("hccl-npu-port-bound", {}),
    "issue-EJ0001-hccp-already-running-screen": ("hccp-stale", {"card": 0}),
    "issue-EJ0003-port-bound-newformat-screen": ("hccl-npu-port-bound", {}),
    "issue-EL0004-507013-sdma-screen": ("oom-cann", {"card": 0}),
    "issue-EL0004-zero3-57b-lora-oom-screen": ("oom-cann", {"rank": 2, "card": 2}),
    "issue-EZ1001-dtype-not-implemented-screen": ("float64", {}),
    "issue-HcclCommInitRootInfo-errNo-plog": ("hccl-init-failed", {}),
    "issue-fftsplus-timeout-stuck-notify-context-screen": ("hccl-fftsplus-timeout", {"reported_card": 5}),
    "issue-libhccl-autoload-failed-screen": ("cann-not-sourced", {}),
    "issue-libhccl-cannot-open-screen": ("cann-not-sourced", {}),
    "issue-oom-60.96GiB-910B3-2025-screen": ("oom-npu", {"card": 2}),
    "issue-oom-60.97GiB-others-hold-memory-screen": ("oom-npu-others", {"card": 6}),
    "issue-oom-npu-out-of-memory-screen": ("oom-npu-others", {"card": 0}),
    "issue-torch_npu-has-no-_autoload-version-mismatch-screen": ("torch-npu-mismatch", {}),
    "issue-visible-devices-not-ascending-EE1001-207004-screen": ("visible-devices-order", {"rank": 3}),
    "issue-warn-double-cast-to-float": ("float64-cast", {"rank": 0}),
    "local-torch2.13-import-torch-autoload-no-cann": ("cann-not-sourced", {}),
    "ms-swift-libascend_hal-missing": ("driver-libs", {}),
    "real-plog-dispatch-timeout-reduce-scatter": ("hccl-dispatch-timeout", {"reported_card": 3}),
    "real-plog-ranktable-init-then-cqe": ("hccl-roce-cqe", {"host": "192.1.95.102", "reported_by": 76}),
    "real-plog-rootinfo-recv-timeout": ("hccl-root-recv-timeout", {"rank": None, "reported_by": 6}),
    "real-screen-507033-set-device-failed": ("device-process-limit", {}),
}


def first(text: str, lang: explain.Lang = "en") -> explain.Verdict:
    return explain.explain_text(text, lang)[0]


@needs_excerpts
@pytest.mark.parametrize("name", VERDICTS)
def test_every_real_excerpt_is_explained(name: str):
    """The verdict and whatever the text names: rank, host, card, who reported."""
    wanted, details = VERDICTS[name]
    verdicts = explain.explain_text((EXCERPTS / f"{name}.txt").read_text())
    assert (verdicts[0].id if verdicts else None) == wanted
    assert {key: getattr(verdicts[0], key) for key in details} == details if details else True


@needs_excerpts
def test_no_excerpt_is_left_out():
    assert {p.stem for p in EXCERPTS.glob("*.txt")} == set(VERDICTS)


EXAMPLES = [(s.id, text) for s in explain.signatures() for text in s.examples]


@pytest.mark.parametrize(("signature_id", "text"), EXAMPLES, ids=[f"{i}-{n}" for n, (i, _) in enumerate(EXAMPLES)])
def test_every_row_explains_its_own_examples(signature_id: str, text: str):
    """Each row has an example, and no other row takes it away."""
    assert first(text).id == signature_id


def literals(pattern: str) -> list[str]:
    """The plain texts inside a regular expression, roughly: what is left between its operators."""
    pattern = re.sub(
        r"\\(?P<dot>[.\[\](){}|*+?])",
        lambda m: {"[": "[", "]": "]"}.get(m[1], m[1]),
        re.sub(r"(?<!\\)\[(?:\\.|[^\]\\])*\]", "\0", pattern),
    )
    return [t for t in re.split(r"\0|\\[a-zA-Z]|\.\*\??|[()|?*+^$]|\{\d.*?\}", pattern) if t]


@pytest.mark.parametrize("signature", explain.signatures(), ids=lambda s: s.id)
def test_the_cheap_look_sees_every_row(signature: explain.Signature):
    """A log is searched for telltales first; a pattern without one would never be tried."""
    for pattern in signature.raw_patterns:
        assert any(t in text for text in literals(pattern) for t in explain._TELLTALES), pattern


def test_every_row_is_complete():
    """Causes and fixes in both languages, an example, a source; what is in braces is a group of the row's patterns."""
    for signature in explain.signatures():
        assert signature.examples, signature.id
        assert signature.source, signature.id
        groups = {g for p in signature.patterns for g in p.groupindex} | {"rank", "ranks"}
        if signature.id.startswith("oom-npu"):
            groups |= {"card", "total", "free", "reserved", "allocated", "wanted"}
        for words in (signature.cause, signature.fix):
            assert set(words) == {"en", "zh"}
            for lang, text in words.items():
                assert text, (signature.id, lang)
                assert set(re.findall(r"\{(\w+)\}", text)) <= groups, (signature.id, lang)
            assert any("\u4e00" <= c <= "\u9fff" for c in words["zh"]), signature.id
            assert not any("\u4e00" <= c <= "\u9fff" for c in words["en"]), signature.id


# --- the three shapes of CANN's codes, and the compact mode ---------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "EI0006: 2024-01-01-10:00:00.000.000 Something the table does not know.",
        "EI0006: [PID: 7] 2025-01-01-10:00:00.000.000 Something the table does not know.",
        "[PID: 7] 2026-01-01-10:00:00.000.000 Communication_Error_Get_Socket(EI0006): Something the table does not know.",
        "\x1b[31m[rank5]: EI0006: [PID: 7] 2025-01-01-10:00:00.000.000 Something the table does not know.\x1b[0m",
    ],
)
def test_a_code_is_known_in_every_shape(text: str):
    assert first(text).id == "hccl-socket-timeout"


def test_the_compact_mode_is_explained_by_its_text():
    """With TORCH_NPU_COMPACT_ERROR_OUTPUT=1 there is no code on screen."""
    known = first(
        "RuntimeError: CANN error: Set device failed, invalid device, set drv device=9, valid device range is [0, 8)"
    )
    unknown = first("RuntimeError: CANN error: the moon is in the wrong phase")
    assert (known.id, unknown.id) == ("device-id-beyond", "cann-compact")
    assert "plog" in unknown.fix


# --- look-alikes ---------------------------------------------------------------------------------------------------

HEALTHY = [
    "{'loss': 0.693, 'grad_norm': 1.2, 'learning_rate': 5e-05, 'epoch': 0.1}",
    "{'loss': 107001.0, 'step': 507018}",
    "Killed it at this restaurant, will come again",
    "Bus error on my trip, but the driver was nice",
    "Illegal instruction leaflet in the box",
    "I ran out of memory of the place. Connection reset by peer pressure?",
    "the wait staff times out often; timeout of 30 minutes",
    "See EI0006: timeouts are explained in the HCCL guide",
    "docs: codes EI0002, EI0005 and EE9999 are described below",
    "export HCCL_CONNECT_TIMEOUT=1200",
    "Downloading shards: 100%|██████████| 4/4 [00:01<00:00,  3.2it/s]",
    "Some weights of LlamaForSequenceClassification were not initialized from the model checkpoint at x: ['score.weight']",
    "UserWarning: None of the inputs have requires_grad=True. Gradients will be None",
    "`use_cache=True` is incompatible with gradient checkpointing. Setting `use_cache=False`.",
    "[INFO] HCCL(1,python):2025-01-01-00:00:00.000.000 [a.cc:1] [1]EI0006: 2025-01-01-00:00:00 Getting socket times out",
    "[2026-01-01 10:00:00,000] [INFO] [real_accelerator.py:203] Setting ds_accelerator to npu (auto detect)",
    "eval_accuracy = 0.9; return code = 0; exit code 0",
    "checkpoint-900 saved, 28 files, No errors",
    '    raise RuntimeError("NPU out of memory. Tried to allocate")  # a line of somebody\'s program, shown by cat',
]


@pytest.mark.parametrize("text", HEALTHY[:-1])
def test_what_only_looks_like_an_error_is_none(text: str):
    assert explain.explain_text(text) == []


def test_source_code_in_a_traceback_is_not_the_error():
    """A frame shows the line that was running; the words in it did not happen."""
    text = (
        "Traceback (most recent call last):\n"
        '  File "a.py", line 1, in f\n'
        '    raise ValueError("x") if ok else RuntimeError("NPU out of memory. Tried to allocate")\n'
        "ValueError: the sky is green\n"
    )
    assert [v.id for v in explain.explain_text(text)] == ["python-exception"]


# --- plain Python --------------------------------------------------------------------------------------------------

UNKNOWN = (
    "Traceback (most recent call last):\n"
    '  File "train.py", line 7, in main\n'
    "    f(x)\n"
    '  File "lib.py", line 3, in f\n'
    "    raise ValueError(x)\n"
    "ValueError: the sky is green\n"
)


def test_an_unknown_exception_is_told_with_its_place():
    verdict = first(UNKNOWN)
    assert verdict.id == "python-exception"
    assert "ValueError: the sky is green" in verdict.cause
    assert "lib.py:3" in verdict.cause


def test_the_direct_cause_counts_not_the_wrapper():
    """`raise X from Y` means Y."""
    chained = UNKNOWN + (
        "\nThe above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n"
        '  File "train.py", line 9, in main\n'
        "    raise RuntimeError from e\n"
        "RuntimeError: wrapped\n"
    )
    assert "the sky is green" in first(chained).cause


def test_a_consequence_after_an_unknown_exception_does_not_hide_it():
    text = UNKNOWN + (
        "Traceback (most recent call last):\n"
        '  File "b.py", line 1, in g\n'
        "    dist.barrier()\n"
        "RuntimeError: [gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:4242\n"
    )
    assert [v.id for v in explain.explain_text(text)] == ["python-exception", "gloo-peer-closed"]


def test_our_own_error_keeps_its_advice():
    text = UNKNOWN.replace(
        "ValueError: the sky is green", "launcher.errors.LaunchError: labels: 7 is not below num_labels 5"
    )
    verdict = first(text + "  fix: set model.num_labels=8\n")
    assert (verdict.id, verdict.fix) == ("launch-error", "set model.num_labels=8")


# --- run directories -----------------------------------------------------------------------------------------------


def write_run(
    root: Path, logs: dict[int, str], errors: dict[int, dict[str, object]] | None = None, attempt: int = 0
) -> Path:
    folder = root / f"attempt_{attempt}"
    folder.mkdir(parents=True)
    for rank, text in logs.items():
        (folder / f"rank_{rank}.log").write_text(text)
    for rank, record in (errors or {}).items():
        (folder / f"error_{rank}.json").write_text(json.dumps(record))
    return root


CLOSED = "RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4242\n"
WATCHDOG = "[E] Watchdog caught collective operation timeout: WorkHCCL(SeqNum=1, OpType=ALLREDUCE)\n"
NOTIFY = "EI0002: [PID: 1] 2025-01-01-10:00:00.000.000 Reason: The Notify register has not received the Notify record from remote rank: [{}]\n"
TARGET = "IndexError: Target 5 is out of bounds.\n"


def test_the_rank_that_failed_is_named_not_those_that_noticed(tmp_path: Path):
    """Consequences never win, wherever and whenever they are printed."""
    run = write_run(tmp_path, {0: CLOSED, 1: WATCHDOG, 2: "step 3\n" + TARGET, 3: NOTIFY.format("unknown")})
    report = explain.explain_path(run)
    assert report.verdict is not None
    assert (report.verdict.id, report.verdict.rank) == ("label-out-of-range", 2)
    assert report.verdict.file == "attempt_0/rank_2.log"
    assert (report.num_ranks, report.suspects) == (4, ())


def test_of_two_real_errors_the_earlier_one_counts(tmp_path: Path):
    """Ranks stamp their errors with the host's monotonic clock."""
    logs = {0: TARGET, 1: "OSError: [Errno 28] No space left on device\n"}
    errors = {
        0: {"rank": 0, "time_ns": 2_000, "traceback": TARGET},
        1: {"rank": 1, "time_ns": 1_000, "traceback": logs[1]},
    }
    verdict = explain.explain_path(write_run(tmp_path, logs, errors)).verdict
    assert verdict is not None
    assert (verdict.id, verdict.rank) == ("disk-full", 1)


def test_torch_elastics_record_is_read_too(tmp_path: Path):
    record = {
        "message": {"message": "IndexError: Target 7 is out of bounds.", "extraInfo": {"timestamp": "1700000000"}}
    }
    verdict = explain.explain_path(write_run(tmp_path, {0: ""}, {0: record})).verdict
    assert verdict is not None
    assert (verdict.id, verdict.rank, verdict.time_s) == ("label-out-of-range", 0, 1700000000.0)


def test_when_all_wait_the_silent_rank_is_the_suspect(tmp_path: Path):
    run = write_run(tmp_path, {r: NOTIFY.format("unknown") for r in (0, 1, 3)} | {2: "epoch 1\n"})
    report = explain.explain_path(run)
    assert report.verdict is not None
    assert (report.verdict.id, report.verdict.rank, report.suspects) == ("hccl-notify-timeout", None, (2,))


def test_a_named_peer_is_the_culprit(tmp_path: Path):
    verdict = explain.explain_path(write_run(tmp_path, {0: NOTIFY.format(3), 1: WATCHDOG})).verdict
    assert verdict is not None
    assert (verdict.rank, verdict.reported_by) == (3, 0)


def test_a_kill_by_the_kernel_is_memory(tmp_path: Path):
    """A SIGKILL leaves no text; the launcher's record has the exit status."""
    run = write_run(tmp_path, {0: CLOSED, 1: "step 12\n"})
    (run / "failure.json").write_text(json.dumps({"rank": 1, "process_exit_code": -9, "exit_code": 1, "host": "n0"}))
    verdict = explain.explain_path(run).verdict
    assert verdict is not None
    assert (verdict.id, verdict.rank) == ("oom-host-kill", 1)


def test_a_rank_that_does_not_move_is_named_by_the_agent(tmp_path: Path):
    """Nobody raised: failure.json holds what the agent saw."""
    run = write_run(tmp_path, {0: "step 7\n", 1: "step 7\n"})
    what = "rank 1 has not moved since loading the model of step 0: nothing for 600 s; rank 0 waits for it"
    (run / "failure.json").write_text(json.dumps({"rank": 1, "type": "Stalled", "what": what, "host": "n0"}))
    verdict = explain.explain_path(run).verdict
    assert verdict is not None
    assert (verdict.id, verdict.rank) == ("rank-stalled", 1)


def test_where_no_log_tells_the_launchers_own_words_do(tmp_path: Path):
    """A killed agent leaves its trace in failure.json alone."""
    run = write_run(tmp_path, {0: "step 7\n", 1: "step 7\n"})
    record = {"rank": None, "what": "the agent was killed by SIGTERM", "hint": "the same command goes on"}
    (run / "failure.json").write_text(json.dumps(record))
    report = explain.explain_path(run)

    assert report.verdict is not None
    assert (record["what"], record["hint"]) == (report.verdict.cause, report.verdict.fix)
    assert "where: failure.json\n" in explain.render_text(report)


def test_the_last_attempt_is_explained(tmp_path: Path):
    write_run(tmp_path, {0: TARGET}, attempt=0)
    write_run(tmp_path, {0: "MemoryError\n"}, attempt=1)
    verdict = explain.explain_path(tmp_path).verdict
    assert verdict is not None
    assert verdict.id == "oom-host"


def test_a_plog_finds_its_rank(tmp_path: Path):
    """By HCCL's own entry line, or by the pid in a rank's log."""
    plog = tmp_path / "plog" / "debug"
    plog.mkdir(parents=True)
    head = "{}HCCL(41,python):2025-01-01-10:00:00.000.000 [op_base.cc:1][41]"
    entry = (
        head.format("[INFO] ")
        + "Entry-HcclCommInitRootInfoConfigInner:ranks[8], rank[5], rootinfo: host ip[192.0.2.1]\n"
    )
    error = head.format("[ERROR] ") + "HCCL_RDMA_SL[99] is invalid. except: [0, 7]\n"
    (plog / "plog-41_20250101100000000.log").write_text(entry + error)
    verdict = explain.explain_path(tmp_path / "plog").verdict
    assert verdict is not None
    assert (verdict.id, verdict.rank) == ("hccl-env-invalid", 5)
    assert "HCCL_RDMA_SL=99" in verdict.cause
    (plog / "plog-41_20250101100000000.log").write_text(error)
    write_run(tmp_path, {6: "[ERROR] 2025-01-01-10:00:01 (PID: 41, x)\n[PID: 41] 2025-01-01 y\n"})
    verdict = explain.explain_path(tmp_path).verdict
    assert verdict is not None
    assert (verdict.id, verdict.rank) == ("hccl-env-invalid", 6)


def test_a_console_of_many_ranks_is_taken_apart(tmp_path: Path):
    """`[rank3]:` before a line says whose it is; the summary's first failure is not needed."""
    text = f"[rank0]: {CLOSED}[rank3]: {TARGET}[rank1]: {CLOSED}"
    (tmp_path / "console.txt").write_text(text)
    report = explain.explain_path(tmp_path / "console.txt")
    assert report.verdict is not None
    assert (report.verdict.id, report.verdict.rank, report.verdict.line_number) == ("label-out-of-range", 3, 2)


def test_elastics_summary_names_the_rank():
    text = "Root Cause (first observed failure):\n[0]:\n  host      : node7\n  rank      : 5 (local_rank: 5)\n  exitcode  : -9 (pid: 8)\n"
    verdict = first(text)
    assert (verdict.id, verdict.rank) == ("oom-host-kill", 5)


def test_standard_input_is_a_log(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TARGET.encode() + b"\xff")))
    verdict = explain.explain_path("-").verdict
    assert verdict is not None
    assert verdict.id == "label-out-of-range"


def test_nothing_to_read_is_said(tmp_path: Path):
    with pytest.raises(LaunchError, match="no such file"):
        explain.explain_path(tmp_path / "nowhere")
    with pytest.raises(LaunchError, match="no logs"):
        explain.explain_path(tmp_path)


def test_a_clean_run_has_no_verdict(tmp_path: Path):
    report = explain.explain_path(write_run(tmp_path, {0: "{'loss': 0.1}\n", 1: "done\n"}))
    assert report.verdict is None
    assert "no known error in 2 log files" in explain.render_text(report)


def test_memory_that_others_hold_is_told_from_memory_of_our_own():
    """61 GiB in all, 10 reserved here, nothing free: a smaller batch will not help."""
    line = "RuntimeError: NPU out of memory. Tried to allocate 2.00 MiB (NPU 4; 61.00 GiB total capacity; {0} GiB already allocated; 1.00 MiB free; {0} GiB reserved in total by PyTorch)"
    assert (first(line.format("10.00")).id, first(line.format("60.50")).id) == ("oom-npu-others", "oom-npu")


# --- words, speed, damage ------------------------------------------------------------------------------------------


def test_both_languages_say_the_same_thing(tmp_path: Path):
    run = write_run(tmp_path, {2: TARGET})
    english, chinese = (explain.render_text(explain.explain_path(run, lang), lang) for lang in ("en", "zh"))
    assert "num_labels" in english and "num_labels" in chinese
    assert "rank 2" in english and "原因" in chinese


@pytest.mark.parametrize(
    ("env", "lang"), [({"LANG": "zh_CN.UTF-8"}, "zh"), ({"LC_ALL": "C", "LANG": "zh_CN"}, "en"), ({}, "en")]
)
def test_the_language_follows_the_locale(env: dict[str, str], lang: str):
    assert explain.language(env) == lang


def test_a_large_log_is_read_in_bounded_time(tmp_path: Path):
    """10 MB of progress lines with one error at the end."""
    log = tmp_path / "attempt_0" / "rank_0.log"
    log.parent.mkdir()
    with log.open("w") as f:
        f.write("{'loss': 0.5, 'learning_rate': 1e-05, 'epoch': 0.25}\n" * 200_000)
        f.write(TARGET)
    started = time.process_time()
    verdict = explain.explain_path(tmp_path).verdict
    assert verdict is not None
    assert verdict.id == "label-out-of-range"
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0" * 1000,
        "[" * 100_000,
        "EI0006: " * 50_000,
        "(" * 50_000 + "NPU out of memory",
        "Traceback (most recent call last):",
        "a" * 1_000_000,
    ],
    ids=["empty", "nul", "brackets", "codes", "parens", "cut", "long-line"],
)
def test_damaged_text_is_survived(text: str):
    started = time.process_time()
    explain.explain_text(text)
    assert time.process_time() - started < 10


def test_damaged_records_are_survived(tmp_path: Path):
    run = write_run(tmp_path, {0: TARGET})
    (run / "attempt_0" / "error_0.json").write_text("{" * 5000)
    (run / "attempt_0" / "error_1.json").write_bytes(os.urandom(512))
    (run / "events.jsonl").write_text('{"rank": "x"}\n[[[[\nnull\n')
    verdict = explain.explain_path(run).verdict
    assert verdict is not None
    assert verdict.id == "label-out-of-range"


def test_a_report_is_json(tmp_path: Path):
    report = explain.explain_path(write_run(tmp_path, {2: TARGET}))
    assert json.loads(json.dumps(report.to_json()))["verdict"]["rank"] == 2


def test_the_troubleshooting_page_is_the_table():
    """docs/troubleshooting.md is made by tools/troubleshooting_docs.py, and every signature is in it once."""
    page = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
    assert page.read_text(encoding="utf-8") == explain.markdown()
    for signature in explain.signatures():
        assert (
            explain.markdown().count(f"### {signature.id}\n") + explain.markdown().count(f"### {signature.id} (") == 1
        )
