"""The bytes of a file of rows as text: what packs them, and in which encoding they are written.

UTF-8 and what a byte order mark names are certain. Another encoding is recognised by what its text looks like: Chinese in
GB18030 (GBK and GB2312 are parts of it) and Big5, Japanese in Shift JIS, Korean in EUC-KR, and Western European text. All of
the file has to be text in it.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from launcher.data.formats.base import RowError
from launcher.messages import Message

CHUNK_BYTES = 1 << 20
SAMPLE_BYTES = 1 << 18
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
BROKEN = (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile)
"""What reading a compressed file raises that is none, or ends early."""


def _zip(path: Path) -> IO[bytes]:
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if not name.endswith("/")]
    if len(names) != 1:
        raise RowError(
            Message("is an archive of {num_names} files", num_names=len(names)),
            Message("unpack it, and name its files"),
        )
    return archive.open(names[0])


def _zstd(path: Path) -> IO[bytes]:
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))


UNPACK: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstd,
    ".zip": _zip,
}


def opened(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked."""
    binary: IO[bytes] = UNPACK.get(path.suffix.lower(), lambda one: one.open("rb"))(path)
    return binary


@dataclass(frozen=True)
class Text:
    """A file that is text."""

    path: Path
    encoding: str
    is_certain: bool

    def lines(self) -> Iterator[str]:
        """Its lines as they end in the file, at \\n alone."""
        with opened(self.path) as binary:
            yield from io.TextIOWrapper(binary, self.encoding, newline="\n")

    def whole(self) -> str:
        with opened(self.path) as binary:
            return binary.read().decode(self.encoding)


def text_of(path: Path) -> Text:
    """How a file is read as text. Raises RowError where it is none."""
    try:
        with opened(path) as binary:
            start = binary.read(4096)
            if problem := no_data(start):
                raise RowError(*problem)
            encoding = _marked(start)
            if encoding is not None and _is_written_in(path, encoding):
                return Text(path, encoding, True)
            position = _end_of_utf8(start, binary)
        if position is None:
            return Text(path, "utf-8", True)
        with opened(path) as binary:
            sample = _sample(binary, position)
    except BROKEN as error:
        raise RowError(Message("cannot be read: {error}", error=error), Message("write or download it anew")) from None
    likely = [] if _is_damaged_utf8(sample) else guesses(sample)
    guessed = next((one for one in likely if _is_written_in(path, one)), None)
    if guessed is None:
        raise RowError(
            Message("is not UTF-8 at byte {position:,}, nor in another encoding that is known", position=position),
            Message("write it in UTF-8, as `iconv -f ENCODING -t UTF-8 {name}` does", name=path.name),
        )
    return Text(path, guessed, False)


def no_data(start: bytes) -> tuple[str, str] | None:
    """Why a file that begins so holds no rows, and what to do."""
    if start.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        return "is an Excel or zip file and no text", "save it as CSV in UTF-8"
    if start.startswith(b"version https://git-lfs."):
        return "is a pointer of Git LFS, and not the file itself", "fetch it: git lfs pull"
    if start[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, and not the file that was to be downloaded", "download it again"
    return None


def _marked(start: bytes) -> str | None:
    """The encoding that the first bytes name, or that their zeros tell: those of UTF-16 without a mark."""
    for mark, encoding in _BOMS:
        if start.startswith(mark):
            return encoding
    pairs = min(len(start), 256) // 2
    even, odd = start[: 2 * pairs : 2].count(0), start[1 : 2 * pairs : 2].count(0)
    if pairs > 3 and max(even, odd) > 0.4 * pairs:
        return "utf-16-be" if even > odd else "utf-16-le"
    return None


def _end_of_utf8(start: bytes, rest: IO[bytes]) -> int | None:
    """The first byte that UTF-8 does not have there; None where all is UTF-8."""
    decoder, position = codecs.getincrementaldecoder("utf-8")(), 0
    chunk = start
    while True:
        kept = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk, not chunk)
        except UnicodeDecodeError as error:
            return position - kept + error.start
        if not chunk:
            return None
        position += len(chunk)
        chunk = rest.read(CHUNK_BYTES)


def _is_damaged_utf8(sample: bytes) -> bool:
    """Whether most of what is not ASCII is UTF-8 after all, so that other bytes among it are damage."""
    decoded = sample.decode("utf-8", "replace")
    good = sum(c > "\x7f" and c != "\ufffd" for c in decoded)
    return good > 2 * decoded.count("\ufffd")


def _sample(binary: IO[bytes], position: int) -> bytes:
    """Whole lines from around the first byte that is not UTF-8."""
    before = max(0, position - SAMPLE_BYTES // 4)
    while before:
        before -= len(binary.read(min(before, CHUNK_BYTES)))
    sample = binary.read(SAMPLE_BYTES)
    start = sample.rfind(b"\n", 0, min(position, SAMPLE_BYTES // 4)) + 1 if position > SAMPLE_BYTES // 4 else 0
    end = sample.rfind(b"\n") + 1 if len(sample) == SAMPLE_BYTES else len(sample)
    return sample[start : end or None]


def _is_written_in(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with opened(path) as binary:
            while chunk := binary.read(CHUNK_BYTES):
                decoder.decode(chunk)
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True


_CHINESE = frozenset(
    "的一是不了在人有我他这中大来上个国到说们为子和你地出要就时年得那下以生会自着去之过家学对可里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长"
)
_TRADITIONAL = frozenset(
    "的一是不了在人有我他這中大來上個國到說們為子和你地出要就時年得那下以生會自著去之過家學對可里後小麼心多天而能好都然沒日於起還發成事只作當想看文無開手十用主行方又如前所本見經頭面公同三已老從動兩長"
)
_HANGUL = frozenset("이다는에을의가고하를은로서지도한기사인자리어해시과나그아대일있정만라수")


def guesses(sample: bytes) -> list[str]:
    """Encodings that text with these bytes may be in, the likeliest first."""
    scores = {encoding: score(sample) for encoding, score in _SCORES.items()}
    return sorted((one for one, score in scores.items() if score > 0), key=lambda one: -scores[one])


def _decoded(sample: bytes, encoding: str) -> str | None:
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return None


def _east_asian(encoding: str, common: frozenset[str], letters: Callable[[str], bool]) -> Callable[[bytes], float]:
    def score(sample: bytes) -> float:
        decoded = _decoded(sample, encoding)
        wide = [c for c in decoded or "" if c > "\x7f" and c.isalpha()]
        if not wide or sum(map(letters, wide)) < 0.8 * len(wide):
            return 0.0
        return 0.1 + sum(c in common for c in wide) / len(wide)

    return score


def _is_level_1(char: str) -> bool:
    """Whether a character is among the 3,755 common ones of GB2312."""
    encoded = char.encode("gb2312", "ignore")
    return len(encoded) == 2 and encoded[0] < 0xD8


def _is_big5_level_1(char: str) -> bool:
    """Whether a character is among the 5,401 common ones of Big5."""
    encoded = char.encode("big5", "ignore")
    return len(encoded) == 2 and encoded[0] < 0xC7


def _is_kana(char: str) -> bool:
    return "\u3040" <= char <= "\u30ff"


def _japanese(sample: bytes) -> float:
    wide = [c for c in _decoded(sample, "cp932") or "" if c > "\x7f" and c.isalpha()]
    share = sum(map(_is_kana, wide)) / len(wide) if wide else 0.0
    return 0.2 + share if share > 0.3 else 0.0


def _western(sample: bytes) -> float:
    """Few letters with accents, among many without."""
    decoded = _decoded(sample, "cp1252") or ""
    accented = [c for c in decoded if c > "\x7f"]
    plain = sum(c.isascii() and c.isalpha() for c in decoded)
    return 0.15 if accented and len(accented) < 0.5 * plain and _are_letters(accented) else 0.0


def _are_letters(chars: list[str]) -> bool:
    return sum(c.isalpha() or c in "‘’“”–—…€«»°§£¿¡\xa0" for c in chars) > 0.9 * len(chars)


_SCORES: dict[str, Callable[[bytes], float]] = {
    "gb18030": _east_asian("gb18030", _CHINESE, _is_level_1),
    "big5": _east_asian("big5", _TRADITIONAL, _is_big5_level_1),
    "cp932": _japanese,
    "euc_kr": _east_asian("euc_kr", _HANGUL, lambda c: "\uac00" <= c <= "\ud7a3"),
    "cp1252": _western,
}
