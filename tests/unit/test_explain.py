"""What a log means: every real excerpt at hand, every row of the table, and texts that only look alike."""

from __future__ import annotations

import io
import json
import os
import re
import time
from pathlib import Path

import pytest

from launcher import messages
from launcher.diagnose.explain import error_codes, matches, patterns, reference, signatures
from launcher.diagnose.explain import report as explain_report
from launcher.diagnose.explain.lines import shape_of
from launcher.diagnose.explain.matches import Row
from launcher.diagnose.explain.reading import Lines
from launcher.diagnose.explain.report import explain_text
from launcher.diagnose.explain.signatures import Lang, Signature
from launcher.diagnose.explain.verdicts import _FIELD, _SHARED, OPTIONAL, Verdict, _fill
from launcher.diagnose.explain.words import language, render_text
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


def first(text: str, lang: Lang = "en") -> Verdict:
    return explain_text(text, lang)[0]


@needs_excerpts
@pytest.mark.parametrize("name", VERDICTS)
def test_every_real_excerpt_is_explained(name: str):
    """The verdict and whatever the text names: rank, host, card, who reported."""
    wanted, details = VERDICTS[name]
    verdicts = explain_text((EXCERPTS / f"{name}.txt").read_text())
    assert (verdicts[0].id if verdicts else None) == wanted
    assert {key: getattr(verdicts[0], key) for key in details} == details if details else True


@needs_excerpts
def test_no_excerpt_is_left_out():
    assert {p.stem for p in EXCERPTS.glob("*.txt")} == set(VERDICTS)


EXAMPLES = [(s.id, text) for s in signatures.signatures() for text in s.examples]


@pytest.mark.parametrize(("signature_id", "text"), EXAMPLES, ids=[f"{i}-{n}" for n, (i, _) in enumerate(EXAMPLES)])
def test_every_row_explains_its_own_examples(signature_id: str, text: str):
    """Each row has an example, and no other row takes it away."""
    assert first(text).id == signature_id


@pytest.mark.parametrize("row", [r for r in matches._rows() if r.signature.patterns], ids=lambda r: r.signature.id)
def test_the_cheap_look_sees_every_row(row: Row):
    """A line is searched for plain texts before it is searched by patterns; each pattern has one, of three letters or more."""
    assert row.signature.look or row.needles
    assert all(len(text) >= 3 for text in row.needles)
    for text in row.signature.examples if row.signature.id != "oom-npu-others" else ():
        assert row.signature in [r.signature for r in matches.candidates(shape_of(text))]
    for pattern in () if row.signature.look else row.signature.patterns:
        assert patterns.needles(pattern), pattern.pattern


FROM_TABLES = {"name", "meaning", "module", "part", "kind", "said", "reason", "solution", "last"}


def test_every_row_is_complete():
    """Causes and fixes in both languages, an example, a source; what is in braces is a group of the row's patterns."""
    for signature in signatures.signatures():
        assert signature.examples, signature.id
        assert signature.source, signature.id
        groups = {g for p in signature.patterns for g in p.groupindex} | {"rank", "ranks"} | _SHARED
        groups |= {"last"} if "count" in groups else set()
        groups |= FROM_TABLES if signature.refine in ("cann", "acl", "hccl") else set()
        if signature.id.startswith("oom-npu"):
            groups |= {"card", "total", "free", "reserved", "allocated", "wanted"}
        for words in (signature.cause, signature.fix):
            assert set(words) == {"en", "zh"}
            for lang, text in words.items():
                assert text, (signature.id, lang)
                assert set(re.findall(r"\{(\w+)\}", text)) <= groups, (signature.id, lang)
            assert any("\u4e00" <= c <= "\u9fff" for c in words["zh"]), signature.id
            assert not any("\u4e00" <= c <= "\u9fff" for c in words["en"]), signature.id


@pytest.mark.parametrize("signature", signatures.signatures(), ids=lambda s: s.id)
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_text_reads_well_whatever_the_log_leaves_out(signature: Signature, lang: Lang):
    """Filled with nothing and with everything: no question mark stands for a word, no brace or bracket is left, and no
    field stands outside of brackets, where nothing could take its place."""
    for template in (signature.cause[lang], signature.fix[lang]):
        names = _FIELD.findall(template)
        for fields in ({}, *({n: "WORD"} for n in names), dict.fromkeys(names, "WORD")):
            text = _fill(template, fields)
            assert not re.search(r"\?|\[\[|\]\]|\{\w+\}|(?<!\w)\(\s*\)|（）|  | [,;:)]", text), text
            assert text.strip(), template
        outside = template
        while (inner := OPTIONAL.sub("", outside)) != outside:
            outside = inner
        assert _FIELD.findall(outside) in ([], ["message"], ["hint"]), template


def test_the_published_codes_have_names_and_words_in_both_languages():
    tables = error_codes.tables()
    for number, (name, english, chinese) in (tables["acl"] | tables["hccl"]).items():
        assert re.fullmatch(r"(ACL|ACLNN|HCCL)_E(RR(OR)?)?_?\w+", name), number
        assert english.isascii() and not english.endswith("."), number
        assert any("\u4e00" <= c <= "\u9fff" for c in chinese), number
    for table in ("modules", "titles", "torch_npu_parts", "torch_npu_kinds"):
        for key, (english, chinese) in tables[table].items():
            assert isinstance(key, str) and english.isascii() and chinese, key
    assert {100000, 107001, 145000, 161002, 200000, 207018, 300000, 361001, 500000, 507001, 507057, 561112} <= set(
        tables["acl"]
    )


UNKNOWN_BLOCKS = {
    "dated": "EK0099: [PID: 7] 2026-01-01-10:00:00.000.000 The moon is full. Reason: it rose.",
    "titled": "[PID: 7] 2026-01-01-10:00:00.000.000 Moon_Error_Full(EK0099): The moon is full.",
    "wrapped": "(VllmWorker rank=3 pid=9) ERROR 09-10 03:36:31 [x.py:5] RuntimeError: EK0099: [PID: 7] 2026-01-01-10:00:00.0 The moon is full.",
    "prefixed": "[rank3]: EK0099: 2026-01-01-10:00:00.000.000 The moon is full.",
    "bare": "EK0099: The moon is full.",
    "inner": "EK9999: [PID: 7] 2026-01-01-10:00:00.000.000 The moon is full.[FUNC:Rise][FILE:moon.cc][LINE:7]",
}


@pytest.mark.parametrize("shape", UNKNOWN_BLOCKS)
def test_an_unknown_code_yields_what_the_log_itself_says(shape: str):
    """Its title, and the Reason and Solution lines behind it, numbered lists whole; in both languages."""
    text = UNKNOWN_BLOCKS[shape] + (
        "\n        Possible Cause: The tide is high.\n        Solution: 1. Wait a month.\n        2. Close the curtain.\n"
        "        TraceBack (most recent call last):\n        Solution: of another block.\n"
    )
    for lang, words in (
        ("en", "the log says: 1. Wait a month. 2. Close the curtain"),
        ("zh", "日志建议：1. Wait a month."),
    ):
        verdict = first(text, lang)
        assert words in verdict.fix
        assert "The moon is full" in verdict.cause and "The tide is high" in verdict.cause
        assert "EK" in verdict.cause and "another block" not in verdict.fix


def test_chinese_reasons_and_solutions_are_read_too():
    text = "EK0099: [PID: 7] 2026-01-01-10:00:00.000.000 The moon is full.\n        可能原因：潮水高涨。\n        解决方法：等一个月。\n"
    verdict = first(text, "zh")

    assert "潮水高涨" in verdict.cause
    assert "等一个月" in verdict.fix


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "RuntimeError: NPU function error: aclrtCreateStream(&s), error code is 207008",
            ("207008", "ACL_ERROR_RT_NO_STREAM_RESOURCE", "streams of the card"),
        ),
        (
            "RuntimeError: x NPU function error: c10_npu::acl::AclrtDestroy(s), error code is 100039",
            ("c10_npu::acl::AclrtDestroy", "stub libraries"),
        ),
        ("RuntimeError: call aclnnAdd failed, error code is 561002", ("aclnnAdd", "561002", "tiling".upper())),
        (
            "RuntimeError: create HCCL function error: HcclBroadcast(buf, n), error code is 11",
            ("HcclBroadcast", "HCCL_E_TCP_CONNECT"),
        ),
        ("RuntimeError: NPU function error: aclrtX(s), error code is 999999", ("aclrtX failed with 999999.",)),
        (
            "[ERROR] 2025-01-01-00:00:00 (PID:1, Device:0, RankID:0) ERR04006 PROF memory error",
            ("ERR04006", "profiler", "memory"),
        ),
    ],
)
def test_a_number_is_told_by_its_published_name(line: str, words: tuple[str, ...]):
    verdict = first(line)

    assert all(word in verdict.cause for word in words), verdict.cause
    assert "?" not in verdict.cause + verdict.fix


def test_a_known_line_is_not_read_as_a_code():
    """What a row knows is not said a second time by the rows that read any code."""
    ids = [
        v.id for v in explain_report.explain_text("EI0006: [PID: 7] 2025-01-01-10:00:00.0 Getting socket times out.")
    ]

    assert ["hccl-socket-timeout"] == ids


VARIANTS: list[tuple[str, str, dict[str, object], tuple[str, ...]]] = [
    (
        "visible-devices-range",
        "EE1001: [PID: 9] 2026-03-02-09:33:13.6 The argument is invalid.Reason: set ASCEND_RT_VISIBLE_DEVICES:0,1,7 error, input data rang[0-4)",
        {},
        ("=0,1,7", "4 devices (0 to 3)"),
    ),
    (
        "visible-devices-range",
        "[PID: 9] 2026-03-02-09:33:13.6 Invalid_Argument(EE1003): Value 6 for environment variable ASCEND_RT_VISIBLE_DEVICES is invalid. Expected value: [0, 2).",
        {},
        ("=6", "(0 to 1)"),
    ),
    (
        "device-id-beyond",
        "[PID: 9] 2026-03-02-09:33:13.6 Invalid_Argument(EE1003): x failed because value 9 for parameter userDevId is invalid. Expected value: [0, 8).",
        {},
        ("(0 to 7)",),
    ),
    (
        "kernel-out-of-range",
        "[rank5]: The error from device(chipId:5, dieId:0), serial number is 1, errorStr: The DDR address of the MTE instruction is out of range.\n[rank5]: Aicore kernel execute failed, device_id=5, fault kernel_name=GatherV2_99ab_high_precision_1, fault",
        {"rank": 5, "card": 5},
        ("kernel GatherV2 read beyond", "MTE address out of range"),
    ),
    (
        "kernel-out-of-range",
        "Aicore kernel execute failed, device_id=1, fault kernel_name=te_scatterupdate_12abcd34ef_1, x\nNPU function error: x, error code is 507042",
        {"card": 1},
        ("kernel scatterupdate",),
    ),
    (
        "kernel-failed",
        "RuntimeError: NPU function error: sync, error code is 507015\nAIC_INFO: fault kernel_name=FlashAttentionScoreGrad_7f00aa_mix_aic, program id=3",
        {},
        ("kernel FlashAttentionScoreGrad failed",),
    ),
    (
        "aicore-exception",
        "EZ9999: [PID: 4] 2026-01-01-00:00:00.0 The error from device(chipId:6, dieId:1), serial number is 8, there is an aivec error, core id is 2, error code = 0x10",
        {"card": 6},
        ("a kernel failed",),
    ),
    (
        "aicore-exception",
        "there is an exception of aicore error, core id is 3, error code = 0x2",
        {},
        ("a kernel failed",),
    ),
    (
        "aicore-exception",
        "there is an fftsplus aivector error exception, core id is 9, error code = 0",
        {},
        ("a kernel failed",),
    ),
    (
        "two-accelerators",
        "terminate called after throwing an instance of 'c10::Error'\n  what():  Duplicated key 'pinned_reserve_segment_size_mb'",
        {},
        ("CUDA build",),
    ),
    (
        "device-id-invalid",
        "NPU function error: aclrtSetDevice(device_id_), error code is 107001\nEE1003: [PID: 5] 2025-01-01-10:00:00.1 Failed in a way that no row knows",
        {},
        ("visible cards",),
    ),
    (
        "cann-error",
        "EI0010: [PID: 3] 2025-01-01-10:00:00.1 It is so.\n        Reason: The moon.",
        {},
        ("EI0010, an error of HCCL", "ranks (cards of one", "): It is so. The log gives as the reason: The moon."),
    ),
    (
        "hbm-ecc",
        "EZ9999: [PID: 4] 2026-01-01-00:00:00.0 The error from device(chipId:6, dieId:0), there is an fftsplus aicore error, core id is 1\n The extend info: errorStr: The multi-bit ECC error of L1 is detected. fault kernel_name=MatMulV2_1234_1",
        {"card": 6},
        ("hardware",),
    ),
    (
        "hbm-ecc",
        "RuntimeError: NPU function error: sync, error code is 507054\nEE9999: Inner Error!\n HBM double bit ecc happened",
        {},
        ("hardware",),
    ),
    ("hbm-ecc", "kernel: [  12.3] uncorrectable HBM ECC error on device 3", {}, ("hardware",)),
    (
        "device-sdma",
        "EE9999: [PID: 1] 2026-01-01-00:00:00.0 The error from device(chipId:7, dieId:0), serial number is 2. there is a sdma error, sdma channel is 9",
        {"card": 7},
        ("SDMA", "same card"),
    ),
    (
        "opp-verify",
        "[rank2]: RuntimeError: Initialize: NPU function error: c10_npu::SetDevice(device_id_), error code is 507033\n[rank2]: E30006: [PID: 8] 2026-01-01-00:00:00.0 Failed to verify the OPP",
        {"rank": 2},
        ("OPP",),
    ),
    (
        "op-api-missing",
        "RuntimeError: aclnnMoeGatingTopK or aclnnMoeGatingTopKGetWorkspaceSize not in libcust_opapi.so, or libopapi.so not found.",
        {},
        ("aclnnMoeGatingTopK)",),
    ),
    (
        "static-tls",
        "OSError: /usr/lib/aarch64-linux-gnu/libGLdispatch.so.0: cannot allocate memory in static TLS block",
        {},
        ("libGLdispatch.so.0",),
    ),
    (
        "op-no-binary",
        "RuntimeError: call aclnnCast failed, detail:EZ1112: x error code is 561112",
        {},
        ("kernels package",),
    ),
    (
        "op-no-binary",
        "EZ9999: [PID: 3] 2026-05-17-01:30:26.9 Cannot find binary for op ReduceSum.",
        {},
        ("operator ReduceSum",),
    ),
    (
        "storage-on-two-cards",
        '[rank1]: RuntimeError: Attempted to set the storage of a tensor on device "npu:7" to a storage on different device "npu:1".',
        {"rank": 1},
        ("npu:7 and npu:1",),
    ),
    (
        "positions",
        "RuntimeError: The expanded size of the tensor (600) must match the existing size (514) at non-singleton dimension 1.  Target sizes: [2, 600].  Tensor sizes: [1, 514]",
        {},
        ("600", "514"),
    ),
    (
        "positions",
        "RuntimeError: The size of tensor a (700) must match the size of tensor b (512) at non-singleton dimension 1",
        {},
        ("700", "512"),
    ),
    (
        "positions",
        '  File "m.py", line 9, in forward\n    position_embeddings = self.position_embeddings(position_ids)\n  File "functional.py", line 2546, in embedding\n    return torch.embedding(weight, input, padding_idx, scale_grad_by_freq, sparse)\nIndexError: index out of range in self',
        {},
        ("position",),
    ),
    (
        "positions",
        'Traceback (most recent call last):\n  File "modeling_gpt2.py", line 9, in forward\n    position_embeds = self.wpe(position_ids)\nIndexError: index out of range in self',
        {},
        ("position",),
    ),
    (
        "token-out-of-range",
        'Traceback (most recent call last):\n  File "m.py", line 9, in forward\n    inputs_embeds = self.embed_tokens(input_ids)\nIndexError: index out of range in self',
        {},
        ("token id",),
    ),
    (
        "shape-mismatch",
        "RuntimeError: The size of tensor a (384) must match the size of tensor b (512) at non-singleton dimension 1",
        {},
        ("unequal shapes",),
    ),
    (
        "shape-mismatch",
        "RuntimeError: The size of tensor a (5) must match the size of tensor b (7) at non-singleton dimension 0",
        {},
        ("unequal shapes",),
    ),
    (
        "hccl-resource",
        "EI0007: [PID: 4] 2026-01-01-00:00:00.0 Failed to allocate resource[notify] with info [deviceLogicId:6]. Reason: x",
        {"card": 6},
        ("notify", "card 6"),
    ),
    (
        "hccl-transport",
        "EI0009: [PID: 4] 2026-01-01-00:00:00.0 Transport init error. Reason: createLink para:rank[4]-localUserrank[4]-localIpAddr[192.0.2.1], dst_rank[2]-remoteUserrank[2]-remote_ip_addr[192.0.2.9]",
        {"rank": 2, "reported_by": 4},
        ("rank 2",),
    ),
    (
        "hccl-same-address",
        "EI0009: [PID: 4] 2026-01-01-00:00:00.0 Transport init error. Reason: createLink para:rank[5]-localUserrank[5]-localIpAddr[192.0.2.7], dst_rank[3]-remoteUserrank[3]-remote_ip_addr[192.0.2.7]",
        {"rank": 5},
        ("rank 5 to rank 3", "192.0.2.7"),
    ),
    (
        "attention-parameters",
        "RuntimeError: npu_fusion_attention_grad:x.cpp:1 NPU function error: call aclnnFlashAttentionUnpaddingScoreGrad failed, error code is 161002",
        {},
        ("aclnnFlashAttentionUnpaddingScoreGrad", "161002"),
    ),
    (
        "op-parameters",
        "RuntimeError: addmm:x.cpp:1 NPU function error: call aclnnAddmm failed, error code is 161002",
        {},
        ("aclnnAddmm",),
    ),
    ("no-hccl-backend", "RuntimeError: ProcessGroupGloo does not support npu", {}, ("hccl",)),
    (
        "torch-npu-source-folder",
        "ImportError: cannot import name '_C' from partially initialized module 'torch_npu' (/src/torch_npu/__init__.py)",
        {},
        ("source folder",),
    ),
    (
        "python-exception",
        '[rank7]:   File "/a/b.py", line 3, in f\n[rank7]:     g()\n[rank7]: mylib.errors.MoonError: it rose',
        {"rank": 7},
        ("it rose", "b.py:3"),
    ),
]


@pytest.mark.parametrize(
    ("wanted", "text", "details", "words"), VARIANTS, ids=[f"{n}-{v[0]}" for n, v in enumerate(VARIANTS)]
)
def test_a_failure_is_known_by_its_kind(wanted: str, text: str, details: dict[str, object], words: tuple[str, ...]):
    """Other numbers, names and wrapping; the same verdict in both languages, without a hole in it."""
    verdict = first(text)

    assert (wanted, details) == (verdict.id, {k: getattr(verdict, k) for k in details})
    assert all(word in verdict.cause for word in words), verdict.cause
    assert first(text, "zh").id == wanted
    assert not re.search(r"[?{}]|\[\[", "".join((verdict.cause, first(text, "zh").cause, first(text, "zh").fix)))


def test_a_stack_that_somebody_printed_is_no_exception():
    """Frames without an exception behind them: a watchdog's or a debugger's."""
    assert [] == explain_report.explain_text(
        '  File "a.py", line 3, in f\n    g()\nThread 7\n  File "b.py", line 1, in h\nDone\n'
    )


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
    "HBM ECC double-bit error count: 0",
    "eval_accuracy = 0.9; return code = 0; exit code 0",
    "checkpoint-900 saved, 28 files, No errors",
    '    raise RuntimeError("NPU out of memory. Tried to allocate")  # a line of somebody\'s program, shown by cat',
]


@pytest.mark.parametrize("text", HEALTHY[:-1])
def test_what_only_looks_like_an_error_is_none(text: str):
    assert explain_report.explain_text(text) == []


def test_source_code_in_a_traceback_is_not_the_error():
    """A frame shows the line that was running; the words in it did not happen."""
    text = (
        "Traceback (most recent call last):\n"
        '  File "a.py", line 1, in f\n'
        '    raise ValueError("x") if ok else RuntimeError("NPU out of memory. Tried to allocate")\n'
        "ValueError: the sky is green\n"
    )
    assert [v.id for v in explain_report.explain_text(text)] == ["python-exception"]


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
    assert [v.id for v in explain_report.explain_text(text)] == ["python-exception", "gloo-peer-closed"]


def test_our_own_error_keeps_its_advice():
    text = UNKNOWN.replace(
        "ValueError: the sky is green", "launcher.errors.LaunchError: labels: 7 is not below num_labels 5"
    )
    verdict = first(text + "  fix: set model.num_labels=8\n")
    assert (verdict.id, verdict.fix) == ("launch-error", "set model.num_labels=8")


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
    report = explain_report.explain_path(run)
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
    verdict = explain_report.explain_path(write_run(tmp_path, logs, errors)).verdict
    assert verdict is not None
    assert (verdict.id, verdict.rank) == ("disk-full", 1)


def test_torch_elastics_record_is_read_too(tmp_path: Path):
    record = {
        "message": {"message": "IndexError: Target 7 is out of bounds.", "extraInfo": {"timestamp": "1700000000"}}
    }
    verdict = explain_report.explain_path(write_run(tmp_path, {0: ""}, {0: record})).verdict
    assert verdict is not None
    assert (verdict.id, verdict.rank, verdict.time_s) == ("label-out-of-range", 0, 1700000000.0)


def test_when_all_wait_the_silent_rank_is_the_suspect(tmp_path: Path):
    run = write_run(tmp_path, {r: NOTIFY.format("unknown") for r in (0, 1, 3)} | {2: "epoch 1\n"})
    report = explain_report.explain_path(run)
    assert report.verdict is not None
    assert (report.verdict.id, report.verdict.rank, report.suspects) == ("hccl-notify-timeout", None, (2,))


def test_a_named_peer_is_the_culprit(tmp_path: Path):
    verdict = explain_report.explain_path(write_run(tmp_path, {0: NOTIFY.format(3), 1: WATCHDOG})).verdict
    assert verdict is not None
    assert (verdict.rank, verdict.reported_by) == (3, 0)


def test_a_kill_by_the_kernel_is_memory(tmp_path: Path):
    """A SIGKILL leaves no text; the launcher's record has the exit status."""
    run = write_run(tmp_path, {0: CLOSED, 1: "step 12\n"})
    (run / "failure.json").write_text(json.dumps({"rank": 1, "process_exit_code": -9, "exit_code": 1, "host": "n0"}))
    report = explain_report.explain_path(run)
    assert report.verdict is not None
    assert (report.verdict.id, report.verdict.rank) == ("oom-host-kill", 1)
    assert "gloo-peer-closed" not in render_text(report, "en")  # which the kill has brought about


def test_a_rank_that_does_not_move_is_named_by_the_agent(tmp_path: Path):
    """Nobody raised: failure.json holds what the agent saw."""
    run = write_run(tmp_path, {0: "step 7\n", 1: "step 7\n"})
    what = "rank 1 has not moved since loading the model of step 0: nothing for 600 s; rank 0 waits for it"
    (run / "failure.json").write_text(json.dumps({"rank": 1, "type": "Stalled", "what": what, "host": "n0"}))
    verdict = explain_report.explain_path(run).verdict
    assert verdict is not None
    assert (verdict.id, verdict.rank) == ("rank-stalled", 1)


def test_a_rank_that_left_with_code_0_is_the_cause_unless_its_log_has_one(tmp_path: Path):
    """Not the rank that lost its peer, which is all that the logs say."""
    what = "ended with exit code 0 while other ranks waited for it: it came to its end without a call that they make"
    lost = (
        "RuntimeError: [third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4242\n"
    )
    found = []
    for number, said in enumerate(("done\n", "FileNotFoundError: [Errno 2] No such file or directory: 'x.csv'\n")):
        run = write_run(tmp_path / str(number), {0: lost, 1: said})
        (run / "failure.json").write_text(json.dumps({"rank": 1, "type": "Exit", "what": what}))
        found.append(explain_report.explain_path(run).verdict.id)

    assert ["rank-left-early", "file-missing"] == found


def test_where_no_log_tells_the_launchers_own_words_do(tmp_path: Path):
    """A killed agent leaves its trace in failure.json alone."""
    run = write_run(tmp_path, {0: "step 7\n", 1: "step 7\n"})
    record = {"rank": None, "what": "the agent was killed by SIGTERM", "hint": "the same command goes on"}
    (run / "failure.json").write_text(json.dumps(record))
    report = explain_report.explain_path(run)

    assert report.verdict is not None
    assert (record["what"], record["hint"]) == (report.verdict.cause, report.verdict.fix)
    assert "where: failure.json\n" in render_text(report)


def test_the_last_attempt_is_explained(tmp_path: Path):
    write_run(tmp_path, {0: TARGET}, attempt=0)
    write_run(tmp_path, {0: "MemoryError\n"}, attempt=1)
    verdict = explain_report.explain_path(tmp_path).verdict
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
    verdict = explain_report.explain_path(tmp_path / "plog").verdict
    assert verdict is not None
    assert (verdict.id, verdict.rank) == ("hccl-env-invalid", 5)
    assert "HCCL_RDMA_SL=99" in verdict.cause
    (plog / "plog-41_20250101100000000.log").write_text(error)
    write_run(tmp_path, {6: "[ERROR] 2025-01-01-10:00:01 (PID: 41, x)\n[PID: 41] 2025-01-01 y\n"})
    verdict = explain_report.explain_path(tmp_path).verdict
    assert verdict is not None
    assert (verdict.id, verdict.rank) == ("hccl-env-invalid", 6)


def test_a_console_of_many_ranks_is_taken_apart(tmp_path: Path):
    """`[rank3]:` before a line says whose it is; the summary's first failure is not needed."""
    text = f"[rank0]: {CLOSED}[rank3]: {TARGET}[rank1]: {CLOSED}"
    (tmp_path / "console.txt").write_text(text)
    report = explain_report.explain_path(tmp_path / "console.txt")
    assert report.verdict is not None
    assert (report.verdict.id, report.verdict.rank, report.verdict.line_number) == ("label-out-of-range", 3, 2)


def test_elastics_summary_names_the_rank():
    text = "Root Cause (first observed failure):\n[0]:\n  host      : node7\n  rank      : 5 (local_rank: 5)\n  exitcode  : -9 (pid: 8)\n"
    verdict = first(text)
    assert (verdict.id, verdict.rank) == ("oom-host-kill", 5)


def test_standard_input_is_a_log(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TARGET.encode() + b"\xff")))
    verdict = explain_report.explain_path("-").verdict
    assert verdict is not None
    assert verdict.id == "label-out-of-range"


def test_nothing_to_read_is_said(tmp_path: Path):
    with pytest.raises(LaunchError, match="no such file"):
        explain_report.explain_path(tmp_path / "nowhere")
    with pytest.raises(LaunchError, match="no logs"):
        explain_report.explain_path(tmp_path)


def test_a_clean_run_has_no_verdict(tmp_path: Path):
    report = explain_report.explain_path(write_run(tmp_path, {0: "{'loss': 0.1}\n", 1: "done\n"}))
    assert report.verdict is None
    assert "no known error in 2 log files" in render_text(report)


def test_memory_that_others_hold_is_told_from_memory_of_our_own():
    """61 GiB in all, 10 reserved here, nothing free: a smaller batch will not help."""
    line = "RuntimeError: NPU out of memory. Tried to allocate 2.00 MiB (NPU 4; 61.00 GiB total capacity; {0} GiB already allocated; 1.00 MiB free; {0} GiB reserved in total by PyTorch)"
    assert (first(line.format("10.00")).id, first(line.format("60.50")).id) == ("oom-npu-others", "oom-npu")


def test_both_languages_say_the_same_thing(tmp_path: Path):
    run = write_run(tmp_path, {2: TARGET})
    english, chinese = (render_text(explain_report.explain_path(run, lang), lang) for lang in ("en", "zh"))
    assert "num_labels" in english and "num_labels" in chinese
    assert "rank 2" in english and "原因" in chinese


@pytest.mark.parametrize(("chosen", "lang"), [("zh_CN", "zh"), ("zh", "zh"), ("en_GB", "en"), ("fr", "en")])
def test_the_table_is_shown_in_the_language_that_was_chosen(chosen: str, lang: str):
    messages.choose(chosen)
    try:
        assert lang == language()
    finally:
        messages.choose("en")


def repeated(count: int) -> str:
    """Error lines of two shapes on four ranks, of which each has numbers of its own; one other error at the end."""
    lines = (
        f"[rank{n % 4}]: [ERROR] 2026-11-28-10:{n // 60 % 60:02}:{n % 60:02} (PID:{1000 + n}, Device:{n % 8}, RankID:{n % 4}) "
        f"ERR00100 PTA call acl api failed 0x{n:x}\n[rank{n % 4}]: stream {n} timed out after {n}.{n} s"
        for n in range(count)
    )
    return "\n".join(lines) + "\n[rank2]: OSError: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("count", [50, 5000])
def test_lines_that_repeat_are_searched_by_few_patterns(count: int):
    """The table is asked once for lines that differ in numbers only; a line far down is found all the same."""
    reader = Lines()
    yielded = sum(1 for _ in reader.of(repeated(count)))
    verdict = first(repeated(count))

    assert len(reader.rows) <= 100
    assert all(len(rows) <= 10 for rows in reader.rows.values() if rows)
    assert yielded <= 8 * reader.MAX_REPEATS
    assert ("disk-full", 2, 2 * count + 1) == (verdict.id, verdict.rank, verdict.line_number)


def test_lines_that_differ_in_their_time_only_are_searched_so_often_and_no_more(monkeypatch: pytest.MonkeyPatch):
    """Times and process ids are no part of an error; each line that repeats would cost as much as the first."""
    searched = []
    matches_in = matches.matches_of_line
    monkeypatch.setattr(matches, "matches_of_line", lambda text, rows: searched.append(text) or matches_in(text, rows))
    line = "[ERROR] 2026-01-01-{:02}:{:02}:00 (PID:{}, Device:1, RankID:1) ERR00100 PTA call acl api failed\n"
    text = "".join(line.format(i // 60 % 24, i % 60, 1000 + i) for i in range(3000))

    assert 1 == first(text).line_number
    assert len(searched) <= 2 * Lines.MAX_REPEATS


@pytest.mark.parametrize(
    "prefix",
    [
        "3: ",
        " 12: ",
        "[pod/job-worker-1/main] ",
        "worker-1  | ",
        "[1,3]<stderr>:",
        "2026-01-02T03:04:05.678901234Z ",
        "2026-01-02T03:04:05.678+08:00 stderr F ",
    ],
)
def test_a_traceback_is_known_behind_what_consoles_put_before_lines(prefix: str):
    """srun --label, kubectl --prefix and --timestamps, docker compose, mpirun --tag-output."""
    lines = [
        "Traceback (most recent call last):",
        '  File "/x/train.py", line 5, in main',
        "    raise KeyError(k)",
        "KeyError: 'label'",
    ]
    verdict = first("".join(f"{prefix}{line}\n" for line in lines))

    assert "python-exception" == verdict.id
    assert "KeyError: 'label' (raised at /x/train.py:5)" in verdict.cause


def test_another_code_in_lines_that_repeat_is_found():
    """Shapes leave numbers out; what the numbers mean is not lost with them."""
    line = "RuntimeError: NPU function error: sync(stream), error code is {}\n"
    text = line.format(107020) * 3000 + line.format(507054) + line.format(107020) * 3000

    assert ["hbm-ecc", "hccl-task-timeout"] == [v.id for v in explain_report.explain_text(text)]


def test_a_line_that_says_nothing_is_searched_by_no_pattern():
    """Progress lines: neither their numbers nor their words are any pattern's."""
    reader = Lines()

    assert [] == list(reader.of("".join(f"{{'step': {n}, 'speed': {n}.5}}\r {n}%|###\n" for n in range(2000))))
    assert {None} == set(reader.rows.values())
    assert len(reader.rows) < 20


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
    explain_report.explain_text(text)
    assert time.process_time() - started < 10


def test_damaged_records_are_survived(tmp_path: Path):
    run = write_run(tmp_path, {0: TARGET})
    (run / "attempt_0" / "error_0.json").write_text("{" * 5000)
    (run / "attempt_0" / "error_1.json").write_bytes(os.urandom(512))
    (run / "events.jsonl").write_text('{"rank": "x"}\n[[[[\nnull\n')
    verdict = explain_report.explain_path(run).verdict
    assert verdict is not None
    assert verdict.id == "label-out-of-range"


def test_a_report_is_json(tmp_path: Path):
    report = explain_report.explain_path(write_run(tmp_path, {2: TARGET}))
    assert json.loads(json.dumps(report.to_json()))["verdict"]["rank"] == 2


def test_every_signature_is_once_in_the_troubleshooting_page():
    """Of which `make docs` writes docs/troubleshooting.md."""
    page = reference.markdown()

    for signature in signatures.signatures():
        assert 1 == page.count(f"### {signature.id}\n") + page.count(f"### {signature.id} (")
