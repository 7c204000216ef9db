from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.data.registry import load_dataset_rows
from libra_guard.errors import LibraError
from libra_guard.io import Row, read_rows
from libra_guard.synth.run import Run
from libra_guard.synth.seats import trial

MakeRun = Callable[..., Run]


def rows(path: Path) -> list[dict[str, Any]]:
    return [row.data for row in read_rows(path) if isinstance(row, Row)]


@pytest.mark.parametrize("change", ["taken away", "changed"])
def test_children_of_a_query_that_a_person_touched_stay_together(
    run_in: MakeRun, make_config: Any, scripted: dict[str, ScriptedBackend], change: str
) -> None:
    config = make_config(
        queries={"harmful": 8, "borderline": 4, "benign": 4, "only": ["Gambling", "Gender"]},
        augment={"rewrite": 1.0, "paraphrase": 1.0, "red_team": 0.0},
    )
    run = run_in(config=config)
    run.do("elements", "queries", "augment")
    path = run.path("augment")
    told = rows(path)
    roots = {row["id"]: f"由人改过的问题之{number}" for number, row in enumerate(told) if not row["parent"]}
    kept = [row | {"question": roots.get(row["id"], row["question"])} for row in told]
    if change == "taken away":
        kept = [row for row in told if row["parent"]]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    run.go()
    sides: dict[str, set[str]] = {}
    for file in (run.out / "data").rglob("stage*/*.jsonl"):
        for row in rows(file):
            family = row["parent"] or next(old for old, text in roots.items() if text == row["question"])
            sides.setdefault(family, set()).add(file.stem)
    assert len({side for found in sides.values() for side in found}) > 1
    assert all(len(found) == 1 for found in sides.values())


@pytest.fixture
def unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges whose verdicts are no label."""

    def generate(self: ScriptedBackend, prompts: Any, **options: Any) -> Any:
        found = spoken(self, prompts, **options)
        return ['{"答案": "有争议", "分析": "难说。"}' if "答案" in text else text for text in found]

    spoken = ScriptedBackend.generate
    monkeypatch.setattr(ScriptedBackend, "generate", generate)


def test_a_judge_that_cannot_be_read_stops_the_run(
    run_in: MakeRun, scripted: dict[str, ScriptedBackend], unsure: None
) -> None:
    with pytest.raises(LibraError, match="the judge libra:obedient: none of its first 32 answers could be read"):
        run_in().go()


def test_a_split_that_leaves_all_out_stops_the_run(
    run_in: MakeRun, scripted: dict[str, ScriptedBackend], unsure: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of a run of few pairs.
    monkeypatch.setattr(trial, "_FIRST", 10_000)
    run = run_in()
    with pytest.raises(LibraError, match=r"split: no pair went into a stage: \d+ × .*left_out\.jsonl"):
        run.go()
    left = rows(run.out / "data" / "left_out.jsonl")
    assert {(row["label_by"], "label" in row) for row in left} == {("nobody", False)}
    read = list(load_dataset_rows("samples", run.out / "data"))
    assert [one.reason for one in read] == ["there is no field 'label'"] * len(left)
