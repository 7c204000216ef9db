from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import libra_guard.predict.journal as journal_module
from libra_guard.errors import DataError, UsageError
from libra_guard.predict.journal import Journal

RECORDS: list[dict[str, Any]] = [{"id": 1, "q": "问\n题"}, {"id": 2, "q": "\ud800"}, {"id": 3, "q": "答\u2028" * 9}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "0-of-1.jsonl"


def filled(path: Path) -> bytes:
    with Journal(path) as journal:
        journal.append(RECORDS[:1])
        journal.append(RECORDS[1:])
    return path.read_bytes()


def test_what_is_written_is_read_back(path: Path) -> None:
    data = filled(path)
    assert data.count(b"\n") == 3
    with Journal(path) as journal:
        assert (journal.healed, list(journal.written())) == (0, RECORDS)


def test_records_are_on_the_disk_when_append_returns(path: Path) -> None:
    with Journal(path) as journal:
        journal.append(RECORDS)
        assert [json.loads(line) for line in path.read_bytes().splitlines()] == RECORDS


def test_nothing_to_append(path: Path) -> None:
    with Journal(path) as journal:
        journal.append([])
    assert path.read_bytes() == b""


@pytest.mark.parametrize("chunk", [1, 3, 1 << 16])
def test_a_file_cut_anywhere_is_healed(path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(journal_module.os, "fsync", lambda _: None)
    monkeypatch.setattr(journal_module, "_CHUNK", chunk)
    data = filled(path)
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        whole = data[: data[:size].rfind(b"\n") + 1]
        with Journal(path) as journal:
            assert journal.healed == size - len(whole)
            assert path.read_bytes() == whole
            found = list(journal.written())
            assert found == RECORDS[: len(found)]
            journal.append(RECORDS[len(found) :])
        assert path.read_bytes() == data


def test_only_the_tail_is_read_to_heal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"a": 1}\n' * 10 + b'{"half": "' + random.Random(1).randbytes(300_000).replace(b"\n", b""))
    with Journal(path) as journal:
        assert journal.healed > 290_000
        assert list(journal.written()) == [{"a": 1}] * 10


@pytest.mark.parametrize("line", [b"nonsense", b'{"a": 1', b"[1]", b"5", b"", b"\xff", b"\x00\x00"])
def test_a_damaged_line_is_told_of(path: Path, line: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"b": 2}\n')
    with Journal(path) as journal:
        rows = journal.written()
        assert next(rows) == {"a": 1}
        with pytest.raises(DataError, match=r"0-of-1\.jsonl:2: damaged: .*move the file away"):
            next(rows)


def test_two_writers(path: Path) -> None:
    with Journal(path) as journal:
        journal.append(RECORDS[:1])
        with pytest.raises(UsageError, match="another run is writing to this file"):
            Journal(path)
        journal.append(RECORDS[1:])
    with Journal(path) as journal:
        assert list(journal.written()) == RECORDS


def test_a_writer_that_is_killed_leaves_no_lock(path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from libra_guard.predict.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1])); journal.append([{'a': 1}])\n"
        "os.write(journal._file.fileno(), b'{\"half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b'{"a": 1}\n{"half'
    with Journal(path) as journal:
        assert (journal.healed, list(journal.written())) == (6, [{"a": 1}])
