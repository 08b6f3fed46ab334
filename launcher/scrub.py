"""What must not be written or shown: secrets, and characters that a terminal obeys. One place for all, called where things
are written and shown: by rundir, report, render and show.

A secret is recognised by its surroundings: the name of its variable or key, its place in a URL, the mark that a
service gives its tokens. Doubtful cases are hidden in texts that are only shown; nothing here changes what a job reads.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "<hidden>"

# -- names ---------------------------------------------------------------------------------------------------------

_ANYWHERE = frozenset(
    {
        "token",
        "secret",
        "secrets",
        "password",
        "passwd",
        "passphrase",
        "credential",
        "credentials",
        "apikey",
        "private",
        "authorization",
        "jwt",
    }
)
_LAST = frozenset({"key", "keys", "pass", "pwd", "auth", "pat", "cookie", "sas", "sk", "ak"})
"""Words that make a name a secret's where it ends in them, and has others before."""
_NO_SECRETS = frozenset({"PWD", "OLDPWD"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def is_secret(name: str) -> bool:
    """Whether a variable or a key of that name holds a secret: HF_TOKEN, WANDB_API_KEY, DB_PASS, SMTP_PWD, apiKey; not
    TOKENIZERS_PARALLELISM, tokenizer_key, max_new_tokens, PWD."""
    words = [word.lower() for word in _WORD.findall(name)]
    while words and words[-1].isdigit():  # DB_PASSWORD_2
        words.pop()
    if not words or name in _NO_SECRETS or any(word.startswith("tokeniz") for word in words):
        return False
    joined = "_".join(words)
    return (
        not _ANYWHERE.isdisjoint(words)
        or (len(words) > 1 and words[-1] in _LAST)
        or joined.endswith("connection_string")
        or bool(re.search(r"(token|secret|password|passwd|apikey|sshpass)$", joined))
    )


def _is_secret_setting(name: str) -> bool:
    """The same for a key of a record, where a tokenizer's `pad_token` and a report's `max_token` are none: as variables are
    written, or plainly a secret's."""
    return is_secret(name) and (name.isupper() or bool(_PLAINLY.search(name)))


_PLAINLY = re.compile(
    r"password|passwd|passphrase|secret|credential|api[-_]?key|(access|auth|hub|hf|refresh|bearer|private)[-_]?token",
    re.IGNORECASE,
)


def _may_be_secret(name: str) -> bool:
    """Whether such a name holds a secret where its value looks like one: `token`, `db_pwd`, `--auth`; and `pad_token`."""
    words = [word.lower() for word in _WORD.findall(name)]
    return bool(words) and words[-1] in ("token", "auth", "pass", "pwd", "pat")


def _is_secret_of(name: str, content: str) -> bool:
    return _is_secret_setting(name) or (_may_be_secret(name) and bool(_STRONG.fullmatch(content)))


_STRONG = re.compile(r"(?=[\w+=-]*\d)(?=[\w+=-]*[A-Za-z])[\w+=-]{10,}(?![\w./:@+=-])")
"""What a service's token looks like, and neither a word, a number, a path, a model's name nor `<|end_of_text|>`."""

# -- text ----------------------------------------------------------------------------------------------------------

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20}://)([^\s\"'<>`\\]+)")
_QUERY = re.compile(r"([?&;](?:amp;)?)([A-Za-z0-9_.-]{1,64})=([^&#\s\"'<>;]+)")
_IN_QUERY = frozenset({"key", "token", "auth", "sig", "signature", "pass", "pwd", "sas", "ak", "sk", "accesskeyid"})
_BARE = re.compile(r"(?<![\w/@.])[\w.+-]+:[^\s@/:\"']+@(?=[\w.-]+:\d)")
"""user:password@host:port, as proxies are given without a scheme."""
_SETTING = re.compile(r"(?<![\w-])(--[A-Za-z][\w-]{1,63}(?:=|[ ]+)(?=[^\s-])|[A-Za-z][\w-]{1,63}[\"']?\]?[ ]?[=:][ ]?)")
_VALUE = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'|[^\s\"',;)}\]]+")
_PROSE = re.compile(r"[a-z]{1,12},? [a-z]|[\w.]+: ")
"""What follows `HF_TOKEN: ` in a sentence: words, or a key that they are about."""
_PLACEHOLDER = "SECRET:KEY"
"""As in `--secret DB_PASS=SECRET:KEY`, which says how a Secret is named."""
_MARKED = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{8,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|sk-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{16}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})"
)
_HEADER = re.compile(r"\b(Bearer|Basic|(?i:authorization)[\"']?[:=]\s*[\"']?\w+)\s+[A-Za-z0-9._~+/=-]{8,}")
_HOST = re.compile(r"[\w.-]+(:\d+)?(?=[/?#,;)\]]|$)|\[[0-9a-fA-F:.]+\]")
_SSH = ("ssh://", "git+ssh://", "sftp://", "rsync://")


def hide(text: str) -> str:
    """`text` without its secrets."""
    if "://" in text:
        text = _URL.sub(lambda m: m[1] + _without_user(m[1].lower(), m[2]), text)
    if "@" in text:
        text = _BARE.sub(f"{HIDDEN}@", text)
    if "=" in text or ":" in text or "--" in text:
        text = _QUERY.sub(_query, text)
        text = _without_settings(text)
        text = _HEADER.sub(rf"\1 {HIDDEN}", text)
    return _MARKED.sub(HIDDEN, text)


def own(env: Mapping[str, str]) -> tuple[str, ...]:
    """The values of secrets among variables, the longest first, as far as they cannot be anything else: a word of letters
    alone, or a path, may stand in a text for itself."""
    values = {
        value
        for name, value in env.items()
        if is_secret(name) and _is_strong(name) and re.fullmatch(r"(?=.*[0-9])(?=.*[A-Za-z])[^\s/][^\s]{7,}", value)
    }
    return tuple(sorted(values, key=len, reverse=True))


def _is_strong(name: str) -> bool:
    return bool(re.search(r"TOKEN|SECRET|PASS|PWD|CREDENTIAL|API_?KEY|ACCESS_KEY", name))


_OWN = own(os.environ)


def without(text: str, values: tuple[str, ...] = _OWN) -> str:
    """`text` without the user's own secrets, wherever a library has put them. For texts that are shown, or say what
    happened; what a job reads again is left alone."""
    for one in values:
        if one in text:
            text = text.replace(one, HIDDEN)
    return text


def has_url_secret(text: str) -> bool:
    """Whether a URL in it carries a user, a password or a token."""
    hidden = _URL.sub(lambda m: m[1] + _without_user(m[1].lower(), m[2]), text)
    return "://" in text and _QUERY.sub(_query, hidden) != text


def hidden(name: str, value: str) -> str:
    """A variable's value, as it may be written beside its name."""
    if is_secret(name):
        return HIDDEN
    if name.lower().endswith("proxy") and "@" in value and "://" not in value:
        return f"{HIDDEN}@{value.rpartition('@')[2]}"
    return hide(value)


def _without_user(scheme: str, rest: str) -> str:
    """A URL's rest without what names a user. A password may hold @ and /, so the last @ that a host follows ends it; a
    path may hold @ too, as in https://host/@scope/name, where nothing before its first / looks like a user."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if scheme in _SSH and ":" not in authority:
        return rest
    ends = [i for i, c in enumerate(rest) if c == "@" and _HOST.match(rest, i + 1)]
    if not ends or not authority:
        return rest
    if "@" not in authority:
        _, colon, port = authority.partition(":")
        if not colon or (port.isdigit() and rest[ends[-1] - 1] == "/"):
            return rest
    return f"{HIDDEN}@{rest[ends[-1] + 1 :]}"


def _query(match: re.Match[str]) -> str:
    name = match[2]
    is_one = name.lower() in _IN_QUERY or is_secret(name) or name.lower().startswith("x-amz-")
    return f"{match[1]}{name}={HIDDEN}" if is_one else match[0]


def _without_settings(text: str) -> str:
    """`NAME=value`, `name: "value"` and `--name value`, whose values are looked at for secret names alone."""
    out, end = [], 0
    for match in _SETTING.finditer(text):
        name = match[1].rstrip(" =:\"']")
        is_one = is_secret(name) if name.startswith("--") else _is_secret_setting(name)
        is_one = is_one or (_may_be_secret(name) and bool(_STRONG.match(text, _unquoted(text, match.end()))))
        setting = _VALUE.match(text, match.end()) if is_one and match.start() >= end else None
        if setting is not None and ": " in match[0] and _PROSE.match(text, match.end()):
            continue
        if setting is not None and (match[0] + setting[0]).endswith(_PLACEHOLDER):
            continue
        if setting is not None and not setting[0].strip("\"'").startswith(("None", HIDDEN)):
            quote = setting[0][0] if setting[0][0] in "\"'" else ""
            out += [text[end : match.end()], quote, HIDDEN, quote]
            end = setting.end()
    return "".join([*out, text[end:]])


def _unquoted(text: str, at: int) -> int:
    return at + 1 if text[at : at + 1] in ("'", '"') else at


# -- terminals -----------------------------------------------------------------------------------------------------

_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, moves, erasing
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"  # OSC, DCS, SOS, PM, APC: titles, links
    r"|\x1b[ -/]*[0-~]?"  # all other
)
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""C0 but for tab, newline and return; C1; and what turns the direction of writing."""


def plain(text: str) -> str:
    """`text` without what a terminal obeys; a line that was overwritten becomes one of its own."""
    if "\x1b" in text or _CONTROLS.search(text):
        text = _CONTROLS.sub("", _ESCAPES.sub("", text))
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def shown(text: str) -> str:
    """`text` as it may be shown on a terminal or a page."""
    return hide(without(plain(text)))


def escaped(text: str) -> str:
    """JSON with \\u for the characters that a terminal obeys and JSON leaves as they are."""
    return _CONTROLS.sub(lambda m: m[0] if m[0] < " " else f"\\u{ord(m[0]):04x}", text)


# -- records -------------------------------------------------------------------------------------------------------

_SUSPECT = re.compile(
    rb"://|[=@\x1b\x7f]|\\u00|hf_|sk-|[Bb]earer|[Bb]asic |--|[Kk][Ee][Yy]|[Tt]oken(?!s\x22: ?\d)|TOKEN|[Ss]ecret|SECRET|[Pp]ass|PASS|"
    rb"PWD|[Pp]wd|AUTH|[Aa]uth|[Cc]redential|gh._|pat[_-]|xox|AKIA|eyJ|\xc2|\xd8|\xe2"
)


def is_suspect(line: bytes) -> bool:
    """Whether a line of JSON may hold anything that is hidden; most are numbers, and looking at each costs."""
    return _is_suspect_shape(line.translate(_ZEROS))


_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
"""Lines that differ in numbers only are looked at once; an escape's \\u00 stays one."""


@functools.lru_cache(maxsize=4096)
def _is_suspect_shape(line: bytes) -> bool:
    return _SUSPECT.search(line) is not None


def value(record: Any, *, for_showing: bool = False) -> Any:
    """A record's copy with every text in it, however deep, without secrets; `for_showing`, without escapes as well."""
    if isinstance(record, str):
        return shown(record) if for_showing else hide(record)
    if isinstance(record, Mapping):
        return {
            k: v
            if type(v) in (int, float)  # most of an event
            else HIDDEN
            if isinstance(v, str) and v and _is_secret_of(str(k), v)
            else value(v, for_showing=for_showing)
            for k, v in record.items()
        }
    if isinstance(record, list | tuple):
        return [v if type(v) in (int, float) else value(v, for_showing=for_showing) for v in record]
    return record
