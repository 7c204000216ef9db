"""Text files: in which encoding they are, and their text in pieces or in lines.

A byte that is no text becomes a lone surrogate, which no text file can hold: it costs the row that it stands in, and
can be shown.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from libra_guard.errors import UsageError

LONGEST = 1 << 26
"""Characters of a row at most: a quote, a brace or a line without its end must not take a large file into memory."""
BLANK = " \t\r\n\v\f"
BROKEN = re.compile("[\ud800-\udfff]")
"""Finds what was no text."""

PACKED = (".gz", ".zip")
"""Endings of the names of packed files, read without unpacking them to the disk."""

_SAMPLE = 1 << 20
_CHUNK = 1 << 20
_EXCERPT = 10_000
_MARK = "\ufeff"
# UTF-32 first: in little-endian order its mark begins with that of UTF-16.
_MARKS = {
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}


def _as_surrogates(error: UnicodeError) -> tuple[str, int]:
    """PEP 383 for all bytes: ``surrogateescape`` has nothing for those below 0x80, which UTF-16 can have broken too."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


_KEEP_BYTES = "libra_guard.keep_bytes"
codecs.register_error(_KEEP_BYTES, _as_surrogates)


def open_bytes(path: Path) -> io.BufferedReader | gzip.GzipFile:
    """Opens the file, unpacked where it is gzipped or the only file of a zip archive.

    Raises:
        OSError: It cannot be opened, or the archive holds several files, or none.
    """
    name = path.name.lower()
    if name.endswith(".zip"):
        return _open_only_member(path)
    return gzip.open(path, "rb") if name.endswith(".gz") else path.open("rb")


def _open_only_member(path: Path) -> io.BufferedReader:
    try:
        with zipfile.ZipFile(path) as archive:
            # macOS puts a shadow of each file beside it.
            files = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
            if len(files) != 1:
                raise OSError(f"the archive holds {len(files)} files where one is read; unpack it")
            # The archive stays open until its member is closed.
            return io.BufferedReader(cast(io.RawIOBase, archive.open(files[0])))
    except (zipfile.BadZipFile, RuntimeError) as error:
        raise OSError(f"not readable as zip: {error}") from error


def plain_name(path: str | Path) -> str:
    """The file's name without the ending of a packed file."""
    name = Path(path).name
    return next((name[: -len(end)] for end in PACKED if name.lower().endswith(end)), name)


def find_coding(path: Path, encoding: str | None) -> str:
    """The codec of a text file: of the encoding that is named, or found.

    Raises:
        UsageError: There is no such encoding.
    """
    try:
        name = codecs.lookup(encoding).name if encoding else ""
        "".encode(name or "utf-8")
    except (LookupError, UnicodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    if not name:
        return _guess_encoding(_sample(path, _SAMPLE))
    if name in _MARKS and not (head := _sample(path, 4)).startswith(_MARKS[name]):
        # Without its mark the order of the bytes is open; JSON and most tables begin with a character of ASCII.
        return f"{name}-be" if head.startswith(b"\0") else f"{name}-le"
    # A mark is no part of the text, whoever names the encoding: it is taken off where text is read.
    return name.removesuffix("-sig")


def _sample(path: Path, size: int) -> bytes:
    sample = b""
    # What stands before the place where a damaged file breaks off is enough.
    with contextlib.suppress(EOFError, OSError, zlib.error), open_bytes(path) as stream:
        while len(sample) < size and (data := stream.read1(size)):
            sample += data
    return sample


def _guess_encoding(sample: bytes) -> str:
    """What a byte-order mark tells, else UTF-8, unless GB18030 fits the first megabyte far better.

    Counted over all of it: one broken byte in a UTF-8 file must cost one row, not turn the whole file into mojibake,
    and one broken byte in a GB18030 file likewise.
    """
    for name, marks in _MARKS.items():
        if sample.startswith(marks):
            return name
    # Decoded as if it went on: the sample may end inside a character.
    utf8, gb18030 = (
        codecs.getincrementaldecoder(name)("surrogateescape").decode(sample) for name in ("utf-8", "gb18030")
    )
    broken = len(BROKEN.findall(utf8))
    foreign = len(utf8) - len(utf8.encode("ascii", "ignore"))
    return "gb18030" if 2 * broken > foreign and 10 * len(BROKEN.findall(gb18030)) < broken else "utf-8"


def pieces(stream: io.BufferedReader | gzip.GzipFile, coding: str) -> Iterator[str]:
    """The text in pieces, without its byte-order mark."""
    decoder = codecs.getincrementaldecoder(coding)(_KEEP_BYTES)
    mark = _MARK
    while data := stream.read1(_CHUNK):
        text = decoder.decode(data)
        yield text.removeprefix(mark)
        mark = "" if text else mark
    yield decoder.decode(b"", final=True)


def lines(path: Path, coding: str, newline: str) -> Iterator[str]:
    """The lines with their ends, ``newline`` being that of ``open``, without the byte-order mark.

    Cut from the text, not from the bytes: in UTF-16 the byte of a line end can be half of a character. And not by the
    codec's own reader: it ends lines at U+2028 and its like, which stand in ordinary texts.

    Of a line longer than ``LONGEST`` only the beginning comes, one character longer than that.
    """
    limit, mark = LONGEST + 1, _MARK
    ends = ("\n",) if newline else ("\n", "\r")
    with io.TextIOWrapper(open_bytes(path), coding, _KEEP_BYTES, newline) as stream:
        while line := stream.readline(limit):
            yield line.removeprefix(mark)
            mark = ""
            while len(line) == limit and not line.endswith(ends):
                line = stream.readline(limit)


def shown(text: str) -> str:
    r"""The text with undecodable bytes written as ``\xff``."""
    return BROKEN.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)


def excerpt(text: str, start: int = 0) -> str:
    """As much of the text as is kept of what cannot be read on."""
    return shown(text[start : start + _EXCERPT])
