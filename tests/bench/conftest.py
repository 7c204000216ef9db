"""Rows to label, and rounds made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from libra_guard.bench.rounds import Round
from libra_guard.bench.rows import read_bench_rows
from libra_guard.io import BadRow
from libra_guard.taxonomy import SUB_CATEGORIES, scenario

PEOPLE = ("甲", "yi", "bing")
MakeRound = Callable[..., Round]


def record(number: int, **more: Any) -> dict[str, Any]:
    """A row of the Libra-Test format; the numbers go round the 39 sub-categories."""
    sub = SUB_CATEGORIES[number % len(SUB_CATEGORIES)]
    plain = {
        "id": f"r{number}",
        "source": ("Real Data", "Synthetic Data", "Translated Data")[number % 3],
        "category_name": scenario(sub.scenario).name,
        "sub_category_name": sub.name,
        "question": f"第{number}问",
        "response": f"第{number}答",
    }
    return plain | more


@pytest.fixture
def bench_record() -> Callable[..., dict[str, Any]]:
    """A row of the Libra-Test format by its number, with fields replaced."""
    return record


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes records as JSON lines."""

    def to_file(name: str, records: Sequence[Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
        return path

    return to_file


@pytest.fixture
def make_round(tmp_path: Path, write: Callable[..., Path]) -> MakeRound:
    """A round of three people over rows that are given, or so many plain ones."""

    def make(rows: int | Sequence[dict[str, Any]] = 6, people: Sequence[str] = PEOPLE, folder: str = "round") -> Round:
        records = [record(i) for i in range(rows)] if isinstance(rows, int) else rows
        found = list(read_bench_rows(str(write("rows.jsonl", records))))
        good = [item[0] for item in found if not isinstance(item, BadRow)]
        assert len(good) == len(records)
        return Round.open_or_make(tmp_path / folder, "试", good, people, 0)[0]

    return make
