"""Text that people read: English in the code, and translated where it is shown, in the language chosen here."""

from __future__ import annotations

import functools
import os
import re
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gettext import NullTranslations

DOMAIN = "ascend_launch"
FOLDER = Path(__file__).parent / "locale"
"""Catalogues, as gettext looks for them: zh/LC_MESSAGES/ascend_launch.mo is all of a translation into Chinese."""
VARIABLE = "ASCEND_LAUNCH_LANG"


class Message(str):
    """English text that remembers its template and values, so that it can be translated later. It is a str everywhere
    else: in JSON, in files, and for whoever searches in it.

    Message("{path}: no such file", path=path). A template without values stands as it is, braces too. Values may be
    messages and LaunchErrors; they are translated with it.
    """

    template: str
    values: Mapping[str, Any]
    forms: tuple[str, str] | None
    """The English singular and plural, of which `template` is one."""

    def __new__(cls, template: str, /, **values: Any) -> Message:
        return cls._made(template, values, None)

    @classmethod
    def _made(cls, template: str, values: Mapping[str, Any], forms: tuple[str, str] | None) -> Message:
        made = super().__new__(cls, template.format_map(values) if values else template)
        made.template, made.values, made.forms = template, values, forms
        return made

    def __getnewargs__(self) -> tuple[str]:
        """Copies, and what another process gets, are English text: a value may be anything."""
        return (str(self),)

    def __getstate__(self) -> None:
        return None


def of(text: str, values: Mapping[str, Any]) -> Message:
    """`text` filled with `values`; a Message, which is filled, stays what it is."""
    return text if isinstance(text, Message) else Message._made(text, values, None)


def plural(one: str, many: str, /, *, count: int, **values: Any) -> Message:
    """The form for this count: plural("{count} row", "{count} rows", count=3)."""
    return Message._made(one if count == 1 else many, {"count": count, **values}, (one, many))


def joined(parts: Iterable[object], separator: str = ", ") -> Message:
    """Parts with a separator between, which are translated each by itself."""
    values = {f"part{number}": part for number, part in enumerate(parts)}
    plain = separator.replace("{", "{{").replace("}", "}}")
    return Message(plain.join(f"{{{name}}}" for name in values), **values)


def listed(parts: Iterable[object]) -> Message:
    """a, b and c."""
    *first, last = parts
    return Message("{parts} and {last}", parts=joined(first), last=last) if first else joined([last])


# --- the language --------------------------------------------------------------------------------------------------


class _Chosen:
    """What `choose` settled."""

    language = "en"
    catalogue: NullTranslations | None = None


def choose(language: str = "auto", env: Mapping[str, str] | None = None) -> None:
    """Settle the language of everything that is shown from now on.

    Args:
        language: "zh", "zh_CN", …; "auto" for what ASCEND_LAUNCH_LANG names, else the locale. Without a catalogue of it,
            texts are shown in English.
        env: instead of the process's environment.
    """
    _Chosen.language = of_environment(os.environ if env is None else env) if language in ("", "auto") else language
    _Chosen.catalogue = None
    if _Chosen.language.partition("_")[0] != "en":
        import gettext
        import struct

        try:
            _Chosen.catalogue = gettext.translation(DOMAIN, FOLDER, [_Chosen.language])
        except (OSError, ValueError, struct.error):  # there is none, or it is damaged
            _Chosen.catalogue = None


def of_environment(env: Mapping[str, str]) -> str:
    """The language that an environment asks for, without its encoding: zh_CN."""
    asked = env.get(VARIABLE, "")
    named = asked if asked != "auto" else ""
    value = named or env.get("LC_ALL") or env.get("LC_MESSAGES") or env.get("LANG") or ""
    code = value.partition(".")[0].partition("@")[0]
    return "en" if code in ("", "C", "POSIX") else code


def language() -> str:
    """The language that was chosen: "en", "zh_CN"."""
    return _Chosen.language


def is_translated() -> bool:
    """Whether there is a catalogue of the language that was chosen."""
    return _Chosen.catalogue is not None


def languages() -> list[str]:
    """Languages that can be asked for: those with a catalogue, and those of `explain`'s table."""
    return sorted({"en", "zh", *(path.parent.parent.name for path in FOLDER.glob(f"*/LC_MESSAGES/{DOMAIN}.mo"))})


def translated(text: object) -> str:
    """A text, or an error, in the chosen language; in English where the catalogue lacks it or fills it wrongly.

    What came through a file has lost its template; it is known again by the catalogue's.
    """
    text = getattr(text, "message", text)
    catalogue = _Chosen.catalogue
    if catalogue is None or not text:
        return str(text)
    if not isinstance(text, Message):
        plain = str(text)
        translation = catalogue.gettext(plain)
        return translation if translation != plain else _recognised(plain)
    if text.forms is None:
        return _filled(catalogue.gettext(text.template), text.values, text.template)
    return _filled(catalogue.ngettext(*text.forms, text.values["count"]), text.values, text.template)


def _filled(template: str, values: Mapping[str, Any], english: str) -> str:
    values = {name: _value(value) for name, value in values.items()}
    try:
        return template.format_map(values) if values else template
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):  # a mistake of the catalogue's
        return english.format_map(values)


def _value(value: object) -> object:
    """A value as it is filled in: a message is translated, and so is an error that was made of one."""
    nested = getattr(value, "message", value)
    if isinstance(nested, Exception) and len(nested.args) == 1:
        nested = nested.args[0]
    return translated(nested) if isinstance(nested, Message) else value


# --- English that has lost its template ----------------------------------------------------------------------------

_LONGEST = 4000
"""Characters of a text that is compared with templates; what is longer is a log."""


class _Printed(str):
    """A value that was formatted once already."""

    def __format__(self, spec: str) -> str:
        return str(self)

    def __repr__(self) -> str:
        return str(self)


@functools.cache
def _templates(catalogue: NullTranslations) -> list[tuple[str, tuple[str, ...], re.Pattern[str]]]:
    """Templates with values, those with the most letters first: each with its pieces and its pattern."""
    known = [key for key in vars(catalogue).get("_catalog", ()) if isinstance(key, str) and "{" in key]
    rows = []
    for template in known:
        try:
            parsed = [(plain, name) for plain, name, *_ in string.Formatter().parse(template)]
        except ValueError:
            continue
        pieces = tuple(plain for plain, _ in parsed if plain)
        if sum(map(str.isalpha, "".join(pieces))) > 3:
            rows.append((template, pieces, re.compile(_pattern(parsed), re.DOTALL)))
    return sorted(rows, key=lambda row: -sum(map(len, row[1])))


def _pattern(parsed: list[tuple[str, str | None]]) -> str:
    seen: set[str] = set()
    out = ""
    for plain, name in parsed:
        out += re.escape(plain)
        if name:
            out += f"(?P={name})" if name in seen else f"(?P<{name}>.*?)"
            seen.add(name)
    return out


def _recognised(text: str) -> str:
    catalogue = _Chosen.catalogue
    if catalogue is None or len(text) > _LONGEST:
        return text
    for template, pieces, pattern in _templates(catalogue):
        if all(piece in text for piece in pieces) and (match := pattern.fullmatch(text)):
            values = {
                name: _Printed(translated(value) if " " in value else value)
                for name, value in match.groupdict().items()
            }
            return _filled(catalogue.gettext(template), values, template)
    return text
