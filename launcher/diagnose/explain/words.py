"""An explanation as text, in English or Chinese."""

from __future__ import annotations

from launcher import messages
from launcher.diagnose.explain.signatures import Lang
from launcher.diagnose.explain.verdicts import Report, span


def language() -> Lang:
    """The reader's language, of the two that the table has."""
    return "zh" if messages.language().lower().startswith("zh") else "en"


WORDS = {
    "en": {
        "where": "where",
        "rank": "rank",
        "host": "host",
        "card": "card",
        "cause": "cause",
        "fix": "fix",
        "source": "source",
        "said_by": "seen by rank",
        "none": "no known error in {files} log files",
        "suspects": "silent ranks, look there first",
        "also": "also seen",
        "no_hint": "no log explains more; read the ranks' logs beside it, the last lines first.",
        "ranks": "ranks",
    },
    "zh": {
        "where": "位置",
        "rank": "rank",
        "host": "主机",
        "card": "卡",
        "cause": "原因",
        "fix": "处理",
        "source": "来源",
        "said_by": "报告者 rank",
        "none": "{files} 个日志文件中没有已知错误",
        "suspects": "没有任何报错的 rank，请先查看",
        "also": "另外还有",
        "no_hint": "日志中没有更多信息；请从最后几行开始查看各 rank 的日志。",
        "ranks": "rank",
    },
}


def render_text(report: Report, lang: Lang = "en") -> str:
    """The report for a terminal, without colour."""
    words, verdict = WORDS[lang], report.verdict
    if verdict is None:
        return words["none"].format(files=report.num_files)
    places = [
        f"{words['ranks']} {span(verdict.ranks)}"
        if verdict.ranks
        else (f"{words['rank']} {verdict.rank}" if verdict.rank is not None else "")
    ]
    places += [
        f"{words['host']} {verdict.host}" if verdict.host else "",
        f"{words['card']} {verdict.card}" if verdict.card is not None else "",
    ]
    out = [f"[{verdict.id}] {verdict.line}"]
    where = ", ".join(p for p in places if p)
    if verdict.reported_by is not None:
        where = f"{where} ({words['said_by']} {verdict.reported_by})".strip()
    location = f"{verdict.file}:{verdict.line_number}" if verdict.line_number else verdict.file
    out += [f"  {words['where']}: " + "; ".join(p for p in (where, location) if p)]
    out += [
        f"  {words['cause']}: {verdict.cause}",
        f"  {words['fix']}: {verdict.fix}",
        f"  {words['source']}: {verdict.source}",
    ]
    if report.suspects:
        out.append(f"  {words['suspects']}: {span(report.suspects)}")
    # What a failure itself has brought about says nothing more.
    unsaid = ("wrapper", "consequence") if verdict.kind == "root" else ("wrapper",)
    others = [v.id for v in report.others if v.kind not in unsaid and v.id != verdict.id]
    if others:
        out.append(f"  {words['also']}: " + ", ".join(dict.fromkeys(others)))
    return "\n".join(out)
