"""Files that a killed run can be resumed from: whole lines only, in order, on the disk before the run goes on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

from libra_guard.errors import DataError, UsageError
from libra_guard.io import atomic, dumps

_CHUNK = 1 << 16


class Journal:
    """An append-only JSONL file with one writer.

    Opening it heals it: a last line without its end, which a kill can leave, is cut off. What stands in it is read
    back by ``written``; ``append`` returns when the lines are on the disk.

    Args:
        path: Created with its folder where absent.

    Raises:
        UsageError: Another process is writing to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UsageError(f"{path}: another run is writing to this file") from None
        self.healed = self._heal()

    def written(self) -> Iterator[dict[str, Any]]:
        """The records that stand in the file, in order.

        Raises:
            DataError: A line is damaged; a healed file has none unless something else wrote to it.
        """
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise ValueError("no object")
                except ValueError as error:
                    damaged = f"{self.path}:{number}: damaged: {error}"
                    raise DataError(f"{damaged}; move the file away to begin anew") from None
                yield record

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Writes the records and waits for the disk."""
        data = "".join(dumps(record) + "\n" for record in records).encode()
        if data:
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _heal(self) -> int:
        """Cuts off what follows the last line end; returns the number of bytes cut."""
        size = end = self._file.seek(0, os.SEEK_END)
        tail = b""
        while end > 0:
            start = max(0, end - _CHUNK)
            self._file.seek(start)
            tail = self._file.read(end - start)
            newline = tail.rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            self._file.truncate(end)
            os.fsync(self._file.fileno())
        self._file.seek(0, os.SEEK_END)
        return size - end


def beside(path: Path) -> Path:
    """Where the new version of a file is written before it takes the old one's place."""
    return path.with_name(f".{path.name}.new")


def replace_both(first: Path, last: Path, lines: Iterable[str]) -> None:
    """Replaces two files, both or none, whenever a kill comes.

    The moment in which the new ``last`` stands beside the old one decides: what a kill interrupts before it has not
    happened, what it interrupts after it is finished by ``settle``.

    Args:
        first: Its new version stands beside it, whole and on the disk.
        last: The other file.
        lines: The new version of ``last``.
    """
    with atomic(beside(last)) as stream:
        stream.writelines(lines)
    settle(first, last)


def settle(first: Path, last: Path) -> None:
    """Finishes what ``replace_both`` had decided when a kill came."""
    if beside(last).exists():
        if beside(first).exists():
            beside(first).replace(first)
        beside(last).replace(last)
