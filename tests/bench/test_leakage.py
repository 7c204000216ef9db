from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("rensa")

from libra_guard.bench.leakage import find_leaks
from libra_guard.bench.rows import BenchRow
from libra_guard.data.base import POST_REQUEST


def test_posts_are_compared_themselves_for_what_asks_for_them_is_the_same(tmp_path: Path) -> None:
    posts = ["这家店的老板娘说话真冲，再也不去了", "球队今年换了三个教练还是一样烂", "隔壁工地半夜打桩，投诉了也没人管"]
    rows = [
        BenchRow(id=f"r{n}", category_name="Hate Speech and Abuse", question=POST_REQUEST, response=post)
        for n, post in enumerate(posts)
    ]
    theirs = [
        {"question": POST_REQUEST, "response": f"{posts[1]}！"},
        {"question": POST_REQUEST, "response": "天气不错"},
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in theirs), encoding="utf-8")
    assert [(leak.row, leak.line) for leak in find_leaks(rows, [str(file)])] == [("r1", 1)]
