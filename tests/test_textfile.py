"""Encodings that do not keep ASCII, through the readers that they serve."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from libra_guard.errors import UsageError
from libra_guard.io import Row, read_rows

ROWS = [
    {"id": "1", "q": "水温八十度", "r": "第一行\n第二行\r\n"},
    # In UTF-16 these hold the bytes of line ends: U+0A0A, U+0D0A and the second half of U+1F60A.
    {"id": "2", "q": "\u0a0a\u0d0a\u2028", "r": "😊\x85"},
    {"id": "3", "q": "三", "r": "好"},
]


def text(suffix: str, rows: list[dict[str, str]] = ROWS) -> str:
    """The rows as a file of this kind holds them."""
    if suffix == ".json":
        return json.dumps(rows, ensure_ascii=False, indent=1)
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def found(path: Path, data: bytes, **options: Any) -> list[Any]:
    """A row's data, or a bad row's line, reason and text."""
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return [r.data if isinstance(r, Row) else (r.line, r.reason, r.text) for r in read_rows(path, **options)]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, suffix: str, encoding: str) -> None:
    data = ("\ufeff" + text(suffix)).encode(encoding)
    assert found(tmp_path / f"rows{suffix}", data) == ROWS
    assert found(tmp_path / f"rows{suffix}.gz", data) == ROWS
    # Also where the encoding is named, with the order or without.
    assert found(tmp_path / f"rows{suffix}", data, encoding=encoding) == ROWS
    assert found(tmp_path / f"rows{suffix}", data, encoding=encoding[:6]) == ROWS


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_without_a_mark_the_encoding_can_be_named(tmp_path: Path, suffix: str, encoding: str) -> None:
    for name in (encoding, encoding[:6]):
        assert found(tmp_path / f"rows{suffix}", text(suffix).encode(encoding), encoding=name) == ROWS


def test_an_encoding_without_ascii(tmp_path: Path) -> None:
    rows = [{"q": "tea?"}, {"q": "hot water"}]
    for suffix in (".jsonl", ".json", ".csv"):
        assert found(tmp_path / f"rows{suffix}", text(suffix, rows).encode("cp037"), encoding="cp037") == rows


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_broken_bytes_of_utf_16_cost_one_row(tmp_path: Path, mark: str) -> None:
    # A lone surrogate; one of its bytes is below 0x80.
    first, second, third = (f"{line}\n".encode("utf-16-le") for line in (mark + text(".jsonl")).split("\n")[:3])
    broken = second.replace("😊".encode("utf-16-le"), b"\x3d\xd8")
    rows = found(tmp_path / "rows.jsonl", first + broken + third, encoding="utf-16-le")
    assert (rows[0], rows[2]) == (ROWS[0], ROWS[2])
    line, reason, shown = rows[1]
    assert (line, reason) == (2, "not utf-16-le")
    assert r"\x3d\xd8" in shown


def test_utf_16_that_ends_inside_a_character(tmp_path: Path) -> None:
    data = text(".jsonl").encode("utf-16")
    *rows, (line, reason, shown) = found(tmp_path / "rows.jsonl", data[:-3])
    assert rows == ROWS[:2]
    assert (line, reason) == (3, "not utf-16")
    assert shown.endswith(r"\x7d")


def test_encodings_that_read_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"rows\.jsonl: .*undefined encoding"):
        found(tmp_path / "rows.jsonl", b"{}", encoding="undefined")
    ((_, reason, _),) = found(tmp_path / "rows.jsonl", b"\xff{}", encoding="idna")
    assert reason.startswith("the file cannot be read on")
