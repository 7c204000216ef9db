from __future__ import annotations

import csv
import datetime
import errno
import gzip
import io
import json
import os
import random
import re
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import libra_guard.io as libra_io
from libra_guard import jsonlist, textfile
from libra_guard.errors import DataError, MissingExtraError, UsageError
from libra_guard.hub import pinned
from libra_guard.io import (
    BadRow,
    Row,
    atomic,
    bytes_hash,
    count_rows,
    dumps,
    file_hash,
    list_files,
    model_hash,
    not_read,
    read_rows,
    unread,
    write_atomic,
)

ROWS = [
    {"id": 1, "question": "如何泡茶？", "response": "水温八十度左右。\n两三分钟即可。"},
    {"id": 2, "question": "“引号”与\\反斜杠", "response": 'a,b"c"\u2028d\x85e😀'},
    {"id": 3, "question": "第三", "response": "好"},
]
Write = Callable[[str, bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return written


def jsonl(rows: list[Any], encoding: str = "utf-8", end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode(encoding)


def csv_bytes(rows: list[dict[str, Any]], encoding: str = "utf-8") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(encoding)


def good(path: Path | str, **options: Any) -> list[dict[str, Any]]:
    """The rows of a file that must hold no bad ones."""
    rows = list(read_rows(path, **options))
    assert [r for r in rows if isinstance(r, BadRow)] == []
    return [r.data for r in rows if isinstance(r, Row)]


def kinds(path: Path | str, **options: Any) -> list[Any]:
    """A row's data, or a bad row's line and reason."""
    return [r.data if isinstance(r, Row) else (r.line, r.reason) for r in read_rows(path, **options)]


# JSON lines


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n \t\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".JSONL"])
def test_json_lines(write: Write, end: str, encoding: str, suffix: str) -> None:
    data = jsonl(ROWS, encoding, end)
    path = write(f"rows{suffix}", gzip.compress(data) if suffix.endswith("gz") else data)
    assert good(path) == ROWS
    assert count_rows(path) == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf8", "UTF-8-SIG", "gbk"])
def test_the_encoding_can_be_named(write: Write, encoding: str) -> None:
    data = jsonl(ROWS[2:], "gbk" if encoding == "gbk" else "utf-8-sig")
    for name in ("rows.jsonl", "rows.json"):
        assert good(write(name, data), encoding=encoding) == ROWS[2:]


def test_last_line_without_its_end(write: Write) -> None:
    assert good(write("rows.jsonl", jsonl(ROWS).rstrip())) == ROWS


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON: Expecting property name"),
        (b'{"a": "half', "not JSON: Unterminated string"),
        (b'{"a": 1} x', "not JSON: Extra data"),
        (b'{"a": "tab\there"}', "not JSON: Invalid control character"),
        (b'{"a": "\\x41"}', r"not JSON: Invalid \escape"),
        (b"[1, 2]", "a list where an object is needed"),
        (b'"text"', "a str where an object is needed"),
        (b"null", "a NoneType where an object is needed"),
        (b"nonsense", "not JSON: Expecting value"),
        (b"[" * 100_000, "not JSON: maximum recursion depth"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
        (b'{"a": "\xff"}', "not utf-8"),
        (b'{"a": "\xe4\xbd"}', "not utf-8"),
        (b'{"a": "\xed\xa0\x80"}', "not utf-8"),
    ],
)
def test_a_bad_line_costs_one_row(write: Write, line: bytes, reason: str) -> None:
    path = write("rows.jsonl", jsonl(ROWS[:2]) + line + b"\n" + jsonl(ROWS[2:]))
    rows = list(read_rows(path))
    assert [r.data for r in rows if isinstance(r, Row)] == ROWS
    (bad,) = [r for r in rows if isinstance(r, BadRow)]
    assert (bad.file, bad.line) == (str(path), 3)
    assert bad.reason.startswith(reason)
    assert bad.text.encode() == line.decode("utf-8", "backslashreplace").encode()


def test_a_line_without_end_costs_one_row(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "LONGEST", 1000)
    for length in (995, 1995, 5000):
        path = write("rows.jsonl", jsonl(ROWS[:1]) + b'{"a": "' + b"x" * length + b"\r\n" + jsonl(ROWS[1:]))
        assert kinds(path) == [ROWS[0], (2, "a line of more than 1000 characters"), *ROWS[1:]]
    path = write("rows.jsonl", jsonl(ROWS) + b"{" * 5000)
    assert kinds(path) == [*ROWS, (4, "a line of more than 1000 characters")]
    *_, bad = read_rows(path)
    assert isinstance(bad, BadRow)
    assert set(bad.text) == {"{"}


def test_lone_surrogate_escapes_are_read_and_written_back(write: Write) -> None:
    path = write("rows.jsonl", b'{"q": "\\ud800", "\\udfff": "\\udc80", "pair": "\\ud83d\\ude00"}\n')
    expected = {"q": "\ud800", "\udfff": "\udc80", "pair": "😀"}
    assert good(path) == [expected]
    assert json.loads(dumps(expected).encode()) == expected


def test_line_ends_of_unicode_do_not_end_a_row(write: Write) -> None:
    row = {"q": "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"}
    assert good(write("rows.jsonl", dumps(row).encode() + b"\n")) == [row]


# Encodings


def test_one_broken_byte_does_not_turn_the_file_into_another_encoding(write: Write) -> None:
    data = jsonl(ROWS).replace("左右".encode(), b"\xff")
    assert kinds(write("rows.jsonl", data)) == [(1, "not utf-8"), *ROWS[1:]]


def test_utf_8_with_a_lost_byte_is_not_taken_for_gb18030(write: Write) -> None:
    # An even number of bytes between the quotes: all of it could be GB18030.
    data = jsonl([{"q": "你好"}, {"q": "你好吗"}, {"q": "再见"}]).replace("吗".encode(), "吗".encode()[:2])
    data.decode("gb18030")
    assert kinds(write("rows.jsonl", data)) == [{"q": "你好"}, (2, "not utf-8"), {"q": "再见"}]


def test_one_broken_byte_in_gb18030_costs_one_row(write: Write) -> None:
    data = jsonl(ROWS * 5, "gb18030").replace("左右".encode("gb18030"), b"\xff", 1)
    assert kinds(write("rows.jsonl", data)) == [(1, "not gb18030"), *(ROWS * 5)[1:]]


@pytest.mark.parametrize("indent", [None, 1])
def test_one_broken_byte_costs_one_row_of_a_list(write: Write, indent: int | None) -> None:
    data = json.dumps(ROWS * 3, ensure_ascii=False, indent=indent).encode().replace("左右".encode(), b"\xff", 1)
    rows = list(read_rows(write("rows.json", data)))
    assert [r.data for r in rows if isinstance(r, Row)] == (ROWS * 3)[1:]
    bad = rows[0]
    assert isinstance(bad, BadRow)
    assert bad.reason == "not utf-8"
    assert "水温八十度\\xff。" in bad.text


def test_one_broken_byte_costs_one_row_of_a_table(write: Write) -> None:
    data = csv_bytes(ROWS).replace("左右".encode(), b"\xff")
    rows = kinds(write("rows.csv", data))
    assert rows == [(2, "not utf-8"), *({k: str(v) for k, v in row.items()} for row in ROWS[1:])]


def test_latin_1_is_not_taken_for_chinese(write: Write) -> None:
    assert kinds(write("rows.jsonl", '{"q": "café"}\n'.encode("latin-1"))) == [(1, "not utf-8")]


def test_encoding_is_found_where_a_long_file_is_cut_inside_a_character(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in range(40, 60):
        monkeypatch.setattr(textfile, "_SAMPLE", size)
        for encoding in ("utf-8", "gb18030"):
            assert good(write("rows.jsonl", jsonl(ROWS * 3, encoding))) == ROWS * 3


@pytest.mark.parametrize("encoding", ["no-such-encoding", "base64"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_unknown_encoding(write: Write, encoding: str, name: str) -> None:
    with pytest.raises(UsageError, match=r"rows.*encoding"):
        list(read_rows(write(name, b"{}"), encoding=encoding))


# JSON lists

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_BLANK = st.text(" \t\r\n", max_size=40)


def spaced(value: Any, blank: Callable[[], str], *, ascii_only: bool) -> str:
    """The value as JSON with any white space wherever it may stand."""
    if isinstance(value, dict):
        pairs = [
            f"{blank()}{json.dumps(k, ensure_ascii=ascii_only)}{blank()}:{spaced(v, blank, ascii_only=ascii_only)}"
            for k, v in value.items()
        ]
        return f"{blank()}{{{','.join(pairs) or blank()}}}{blank()}"
    if isinstance(value, list):
        items = ",".join(spaced(v, blank, ascii_only=ascii_only) for v in value)
        return f"{blank()}[{items or blank()}]{blank()}"
    return f"{blank()}{json.dumps(value, ensure_ascii=ascii_only)}{blank()}"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=3), _VALUES, max_size=4), max_size=5),
    chunk=st.integers(1, 70),
    ascii_only=st.booleans(),
    data=st.data(),
)
def test_any_list_in_any_pieces(tmp_path: Path, rows: list[Any], chunk: int, ascii_only: bool, data: Any) -> None:
    text = spaced(rows, lambda: data.draw(_BLANK), ascii_only=ascii_only)
    assert json.loads(text) == rows
    path = tmp_path / "rows.json"
    try:
        path.write_bytes(text.encode())
    except UnicodeEncodeError:
        path.write_bytes(json.dumps(rows).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textfile, "_CHUNK", chunk)
        assert good(path, encoding="utf-8") == rows


@pytest.mark.parametrize("chunk", range(1, 40))
@pytest.mark.parametrize("item", ["1.5e+10", "-0.25E-3", "123456789012345678901234567890", "true", "null", '"\\ud83d"'])
def test_items_that_are_no_objects_cost_one_row_each(
    write: Write, monkeypatch: pytest.MonkeyPatch, chunk: int, item: str
) -> None:
    monkeypatch.setattr(textfile, "_CHUNK", chunk)
    rows = kinds(write("rows.json", f'[{{"a": 1.5e-3}},{item},{{"b": -7}}, {item}]'.encode()))
    bad = (1, f"a {type(json.loads(item)).__name__} where an object is needed")
    assert rows == [{"a": 1.5e-3}, bad, {"b": -7}, bad]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
def test_line_of_an_item(write: Write, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(textfile, "_CHUNK", chunk)
    text = '\n\n[\n {"a":\n 1},\n\n {"b": 2}, {"c": 3},\n 4]\n'
    assert [r.line for r in read_rows(write("rows.json", text.encode()))] == [4, 7, 7, 8]


@pytest.mark.parametrize("text", ["[]", " [ ] ", "", " \n", "\ufeff", "\ufeff[]"])
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_nothing_in_it(write: Write, text: str, suffix: str) -> None:
    data = text.encode()
    assert good(write(f"rows{suffix}", gzip.compress(data) if suffix.endswith("gz") else data)) == []


LIST = json.dumps(ROWS, ensure_ascii=False, indent=1)


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_a_list_cut_anywhere_keeps_what_is_whole(write: Write, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(textfile, "_CHUNK", chunk)
    for end in range(1, len(LIST), 7 if chunk > 1 else 31):
        rows = list(read_rows(write("rows.json", LIST[:end].encode()), encoding="utf-8"))
        assert isinstance(rows[-1], BadRow)
        assert "the file ends inside the list" in rows[-1].reason or "not JSON from here on" in rows[-1].reason
        whole = [r.data for r in rows[:-1] if isinstance(r, Row)]
        assert whole == ROWS[: len(rows) - 1]
        assert len(whole) == sum(LIST[:end].count(f"\n {x}") for x in ("}",))


@pytest.mark.parametrize("chunk", [1, 16, 1 << 20])
@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        ("{'a': 1}", "not JSON from here on: Expecting property name"),
        ('{"a" 1}', "not JSON from here on: Expecting ':' delimiter"),
        ("}", "not JSON from here on: Expecting value"),
        ('"\\x"', r"not JSON from here on: Invalid \escape"),
        ('{"a": "she said "hi" }, {"b": 1}"}', "not JSON from here on: Expecting ',' delimiter"),
        ('{"a": "no end}', "not JSON from here on: Invalid control character at"),
        ('{"a": 他说}', "not JSON from here on: Expecting value"),
        ('{"a": tru} "b"', "not JSON from here on: Expecting value"),
        ('{"a": tru}, "b"', "not JSON from here on: Expecting value"),
        ('{"a": tru} {"b": 1}', "not JSON from here on: Expecting value"),
    ],
)
def test_a_list_that_is_damaged_in_the_middle(
    write: Write, monkeypatch: pytest.MonkeyPatch, chunk: int, middle: str, reason: str
) -> None:
    monkeypatch.setattr(textfile, "_CHUNK", chunk)
    path = write("rows.json", f'[\n{{"a": 1}},\n{middle},\n{{"b": "after the damage"}}\n]'.encode())
    first, bad = read_rows(path)
    assert first == Row(str(path), 2, {"a": 1})
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.more) == (3, True)
    assert bad.reason.startswith(reason)
    assert "on line 3; the rest of the file is not read, and how many rows are in it is not known" in bad.reason
    assert bad.text.startswith(middle[:5])


@pytest.mark.parametrize("chunk", [1, 16, 1 << 20])
@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        ('{"a": tru}', "Expecting value on line 4"),
        ('{"a": [1, {"b": None}], "c": {"d": "}"}}', "Expecting value on line 4"),
        ('{"a": "\\x", "b": "]}, {"}', r"Invalid \escape on line 4"),
        ('{"a": "\\"\\x"}', r"Invalid \escape on line 4"),
        ('{"a": "a line\nand a half"}', "Invalid control character at on line 4"),
        # What is said of it depends on Python's version.
        ('{"a": 1,\n}', ""),
        ('{"a": 01}', "Expecting ',' delimiter on line 4"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
    ],
)
def test_an_item_whose_end_is_plain_costs_one_row(
    write: Write, monkeypatch: pytest.MonkeyPatch, chunk: int, damaged: str, reason: str
) -> None:
    monkeypatch.setattr(textfile, "_CHUNK", chunk)
    path = write("rows.json", f'[\n{{"a": "问"}},\n\n{damaged} ,{{"b": 2}},\n{{"c": 3}} ]'.encode())
    first, bad, second, third = read_rows(path)
    assert [first, second, third] == [
        Row(str(path), 2, {"a": "问"}),
        Row(str(path), 4 + damaged.count("\n"), {"b": 2}),
        Row(str(path), 5 + damaged.count("\n"), {"c": 3}),
    ]
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.text, bad.more) == (4, damaged, False)
    assert bad.reason.startswith(f"not JSON: {reason}")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=3), _VALUES, max_size=4), min_size=2, max_size=5),
    place=st.floats(0, 1),
    inserted=st.sampled_from(["", '"', "\\", "{", "}", "[", "]", ",", ":", "\n", "x"]),
    indent=st.sampled_from([None, 1]),
)
def test_no_row_is_made_up_behind_any_damage(
    tmp_path: Path, rows: list[Any], place: float, inserted: str, indent: int | None
) -> None:
    text = json.dumps(rows, indent=indent)
    at = 1 + int(place * (len(text) - 1))
    path = tmp_path / "rows.json"
    path.write_text(text[:at] + inserted + text[at + (not inserted) :], encoding="utf-8")
    found = list(read_rows(path, encoding="utf-8"))
    damaged = next((i for i, row in enumerate(found) if isinstance(row, BadRow)), len(found))
    assert all(row.data in rows for row in found[damaged:] if isinstance(row, Row))
    lost = any(isinstance(row, BadRow) and row.more for row in found)
    assert lost or len(found) >= len(rows)


@pytest.mark.parametrize("chunk", [64, 1 << 20])
def test_a_damaged_item_that_is_too_long_is_given_up(write: Write, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(textfile, "_CHUNK", chunk)
    monkeypatch.setattr(jsonlist, "LONGEST_DAMAGED", 1000)
    for length, rows in ((800, 2), (5000, 1)):
        for filling in (b'"' + b"x" * length + b'"', b"[" + b"1, " * (length // 3) + b"1]"):
            path = write("rows.json", b'[{"a": tru, "b": ' + filling + b'}, {"c": 1}]')
            bad, *rest = read_rows(path)
            assert isinstance(bad, BadRow)
            assert (bad.line, bad.more, 1 + len(rest)) == (1, rows == 1, rows)


def test_a_damaged_item_that_is_too_deep_is_given_up(write: Write) -> None:
    ((line, reason),) = kinds(write("rows.json", b'[{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b'}, {"c": 1}]'))
    assert (line, reason.partition(":")[0]) == (1, "not JSON from here on")


def test_an_undecodable_byte_in_a_damaged_item_is_told_as_such(write: Write) -> None:
    path = write("rows.json", '[{"a": "如何泡茶"}, {"b": tru, "c": "'.encode() + b'\xff"}, {"d": 1}]')
    assert kinds(path, encoding="utf-8") == [{"a": "如何泡茶"}, (1, "not utf-8"), {"d": 1}]


@pytest.mark.parametrize("chunk", [1, 16, 1 << 20])
def test_the_line_of_the_damage_is_told(write: Write, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(textfile, "_CHUNK", chunk)
    path = write("rows.json", b'\n[\n{"a":\n1},\n\n{"b": 1,\n\n"c" tru}, {"d": 1}]')
    *_, bad = read_rows(path)
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.reason.partition(";")[0]) == (6, "not JSON from here on: Expecting ':' delimiter on line 8")


@pytest.mark.parametrize(
    "text",
    [
        # A quote and a line end that were not escaped: what looks like a row stands in the text of one.
        '[\n{"q": "she said "hi":\n{"q": "a"},\nand left"},\n{"q": "b"}\n]',
        # Rows inside a row.
        '[\n{"messages": [\n{"role" tru},\n{"role": "user"}\n]},\n{"role": "user"}\n]',
    ],
)
def test_no_row_is_made_of_what_follows_the_damage(write: Write, text: str) -> None:
    ((line, reason),) = kinds(write("rows.json", text.encode()))
    assert line == 2
    assert reason.startswith("not JSON from here on")


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_what_follows_the_list_is_not_lost_in_silence(
    write: Write, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(textfile, "_CHUNK", chunk)
    path = write("rows.json", b'[{"a": 1}]\n\n[{"b": 2}]')
    assert kinds(path) == [{"a": 1}, (1, "text after the end of the list")]


def test_an_item_without_end_is_given_up(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "_CHUNK", 64)
    monkeypatch.setattr(textfile, "LONGEST", 1000)
    rows = list(read_rows(write("rows.json", b'[{"a": 1}, {"b": "' + b"x" * 5000)))
    assert [type(r) for r in rows] == [Row, BadRow]


# .json files that are no lists


def test_one_object_over_several_lines(write: Write) -> None:
    value = {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}
    text = '{"messages": [\n{"role": "user", "content": "问"},\n{"role": "assistant", "content": "答"}\n]}'
    assert good(write("rows.json", text.encode())) == [value]
    assert good(write("rows.json", json.dumps(value, indent=2).encode())) == [value]


def test_json_lines_of_which_the_first_is_damaged(write: Write) -> None:
    path = write("rows.json", b'{"a": \n' + jsonl(ROWS))
    assert [r if isinstance(r, dict) else r[0] for r in kinds(path)] == [1, *ROWS]


def test_one_object_that_is_too_long_is_told_from_json_lines(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "LONGEST", 1000)
    damaged = b'{"a": \n'
    assert [r if isinstance(r, dict) else r[0] for r in kinds(write("rows.json", damaged + jsonl(ROWS * 9)))] == [
        1,
        *ROWS * 9,
    ]
    path = write("rows.json", b'{"a": [\n' + b"1,\n" * 2000 + b"1]}")
    assert kinds(path) == [(1, "no line is an object, and one object of more than 1000 characters is not read")]


def test_json_lines_longer_than_a_piece(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "_CHUNK", 8)
    assert good(write("rows.json", jsonl(ROWS))) == ROWS


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": 1', "not JSON"),
        (b'{"a":\n "half', "not JSON"),
        (b"nonsense", "neither a list of objects nor an object"),
        (b'"text"', "neither a list of objects nor an object"),
        (b"\x00\x01", "neither a list of objects nor an object"),
        (b"[", "the file ends inside the list"),
    ],
)
def test_no_json(write: Write, data: bytes, reason: str) -> None:
    ((line, found),) = kinds(write("rows.json", data))
    assert line == 1
    assert found.startswith(reason)


# CSV


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_table(write: Write, encoding: str, suffix: str) -> None:
    data = csv_bytes(ROWS, encoding)
    path = write(f"rows{suffix}", gzip.compress(data) if suffix.endswith("gz") else data)
    assert good(path) == [{k: str(v) for k, v in row.items()} for row in ROWS]


def test_table_with_line_ends_in_quotes(write: Write) -> None:
    path = write("rows.csv", 'q,r\r\n"一\n二\r\n三","a ""b"""\r\n\r\n四,五\u2028六\x85七\x0b八\r\n'.encode())
    assert list(read_rows(path)) == [
        Row(str(path), 2, {"q": "一\n二\r\n三", "r": 'a "b"'}),
        Row(str(path), 6, {"q": "四", "r": "五\u2028六\x85七\x0b八"}),
    ]


def test_table_with_wrong_numbers_of_fields(write: Write) -> None:
    path = write("rows.csv", b"q,r\na,b\na\na,b,c\nd,e\n")
    assert kinds(path) == [
        {"q": "a", "r": "b"},
        (3, "1 fields where the header has 2"),
        (4, "3 fields where the header has 2"),
        {"q": "d", "r": "e"},
    ]
    assert [r.text for r in read_rows(path) if isinstance(r, BadRow)] == ["a", "a,b,c"]


def test_table_with_bad_quotes(write: Write) -> None:
    path = write("rows.csv", b'q,r\na,b\n"c"x,d\ne,f\n"never closed,g\nh,i\n')
    rows = list(read_rows(path))
    assert [r.data for r in rows if isinstance(r, Row)] == [{"q": "a", "r": "b"}, {"q": "e", "r": "f"}]
    broken, unclosed = (r for r in rows if isinstance(r, BadRow))
    assert (broken.line, broken.text) == (3, '"c"x,d')
    assert broken.reason.startswith("not CSV")
    assert (unclosed.line, unclosed.text) == (5, '"never closed,g\nh,i')
    assert unclosed.reason.startswith("not CSV")
    assert unclosed.reason.endswith("; it takes 2 lines, up to line 6: is a quote not closed?")
    assert "lines" not in broken.reason


def test_rows_that_a_quote_has_swallowed_are_told(write: Write) -> None:
    # The quote of line 2 ends where that of line 5 begins.
    rows = kinds(write("rows.csv", b'q,r\n"a,b\nc,d\ne,f\n"\ng,h\n'))
    assert rows == [
        (2, "1 fields where the header has 2; it takes 4 lines, up to line 5: is a quote not closed?"),
        {"q": "g", "r": "h"},
    ]
    ((_, reason),) = kinds(write("rows.csv", b'q,r\n"a,b\n\xff,d\n'), encoding="utf-8")
    assert reason.startswith("not utf-8; not CSV")
    assert "it takes 2 lines" in reason


def test_rows_that_may_be_lost_with_a_bad_one_are_told(write: Write, tmp_path: Path) -> None:
    def more(name: str, data: bytes) -> list[bool]:
        return [row.more for row in read_rows(write(name, data)) if isinstance(row, BadRow)]

    assert more("a.jsonl", b"{\n[]\n") == [False, False]
    assert more("b.csv", b"a,b\n1\n1,2,3\n") == [False, False]
    assert more("c.csv", b'a,b\n"1,2\n3,4\n') == [True]
    assert more("d.csv", b"a,a\n1,2\n") == [True]
    assert more("e.json", b'[{"a": 1}, {"b":') == [True]
    assert more("f.json", b"text") == [True]
    assert more("g.jsonl.gz", gzip.compress(jsonl(ROWS))[:-9]) == [True]
    assert more("h.parquet", b"PAR1") == [True]


def test_table_with_a_bad_header(write: Write) -> None:
    rows = kinds(write("rows.csv", b'"q"x,r\na,b\n'))
    assert [line for line, _ in rows] == [1, 2]
    assert "no row can be read without the header" in rows[1][1]


def test_a_long_field_is_read_and_an_endless_one_is_not(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(good(write("rows.csv", b"q\n" + b"x" * 1_000_000))[0]["q"]) == 1_000_000
    monkeypatch.setattr(textfile, "LONGEST", 1000)
    limit = csv.field_size_limit()
    try:
        rows = kinds(write("rows.csv", b"q,r\n" + b'"' + b"xxxxxxxxx\n" * 150 + b"\na,b\n"))
    finally:
        csv.field_size_limit(limit)
    assert rows[0][1].startswith("not CSV: a row of more than 1000 characters; it takes 100 lines, up to line 101")
    # What follows is read on, each line in its place.
    assert [line for line, _ in rows[1:-1]] == list(range(102, 152))
    assert rows[-1] == {"q": "a", "r": "b"}


def test_a_table_with_a_line_without_end(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "LONGEST", 1000)
    limit = csv.field_size_limit()
    try:
        rows = kinds(write("rows.csv", b"q,r\r\n" + b"x," * 5000 + b"\r\na,b\r\nc\r\n"))
    finally:
        csv.field_size_limit(limit)
    assert rows == [
        (2, "not CSV: a row of more than 1000 characters"),
        {"q": "a", "r": "b"},
        (4, "1 fields where the header has 2"),
    ]


# gzip, Parquet


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".json.gz", ".csv.gz"])
def test_gzip_that_breaks_off_keeps_what_came_before(write: Write, suffix: str) -> None:
    # Random enough not to be packed away, so that the half of the file holds about half of the rows.
    chance = random.Random(5)
    rows = [{"id": str(i), "q": f"水{chance.getrandbits(500)}"} for i in range(6000)]
    data = {
        ".jsonl.gz": jsonl(rows),
        ".json.gz": json.dumps(rows).encode(),
        ".csv.gz": csv_bytes(rows),
    }[suffix]
    packed = gzip.compress(data)
    found = list(read_rows(write(f"rows{suffix}", packed[: len(packed) // 2])))
    assert isinstance(found[-1], BadRow)
    assert "the file cannot be read on: Compressed file ended" in found[-1].reason
    assert found[-1].line > 0
    assert [r.data for r in found[:-1] if isinstance(r, Row)] == rows[: len(found) - 1]
    assert len(found) > 1500


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".json.gz", ".csv.gz", ".parquet.gz"])
@pytest.mark.parametrize("kind", ["no gzip", "damaged", "cut in its header"])
def test_no_gzip(write: Write, suffix: str, kind: str) -> None:
    packed = bytearray(gzip.compress(jsonl(ROWS)))
    packed[12:20] = b"\xff" * 8
    data = {"no gzip": jsonl(ROWS), "damaged": bytes(packed), "cut in its header": bytes(packed[:5])}[kind]
    (bad,) = read_rows(write(f"rows{suffix}", data))
    assert isinstance(bad, BadRow)
    assert "read" in bad.reason


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("suffix", "data"), [(".jsonl", jsonl(ROWS)), (".json", json.dumps(ROWS).encode()), (".CSV", csv_bytes(ROWS))]
)
def test_the_only_file_of_an_archive_is_read(tmp_path: Path, suffix: str, data: bytes) -> None:
    members = {"deep/": b"", "deep/any.name": data, "__MACOSX/deep/._any.name": b"\x00"}
    path = zipped(tmp_path / f"rows{suffix}.ZIP", members)
    expected = [{**row, "id": str(row["id"])} for row in ROWS] if suffix == ".CSV" else ROWS
    assert good(path) == good(tmp_path) == expected


@pytest.mark.parametrize("count", [0, 2])
def test_an_archive_of_several_files_or_none_is_told(tmp_path: Path, count: int) -> None:
    (bad,) = read_rows(zipped(tmp_path / "rows.jsonl.zip", {f"{i}.jsonl": jsonl(ROWS) for i in range(count)}))
    assert isinstance(bad, BadRow)
    assert bad.reason.endswith(f"the archive holds {count} files where one is read; unpack it")


@pytest.mark.parametrize("suffix", [".jsonl.zip", ".csv.zip", ".parquet.zip"])
@pytest.mark.parametrize("kind", ["no zip", "cut", "damaged", "encrypted", "unknown packing"])
def test_no_zip(tmp_path: Path, suffix: str, kind: str) -> None:
    path = zipped(tmp_path / f"rows{suffix}", {"rows": jsonl(ROWS)})
    data = bytearray(path.read_bytes())
    start = data.index(b"rows") + 4
    central = data.index(b"PK\x01\x02")
    if kind == "damaged":
        data[start : start + 40] = b"\xff" * 40
    elif kind == "encrypted":
        data[6], data[central + 8] = 1, 1
    elif kind == "unknown packing":
        data[8], data[central + 10] = 99, 99
    path.write_bytes({"no zip": jsonl(ROWS), "cut": bytes(data[:-30])}.get(kind, bytes(data)))
    *_, bad = read_rows(path)
    assert isinstance(bad, BadRow)
    assert "read" in bad.reason


def test_an_archive_damaged_at_its_end_keeps_what_came_before(tmp_path: Path) -> None:
    path = zipped(tmp_path / "rows.jsonl.zip", {"rows": jsonl(ROWS)})
    data = bytearray(path.read_bytes())
    for header, offset in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16)):
        data[data.index(header) + offset] ^= 0xFF
    path.write_bytes(bytes(data))
    *_, bad = read_rows(path)
    assert isinstance(bad, BadRow)
    assert "the file cannot be read on: Bad CRC-32" in bad.reason


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def test_parquet(tmp_path: Path) -> None:
    columns = {key: [row[key] for row in ROWS] for key in ROWS[0]}
    path = parquet(tmp_path / "rows.parquet", columns, row_group_size=2)
    assert good(path) == ROWS
    assert [r.line for r in read_rows(path)] == [1, 2, 3]
    packed = tmp_path / "rows.parquet.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert good(packed) == ROWS
    assert good(zipped(tmp_path / "rows.parquet.zip", {"rows": path.read_bytes()})) == ROWS


def test_parquet_types_that_json_lacks(tmp_path: Path) -> None:
    when = datetime.datetime(2024, 5, 1, 12, 30)
    path = parquet(tmp_path / "rows.parquet", {"at": [when], "raw": [b"\x00\xff"], "tags": [["a"]], "none": [None]})
    (row,) = good(path)
    assert json.loads(dumps(row)) == {"at": "2024-05-01 12:30:00", "raw": "b'\\x00\\xff'", "tags": ["a"], "none": None}


def test_parquet_text_that_is_no_utf_8_costs_one_row(tmp_path: Path) -> None:
    import pyarrow

    buffers = pyarrow.array([b"one", b"\xff\xfe", b"three"], pyarrow.binary()).buffers()
    path = parquet(tmp_path / "rows.parquet", {"q": pyarrow.Array.from_buffers(pyarrow.string(), 3, buffers)})
    first, bad, third = kinds(path)
    assert (first, third) == ({"q": "one"}, {"q": "three"})
    assert bad[0] == 2
    assert "utf-8" in bad[1]


@pytest.mark.parametrize("end", [0, 3, 100, -1])
def test_parquet_that_is_cut(tmp_path: Path, end: int) -> None:
    path = parquet(tmp_path / "rows.parquet", {"q": ["一", "二"]})
    path.write_bytes(path.read_bytes()[:end])
    (bad,) = read_rows(path)
    assert isinstance(bad, BadRow)
    assert "not readable as Parquet" in bad.reason


# Paths


def test_folder_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(jsonl(ROWS[1:2], "gb18030"))
    (tmp_path / "a.json").write_bytes(json.dumps(ROWS[:1]).encode())
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(csv_bytes(ROWS[2:])))
    (tmp_path / "notes.txt").write_text("not data", encoding="utf-8")
    (tmp_path / "d.jsonl").mkdir()
    assert [Path(f).name for f in list_files(tmp_path)] == ["a.json", "b.jsonl", "c.csv.gz"]
    assert not_read(tmp_path) == ["d.jsonl/", "notes.txt"]
    assert good(tmp_path) == [*ROWS[:2], {k: str(v) for k, v in ROWS[2].items()}]


def test_what_is_not_read_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS))
    assert unread(tmp_path) == unread(tmp_path / "a.jsonl") == unread("hf://a/one") == []
    for name in ("b.tsv", "c.jsonl.bz2", "d.txt", "e.xlsx", "g", ".DS_Store", ".gitattributes"):
        (tmp_path / name).touch()
    (tmp_path / "f").mkdir()
    what = "files or folders in .* that are no .json, .jsonl, .ndjson, .csv, .parquet"
    (line,) = unread(tmp_path)
    assert re.fullmatch(rf"6 {what}: passed over \(b.tsv; c.jsonl.bz2; d.txt; e.xlsx; f/; …\)", line)


def test_of_a_folder_of_synth_neither_its_card_nor_its_stages_are_called_unread(tmp_path: Path) -> None:
    for stage in ("stage1", "stage2"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "rows.jsonl").write_bytes(jsonl(ROWS))
    for name in ("card.json", "README.md", "left_out.jsonl"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    assert not_read(tmp_path) == ["left_out.jsonl"]


def test_ndjson_is_jsonl(write: Write) -> None:
    assert good(write("rows.ndjson", jsonl(ROWS))) == good(write("rows.ndjson.gz", gzip.compress(jsonl(ROWS)))) == ROWS


def test_a_bad_file_of_a_folder_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "b.jsonl").write_bytes(jsonl(ROWS))
    assert [r if isinstance(r, dict) else r[0] for r in kinds(tmp_path)] == [1, *ROWS]


@pytest.mark.parametrize("name", ["rows.txt", "rows", "rows.gz", "rows.zip", "rows.jsonl.bz2"])
def test_unknown_kind(write: Write, name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown kind of file; known are \.json, \.jsonl"):
        list(read_rows(write(name, b"{}")))


def test_missing_file_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        list(read_rows(tmp_path / "none.jsonl"))
    with pytest.raises(UsageError, match=r"no \.json, \.jsonl, \.ndjson, \.csv, \.parquet file in this folder"):
        list(read_rows(tmp_path))


def test_hash_is_of_the_bytes(write: Write, tmp_path: Path) -> None:
    path = write("rows.jsonl", b"abc")
    assert file_hash(path) == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_hash(tmp_path) == file_hash(path)
    path.write_bytes(b"abd")
    assert file_hash(path) != file_hash(write("other.jsonl", b"abc"))


def test_hash_of_what_was_read() -> None:
    assert bytes_hash(b"abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("name", ["README.md", "calibration.json", ".cache"])
def test_what_stands_beside_a_model_is_none_of_it(write: Write, tmp_path: Path, name: str) -> None:
    write("model.onnx", b"weights")
    before = model_hash(tmp_path)
    write(name, b"more")
    assert model_hash(tmp_path) == before
    write(name, b"less")
    assert model_hash(tmp_path) == before


@pytest.mark.parametrize(("name", "data"), [("model.onnx", b"weightt"), ("config.json", b""), ("readme.txt", b"")])
def test_another_model_has_another_hash(write: Write, tmp_path: Path, name: str, data: bytes) -> None:
    write("model.onnx", b"weights")
    before = model_hash(tmp_path)
    write(name, data)
    assert model_hash(tmp_path) != before


# The hub


COMMIT = "0123456789" * 4


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    def splits(name: str, *, revision: str | None) -> list[str]:
        if name == "a/missing" or revision == "gone":
            raise FileNotFoundError("no such dataset")
        return ["train", "test"] if name == "a/two" and revision != "v1" else ["test"]

    def load(name: str, *, revision: str | None, split: str, streaming: bool) -> Iterator[dict[str, Any]]:
        assert streaming
        return iter([{"name": name, "split": split, "revision": revision}, {"n": 2}])

    def builder(name: str, *, revision: str | None) -> SimpleNamespace:
        splits(name, revision=revision)
        commit = {None: COMMIT, "refs/pr/1": COMMIT[::-1]}.get(revision)
        return SimpleNamespace(hash={"a/one": commit, "a/two": commit, "a/folder": "0a1b2c3d"}.get(name))

    stub = SimpleNamespace(get_dataset_split_names=splits, load_dataset=load, load_dataset_builder=builder)
    monkeypatch.setitem(sys.modules, "datasets", stub)
    return stub


@pytest.mark.parametrize(
    ("address", "name", "revision", "split"),
    [
        ("hf://a/one", "a/one", None, "test"),
        ("hf://a/two:train", "a/two", None, "train"),
        ("hf://a/one@main", "a/one", "main", "test"),
        ("hf://a/two@refs/pr/1:train", "a/two", "refs/pr/1", "train"),
        (f"hf://a/two@{COMMIT}:test", "a/two", COMMIT, "test"),
        ("hf://a/two@v1", "a/two", "v1", "test"),
    ],
)
def test_hub_dataset(hub: SimpleNamespace, address: str, name: str, revision: str | None, split: str) -> None:
    file = address.rpartition(":")[0] if address.endswith(split) else address
    assert list(read_rows(address)) == [
        Row(file, 1, {"name": name, "split": split, "revision": revision}),
        Row(file, 2, {"n": 2}),
    ]


def test_hub_dataset_with_several_splits_or_none(hub: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match=r"splits train, test: name one, as in hf://a/two:train"):
        list(read_rows("hf://a/two"))
    with pytest.raises(UsageError, match=r"name one, as in hf://a/two@main:train"):
        list(read_rows("hf://a/two@main"))
    with pytest.raises(DataError, match="hf://a/missing: no such dataset"):
        list(read_rows("hf://a/missing"))
    with pytest.raises(DataError, match="hf://a/one@gone: no such dataset"):
        list(read_rows("hf://a/one@gone:test"))


def test_hub_dataset_of_several_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = SimpleNamespace(
        get_dataset_split_names=lambda *named, revision: {"a/one": ["x", "y"], "new": ["test"]}[named[-1]],
        load_dataset=lambda *named, revision, split, streaming: iter(
            [{"named": named, "at": revision, "split": split}]
        ),
        load_dataset_builder=lambda *named, revision: SimpleNamespace(hash=COMMIT),
    )
    monkeypatch.setitem(sys.modules, "datasets", stub)
    for address, at in (("hf://a/one:new/test", None), ("hf://a/one@v1:new/", "v1")):
        file = address.removesuffix("test")
        assert list(read_rows(address)) == [Row(file, 1, {"named": ("a/one", "new"), "at": at, "split": "test"})]
        assert pinned(address) == address.replace("@v1", "").replace("one", f"one@{COMMIT}")
    stub.get_dataset_split_names = lambda *named, revision: ["train", "test"]
    with pytest.raises(UsageError, match=r"hf://a/one:new/ has the splits train, test: .* hf://a/one:new/train"):
        list(read_rows("hf://a/one:new/"))


def test_hub_dataset_is_recorded_with_its_commit(hub: SimpleNamespace) -> None:
    assert file_hash("hf://a/one") == f"hf://a/one@{COMMIT}"
    assert file_hash("hf://a/two:test") == f"hf://a/two@{COMMIT}:test"
    assert file_hash("hf://a/two@refs/pr/1:test") == f"hf://a/two@{COMMIT[::-1]}:test"
    # A folder here has a hash that is no commit; another version of the library may tell none.
    untold = [f"hf://a/{name}" for name in ("folder", "two@v1:test", "other")]
    assert [file_hash(address) for address in untold] == untold
    with pytest.raises(DataError, match="hf://a/missing: no such dataset"):
        file_hash("hf://a/missing")


def test_a_commit_stands_for_itself(hub: SimpleNamespace, tmp_path: Path) -> None:
    recorded = file_hash("hf://a/two:test")
    assert good(recorded)[0]["revision"] == COMMIT
    # Nobody is asked.
    hub.load_dataset_builder = None
    assert pinned(recorded) == recorded
    assert pinned(tmp_path) == tmp_path


@pytest.mark.parametrize("address", ["hf://", "hf://:train", "hf://@main", "hf:///", "hf:// :x/y"])
def test_an_address_without_a_name(hub: SimpleNamespace, address: str) -> None:
    for read in (pinned, file_hash, count_rows):
        with pytest.raises(UsageError, match=r"names no dataset; write hf://owner/name"):
            read(address)


def test_hub_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"libra-guard\[hf\]"):
        list(read_rows("hf://a/one"))


# Writing


def test_write_atomic_leaves_the_old_file_if_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.json"
    write_atomic(path, "old")
    monkeypatch.setattr(libra_io.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert [f.name for f in path.parent.iterdir()] == ["file.json"]


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = libra_io.temporary_of(tmp_path / "a[1].json").name
    of = {process: mine.replace(str(os.getpid()), str(process)) for process in (dead.pid, os.getppid())}
    kept = [of[os.getppid()], of[dead.pid].replace("a[1]", "b"), of[dead.pid].replace("@", "@another-")]
    for name in (of[dead.pid], *kept):
        (tmp_path / name).write_text("half", encoding="utf-8")
    write_atomic(tmp_path / "a[1].json", "new")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["a[1].json", *kept])


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, absent, full = tmp_path / "folder", Path("/proc/absent"), tmp_path / "file.json"
    folder.mkdir()
    with pytest.raises(IsADirectoryError) as error:
        write_atomic(folder, "new")
    assert (error.value.filename, error.value.filename2) == (str(folder), None)
    with pytest.raises(OSError, match=r"'/proc/absent'$"):
        write_atomic(absent, "new")

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(libra_io.os, "fsync", fsync)
    with pytest.raises(OSError, match=r"No space left on device: '.*/file\.json'$"):
        write_atomic(full, "new")
    # Another file's error, inside the block, keeps its own name.
    with pytest.raises(OSError, match=r"'/no/such/file'$"), atomic(full):
        Path("/no/such/file").read_bytes()
    assert list(tmp_path.iterdir()) == [folder]


def test_write_atomic_writes_any_name(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file.json", json.dumps({"path": "名\udcff"}, ensure_ascii=False))
    assert json.loads((tmp_path / "file.json").read_bytes()) == {"path": "名\udcff"}


@given(_VALUES)
def test_dumps_is_one_line_of_utf_8(value: Any) -> None:
    text = dumps(value)
    assert "\n" not in text
    assert json.loads(text.encode()) == value


# Large files


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_large_file_is_streamed(tmp_path: Path, suffix: str) -> None:
    row = {"id": "1", "question": "问" * 5_000, "response": "答" * 5_000}
    line = csv_bytes([row]).splitlines(keepends=True)[1] if suffix == ".csv" else dumps(row).encode()
    path = tmp_path / f"rows{suffix}"
    count = 60_000_000 // len(line)
    with path.open("wb") as stream:
        stream.write({".json": b"[", ".csv": b"id,question,response\r\n"}.get(suffix, b""))
        for i in range(count):
            between = b",\n" if suffix == ".json" and i + 1 < count else b"\n" * (suffix != ".csv")
            stream.write(line + between)
        stream.write(b"]" if suffix == ".json" else b"")
    assert path.stat().st_size > 55_000_000
    start = time.monotonic()
    tracemalloc.start()
    try:
        assert count_rows(path) == count
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40_000_000
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("name", "begin", "repeated", "rows"),
    [
        ("damaged first line.json", '{"a":\n', '{"a": "一"}\n', None),
        ("one object without end.json", '{"a": [\n', "1,\n", 1),
        ("nothing.json", "\n", "\n", 0),
        ("one line.jsonl", '{"a": "', "x", 1),
        ("one line.csv", "a,b\n", "x,", 1),
    ],
)
def test_no_file_is_taken_whole_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, begin: str, repeated: str, rows: int | None
) -> None:
    monkeypatch.setattr(textfile, "LONGEST", 100_000)
    monkeypatch.setattr(textfile, "_CHUNK", 50_000)
    path = tmp_path / name
    count = 6_000_000 // len(repeated.encode())
    path.write_text(begin + repeated * count, encoding="utf-8", newline="\n")
    limit = csv.field_size_limit()
    tracemalloc.start()
    try:
        found = count_rows(path, encoding="utf-8")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        csv.field_size_limit(limit)
    assert peak < 2_500_000
    assert found == (count + 1 if rows is None else rows)
