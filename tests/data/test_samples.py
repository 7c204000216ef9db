from __future__ import annotations

import json
from pathlib import Path

from libra_guard.data.base import split_of, split_text
from libra_guard.data.registry import load_dataset_rows
from libra_guard.io import BadRow
from libra_guard.records import Sample, content_id

ROW = {"question": "换个说法：怎么泡茶", "response": "八十度的水。", "label": "安全", "id": "p-1"}


def read(tmp_path: Path, *rows: dict[str, object]) -> list[Sample | BadRow]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return list(load_dataset_rows("samples", path))


def test_four_fields_make_a_sample(tmp_path: Path) -> None:
    found = read(tmp_path, ROW, ROW, {key: value for key, value in ROW.items() if key != "label"})
    assert isinstance(found[0], Sample)
    assert [one.reason for one in found[1:]] == ["the id 'p-1' was there before", "there is no field 'label'"]


def test_a_row_without_an_id_is_named_by_its_content(tmp_path: Path) -> None:
    bare = {key: value for key, value in ROW.items() if key != "id"}
    found = read(tmp_path, bare, {**bare, "id": ""}, {**bare, "id": None}, {**bare, "label": "不安全"}, bare)
    assert [isinstance(one, Sample) for one in found] == [True, True, True, True, False]
    assert found[0].id == content_id(bare)
    assert len({one.id for one in found[:-1]}) == 4
    assert found[-1].reason == f"the id '{content_id(bare)}' was there before"


def test_what_was_made_of_a_question_is_split_as_that_question_is(tmp_path: Path) -> None:
    roots = [f"第{number}个问题怎么办" for number in range(40)]
    rows = [{**ROW, "id": root, "root_question": root} for root in roots]
    found = read(tmp_path, *rows, {**ROW, "id": "last", "root_question": ""})
    assert [split_of(split_text(one)) for one in found[:-1]] == [split_of(root) for root in roots]
    assert split_text(found[-1]) == ROW["question"]


def test_of_what_a_pipeline_wrote_the_samples_of_both_stages_are_read(tmp_path: Path) -> None:
    rows = {"stage1/train": "1", "stage1/dev": "2", "stage2/test": "3", "left_out": "4"}
    for name, number in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**ROW, "id": number}) + "\n", encoding="utf-8")
    for name in ("card.json", "README.md"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    assert [one.id for one in load_dataset_rows("samples", tmp_path)] == ["2", "1", "3"]
