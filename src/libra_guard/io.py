"""Reading rows from JSON, JSONL (NDJSON), CSV and Parquet files, folders of them, and Hugging Face datasets.

Everything is streamed: a file of any size takes the memory of one row (one row group for Parquet), and a row has a
longest length. What cannot be read becomes a ``BadRow`` with its place and reason; the rest of the file goes on, or the
``BadRow`` says that it cannot.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import glob
import hashlib
import json
import os
import platform
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TextIO

from libra_guard import jsonlist, textfile
from libra_guard.errors import UsageError
from libra_guard.hub import Hub, pinned, read_hub
from libra_guard.records import as_json

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".parquet")
CALIBRATION = "calibration.json"
"""File beside a model that says what its scores are worth."""
ADAPTER = "adapter_config.json"
"""File that makes a folder a LoRA adapter."""
_ABOUT = (CALIBRATION, "README.md")
"""Files beside a model that change nothing of what it says."""
_CARD = ("card.json", "README.md")
"""Files in a folder that ``libra synth`` wrote that hold no rows."""
_CHUNK = 1 << 20
_WHOLE = 64_000_000
_NAMED = 5
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Row(NamedTuple):
    """One record and where it stands."""

    file: str
    line: int
    """Line of the file on which the record begins, from 1; in Parquet files and datasets the number of the row."""
    data: dict[str, Any]


class BadRow(NamedTuple):
    """What could not be read, where, and why."""

    file: str
    line: int
    reason: str
    text: str
    """The text itself, so that nothing is lost; of what is too long to be read, the beginning."""
    more: bool = False
    """Whether further rows may be lost with it, nobody knows how many: the file cannot be read on from there, or the
    lines of several rows were taken for one."""


def read_rows(path: str | Path, *, encoding: str | None = None) -> Iterator[Row | BadRow]:
    """Streams the rows of a file, a folder, or ``hf://owner/name[@revision][:[config/]split]``.

    Args:
        path: ``.json`` (a list of objects), ``.jsonl`` or ``.ndjson``, ``.csv`` or ``.parquet``, gzipped (``.gz``),
            alone in an archive (``.zip``) or plain; a folder of such files, read in the order of their names; or a
            dataset of the Hugging Face Hub, as it is now or at a branch, tag or commit.
        encoding: Of the text files. By default what a byte-order mark tells (UTF-8, UTF-16, UTF-32), else UTF-8, or
            GB18030 where that fits the first megabyte far better.

    Raises:
        UsageError: There is no such file, or its kind is unknown.
        MissingExtraError: ``hf://`` without the ``datasets`` library.
    """
    if address := Hub.of(path):
        name = str(address._replace(split=None))
        yield from (Row(name, number, record) for number, record in enumerate(read_hub(address), 1))
        return
    for file in list_files(path):
        yield from _read_file(file, encoding)


def list_files(path: str | Path) -> list[Path]:
    """The data files that ``path`` names: itself, or those of a folder in the order of their names.

    Of a folder that ``libra synth`` wrote these are the files of its stages; where nothing went into a stage, what was
    left out.

    Raises:
        UsageError: There are none.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.is_file() and _kind(f) in SUFFIXES)
        if _of_synth(path):
            files = sorted(path.glob("stage[12]/*.jsonl")) or [f for f in files if f.name not in _CARD]
        if not files:
            raise UsageError(f"{path}: no {', '.join(SUFFIXES)} file in this folder")
        return files
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if _kind(path) not in SUFFIXES:
        raise UsageError(f"{path}: unknown kind of file; known are {', '.join(SUFFIXES)}, each also with .gz or .zip")
    return [path]


def not_read(path: str | Path) -> list[str]:
    """Names of what a folder holds beside its data files, folders with a slash; none where ``path`` is no folder.

    Left out is what begins with a point, which is another program's, and the card of a folder that ``libra synth``
    wrote.

    Raises:
        UsageError: There is no data file in it.
    """
    folder = Path(path)
    if Hub.of(path) or not folder.is_dir():
        return []
    files = list_files(folder)
    known = {*files, *(file.parent for file in files)}
    card = _CARD if _of_synth(folder) else ()
    others = (f for f in folder.iterdir() if f not in known and not f.name.startswith(".") and f.name not in card)
    return sorted(f.name + "/" * f.is_dir() for f in others)


def passed_over(names: Sequence[str], what: str) -> list[str]:
    """Which files were not read, in a line; none where all were.

    Args:
        names: Theirs; the first few are told.
        what: They are, in words.
    """
    few = "; ".join(names[:_NAMED]) + ("; …" if len(names) > _NAMED else "")
    return [f"{len(names)} {what}: passed over ({few})"] if names else []


def unread(path: str | Path) -> list[str]:
    """What of a folder of rows was not read, in a line; none where all was.

    Raises:
        UsageError: There is no data file in it.
    """
    return passed_over(not_read(path), f"files or folders in {path} that are no {', '.join(SUFFIXES)}")


def count_rows(path: str | Path, *, encoding: str | None = None) -> int:
    """Number of rows, bad ones included: what ``read_rows`` yields, counted without keeping any."""
    return sum(1 for _ in read_rows(path, encoding=encoding))


def file_hash(path: str | Path) -> str:
    """SHA-256 over the data files' bytes in order, as ``sha256:…``.

    A hub dataset is not hashed but named with its commit: see ``pinned``.

    Raises:
        UsageError: There are no such files.
        DataError: The hub does not tell.
        MissingExtraError: ``hf://`` without the ``datasets`` library.
    """
    if Hub.of(path):
        return str(pinned(path))
    digest = hashlib.sha256()
    for file in list_files(path):
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return "sha256:" + digest.hexdigest()


def bytes_hash(content: bytes) -> str:
    """SHA-256 of what was read, as ``sha256:…``."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def model_hash(folder: str | Path) -> str:
    """Identifies a model folder by its files, as ``sha256:…``; its card and a calibration are none of them.

    Of an adapter's configuration the name of its base does not count: the same base has another name on another disk.

    Files up to 64 MB count whole. Of larger ones the size and the first and last megabyte count: enough to tell two
    trained models apart, without reading gigabytes before each run.
    """
    digest = hashlib.sha256()
    files = (f for f in Path(folder).iterdir() if f.is_file() and not f.name.startswith("."))
    for file in sorted(f for f in files if f.name not in _ABOUT):
        size = file.stat().st_size
        if file.name == ADAPTER:
            settings = adapter_settings(file)
            digest.update(f"{file.name}\0{len(settings)}\0".encode() + settings)
            continue
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= _WHOLE:
                digest.update(stream.read())
            else:
                digest.update(stream.read(_CHUNK))
                stream.seek(-_CHUNK, os.SEEK_END)
                digest.update(stream.read())
    return "sha256:" + digest.hexdigest()


def adapter_settings(file: Path) -> bytes:
    """An adapter's configuration without the name of its base; as it is, where it cannot be read."""
    text = file.read_bytes()
    try:
        settings = json.loads(text)
    except ValueError:
        return text
    if not isinstance(settings, dict) or settings.pop("base_model_name_or_path", None) is None:
        return text
    return json.dumps(settings, sort_keys=True).encode()


def dumps(record: Any) -> str:
    """One line of JSON, Chinese kept readable; escaped throughout where a lone surrogate could not be written.

    What JSON has no form for is written as text (a date of a Parquet file), or as null (NaN and the infinities).
    """
    text = as_json(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = as_json(record, ensure_ascii=True)
    return text


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[TextIO]:
    """Opens a file that is replaced whole or not at all: a reader, or a crash, never sees half of it.

    Raises:
        OSError: It cannot be written; the error names the file, not the temporary one beside it.
    """
    temporary = temporary_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path)
        # A lone surrogate (of a file name that is no UTF-8) is written as JSON escapes it.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename == str(temporary) or (error.filename is None and error.errno in _FULL):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        # What cannot be removed either must not hide the reason.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_of(path: Path) -> Path:
    """Where this process writes what is to become a file or folder."""
    return path.with_name(f".{path.name}.{os.getpid()}{_here()}")


def remove_stale(path: Path) -> None:
    """Removes what processes of this machine left in the place of ``temporary_of`` when they were killed."""
    for found in path.parent.glob(f".{glob.escape(path.name)}.*{glob.escape(_here())}"):
        process = found.name.removeprefix(f".{path.name}.").removesuffix(_here())
        if process.isdigit() and not _runs(int(process)):
            shutil.rmtree(found, ignore_errors=True)
            with contextlib.suppress(OSError):
                found.unlink(missing_ok=True)


def _here() -> str:
    # Folders are shared by machines, each of which counts its processes by itself.
    return f"@{platform.node()}.tmp"


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def write_atomic(path: Path, text: str) -> None:
    """Writes a whole file or nothing; see ``atomic``."""
    with atomic(path) as stream:
        stream.write(text)


def _of_synth(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _CARD)


def _kind(path: Path) -> str:
    return Path(textfile.plain_name(path).lower()).suffix


def _read_file(path: Path, encoding: str | None) -> Iterator[Row | BadRow]:
    readers = {
        **dict.fromkeys((".jsonl", ".ndjson"), _read_jsonl),
        **{".csv": _read_csv, ".json": _read_json, ".parquet": _read_parquet},
    }
    kind = _kind(path)
    line = 0
    try:
        coding = "" if kind == ".parquet" else textfile.find_coding(path, encoding)
        for row in readers[kind](path, coding):
            line = row.line
            yield row
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile, UnicodeError) as error:
        yield BadRow(str(path), line + 1, f"the file cannot be read on: {error}", "", more=True)


def _read_jsonl(path: Path, coding: str) -> Iterator[Row | BadRow]:
    for number, line in enumerate(textfile.lines(path, coding, "\n"), 1):
        if len(line) > textfile.LONGEST:
            reason = f"a line of more than {textfile.LONGEST} characters"
            yield BadRow(str(path), number, reason, textfile.excerpt(line))
        elif line.strip(textfile.BLANK):
            yield _parsed(path, number, line.rstrip("\r\n"), coding)


def _parsed(path: Path, line: int, text: str, coding: str) -> Row | BadRow:
    try:
        item = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"not {coding}" if textfile.BROKEN.search(text) else f"not JSON: {error}"
        return BadRow(str(path), line, reason, textfile.shown(text))
    return _checked(path, line, item, text, coding)


def _checked(path: Path, line: int, item: Any, text: str, coding: str) -> Row | BadRow:
    if textfile.BROKEN.search(text):
        return BadRow(str(path), line, f"not {coding}", textfile.shown(text))
    if isinstance(item, dict):
        return Row(str(path), line, item)
    return BadRow(str(path), line, f"a {type(item).__name__} where an object is needed", text)


def _read_json(path: Path, coding: str) -> Iterator[Row | BadRow]:
    """A list of objects, item by item; a file that begins with an object is read as JSON lines, or as one object."""
    with textfile.open_bytes(path) as stream:
        texts = textfile.pieces(stream, coding)
        line, buffer = 1, ""
        for buffer in texts:
            if buffer.strip():
                break
            line += buffer.count("\n")
        start = buffer.lstrip()[:1]
        if start == "[":
            yield from _read_list(path, texts, buffer, line, coding)
        elif start not in ("", "{"):
            yield BadRow(str(path), 1, "neither a list of objects nor an object", textfile.excerpt(buffer), more=True)
        if start != "{":
            return
    if not isinstance(next(_read_jsonl(path, coding), None), Row):
        whole = _read_object(path, coding)
        # The first line may be damaged and the others whole.
        if isinstance(whole, Row) or not any(isinstance(row, Row) for row in _read_jsonl(path, coding)):
            yield whole
            return
    yield from _read_jsonl(path, coding)


def _read_object(path: Path, coding: str) -> Row | BadRow:
    """The whole file as one object."""
    text = ""
    with textfile.open_bytes(path) as stream:
        for piece in textfile.pieces(stream, coding):
            text += piece
            if len(text) > textfile.LONGEST:
                reason = f"no line is an object, and one object of more than {textfile.LONGEST} characters is not read"
                return BadRow(str(path), 1, reason, textfile.excerpt(text), more=True)
    return _parsed(path, 1, text, coding)


def _read_list(path: Path, texts: Iterator[str], buffer: str, line: int, coding: str) -> Iterator[Row | BadRow]:
    for found in jsonlist.read_items(texts, buffer, line):
        if isinstance(found, jsonlist.Item):
            yield _checked(path, found.line, found.value, found.text, coding)
        else:
            broken = not found.more and textfile.BROKEN.search(found.text)
            reason = f"not {coding}" if broken else found.reason
            yield BadRow(str(path), found.line, reason, textfile.shown(found.text), found.more)


def _read_csv(path: Path, coding: str) -> Iterator[Row | BadRow]:
    csv.field_size_limit(textfile.LONGEST)
    header: list[str] | None = None
    record = _Record(textfile.lines(path, coding, ""))
    reader = csv.reader(record, strict=True)
    while True:
        record.begin()
        line = record.last + 1
        try:
            fields = next(reader, None)
            reason = ""
        except csv.Error as error:
            fields, reason = [], f"not CSV: {error}"
        if fields is None:
            return
        if fields and header is not None and len(fields) != len(header):
            reason = f"{len(fields)} fields where the header has {len(header)}"
        if reason and record.last > line:
            reason += f"; it takes {record.last - line + 1} lines, up to line {record.last}: is a quote not closed?"
        text = record.text
        if textfile.BROKEN.search(text):
            reason = f"not {coding}" + (f"; {reason}" if reason else "")
        if reason:
            shown = textfile.excerpt(text) if len(text) > textfile.LONGEST else textfile.shown(text)
            yield BadRow(str(path), line, reason, shown, more=record.last > line)
            if header is None:
                yield BadRow(str(path), record.last + 1, "no row can be read without the header", "", more=True)
                return
        elif header is None:
            header = fields or None
            if header and len(set(header)) < len(header):
                yield BadRow(str(path), line, "the header names a column twice", textfile.shown(text), more=True)
                return
        elif fields:
            yield Row(str(path), line, dict(zip(header, fields, strict=True)))


class _Record:
    """Hands lines to the CSV reader, and remembers those of the record at hand."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.last = 0
        """Number of the line that was handed over last."""
        self._lines = lines
        self._taken: list[str] = []
        self._length = 0

    def begin(self) -> None:
        """Forgets the lines of the record before."""
        self._taken.clear()
        self._length = 0

    @property
    def text(self) -> str:
        return "".join(self._taken).rstrip("\r\n")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.last += 1
        self._taken.append(line)
        self._length += len(line)
        if self._length > textfile.LONGEST:
            raise csv.Error(f"a row of more than {textfile.LONGEST} characters")
        return line


def _read_parquet(path: Path, _: str) -> Iterator[Row | BadRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        source: Any = str(path)
        if path.name.lower().endswith(textfile.PACKED):
            # Parquet is read from its end, so a packed one has to be unpacked whole.
            with textfile.open_bytes(path) as stream:
                source = pyarrow.BufferReader(stream.read())
        with pyarrow.parquet.ParquetFile(source) as file:
            for batch in file.iter_batches(batch_size=1024):
                for record in _records(batch):
                    number += 1
                    if isinstance(record, str):
                        yield BadRow(str(path), number, record, "")
                    else:
                        yield Row(str(path), number, record)
    except (pyarrow.ArrowException, OSError) as error:
        yield BadRow(str(path), number + 1, f"not readable as Parquet from here on: {error}", "", more=True)


def _records(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch; in place of a row that has no Python form (a text that is no UTF-8), the reason."""
    try:
        yield from batch.to_pylist()
    except ValueError:
        for i in range(batch.num_rows):
            try:
                yield from batch.slice(i, 1).to_pylist()
            except ValueError as error:
                yield f"not readable: {error}"
