"""Every signature as a page: docs/troubleshooting.md."""

from __future__ import annotations

from launcher.diagnose.explain.signatures import built_in
from launcher.diagnose.explain.verdicts import OPTIONAL

_KINDS = {
    "root": "the failure itself",
    "peer": "this rank waited for, or lost, another one",
    "consequence": "follows from a failure elsewhere",
    "wrapper": "a label around the real message",
    "note": "harmless",
}
_AREAS = (
    ("environment", "Environment and versions", "环境与版本"),
    ("device", "Devices and driver", "设备与驱动"),
    ("memory", "Memory", "内存与显存"),
    ("communication", "Communication", "通信"),
    ("operator", "Operators", "算子"),
    ("model", "Model and checkpoint", "模型与检查点"),
    ("data", "Data", "数据"),
    ("deepspeed", "DeepSpeed", "DeepSpeed"),
    ("system", "System", "系统"),
    ("python", "Python", "Python"),
)


def _shown(template: str) -> str:
    """A text with its fields, as it reads where the log contains all of them."""
    count = 1
    while count:
        template, count = OPTIONAL.subn(lambda m: m[1].partition("|")[0], template)
    return template


def markdown() -> str:
    """docs/troubleshooting.md: the whole table, by area, in both languages."""
    out = [
        "# Troubleshooting 故障排查",
        "",
        "Made from the signatures in `launcher/diagnose/explain/` by `make docs`; do not edit by hand. `ascend-launch explain PATH`"
        " reads a run directory, a plog folder, a log or `-`, and names the one of these that counts, with rank, host and card.",
        "",
        f"{len(built_in())} signatures. Words in braces are filled from the log.",
    ]
    for area, english, chinese in _AREAS:
        rows = [s for s in built_in() if s.area == area]
        title = english if english == chinese else f"{english} {chinese}"
        out += ["", f"## {title}"]
        for s in rows:
            kind = "" if s.kind == "root" else f" ({_KINDS[s.kind]})"
            out += [
                "",
                f"### {s.id}{kind}",
                "",
                f"`{s.examples[0].replace('`', chr(39))[:160]}`",
                "",
                f"- {_shown(s.cause['en'])}",
                f"- **Fix:** {_shown(s.fix['en'])}",
                f"- {_shown(s.cause['zh'])}",
                f"- **处理：** {_shown(s.fix['zh'])}",
                f"- Source: {s.source}",
            ]
    return "\n".join(out) + "\n"
