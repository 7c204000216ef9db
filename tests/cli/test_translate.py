from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from libra_guard.backends.base import Prompt
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.cli.main import app
from libra_guard.synth.seats import cast

CONFIG = """
name: t
models: {m: {backend: scripted, model: m}}
seats: {writer: m, judges: [{guard: mini}, {guard: a}]}
"""
ROWS = [
    {"prompt": "How do I boil an egg?", "response": "Eight minutes.", "category": {}, "is_safe": True},
    {"prompt": "What is a lease?", "response": "A contract for renting.", "category": {}, "is_safe": True},
    {"prompt": "How do I plant a tree?", "category": {}, "is_safe": True},
]
WORDS = {
    "How do I boil an egg?": "怎么煮鸡蛋？",
    "Eight minutes.": "八分钟。",
    "What is a lease?": "租约是什么？",
    "A contract for renting.": "一只红色的大气球飞上了天空。",
}


def says(prompt: Prompt) -> str:
    text = prompt.messages[-1].content
    there = {chinese: english for english, chinese in WORDS.items()}
    there["一只红色的大气球飞上了天空。"] = "A big red balloon flew up into the sky."
    # What is to be translated stands behind the examples.
    last = max(WORDS | there, key=text.rfind)
    return (WORDS | there)[last]


def test_a_set_is_translated_and_what_changed_its_meaning_is_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(backend: str, model: str, **options: Any) -> ScriptedBackend:
        asked.append(ScriptedBackend(generate=says))
        return asked[-1]

    monkeypatch.setattr(cast, "load_backend", load)
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    out = tmp_path / "zh.jsonl"
    call = ["synth", "translate", str(tmp_path / "c.yaml"), "--name", "beavertails", "--out", str(out)]
    result = CliRunner().invoke(app, [*call, "--from", str(tmp_path / "rows.jsonl")])
    assert result.exit_code == 1, result.exception
    assert "beavertails: 1 translated, 2 rejects" in result.stderr
    (row,) = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert (row["question"], row["response"]) == ("怎么煮鸡蛋？", "八分钟。")
    assert row["original"] == {"question": "How do I boil an egg?", "response": "Eight minutes."}
    rejects = (tmp_path / "zh.rejects.jsonl").read_text(encoding="utf-8")
    assert "another meaning on the way back" in rejects
    before = len(asked[0].calls)
    CliRunner().invoke(app, [*call, "--from", str(tmp_path / "rows.jsonl")])
    assert before > 0
    assert not asked[1].calls


def test_of_sexual_talk_of_minors_no_text_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cast, "load_backend", lambda *_, **__: ScriptedBackend(generate=says))
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    row = {"prompt": "Write an erotic story about a schoolgirl", "response": "No.", "category": {}, "is_safe": True}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(ROWS[0]) + "\n", encoding="utf-8")
    out = tmp_path / "zh.jsonl"
    call = ["synth", "translate", str(tmp_path / "c.yaml"), "--name", "beavertails", "--out", str(out)]
    result = CliRunner().invoke(app, [*call, "--from", str(tmp_path / "rows.jsonl")])
    assert "beavertails: 1 translated, 1 rejects" in result.stderr
    (reject,) = [json.loads(line) for line in (tmp_path / "zh.rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert reject["row"] == {"set": "beavertails", "id": "beavertails-rows-1"}


def test_the_chinese_rows_of_a_set_in_two_languages_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cast, "load_backend", lambda *_, **__: ScriptedBackend(generate=says))
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    english = {"query": "How do I boil an egg?", "response": "Eight minutes.", "label": "safe"}
    chinese = {"query": "怎么修自行车？", "response": "先看看链条。", "label": "safe"}
    (tmp_path / "data.json").write_text(json.dumps([chinese, english]), encoding="utf-8")
    out = tmp_path / "zh.jsonl"
    call = ["synth", "translate", str(tmp_path / "c.yaml"), "--name", "shieldlm", "--out", str(out)]
    result = CliRunner().invoke(app, [*call, "--from", str(tmp_path / "data.json")])
    assert result.exit_code == 0, result.exception
    assert "shieldlm: 1 translated, 1 Chinese already, 0 rejects" in result.stderr
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(row["question"], row.get("origin")) for row in rows] == [
        ("怎么修自行车？", None),
        ("怎么煮鸡蛋？", "translated"),
    ]


def test_a_grammar_cannot_translate(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: t\nseats: {judges: [{guard: mini}, {guard: a}]}\n", encoding="utf-8")
    call = ["synth", "translate", str(tmp_path / "c.yaml"), "--name", "beavertails", "--out", str(tmp_path / "o.jsonl")]
    result = CliRunner().invoke(app, [*call, "--from", str(tmp_path)])
    assert "no model sits as the writer to translate" in str(result.exception)


def test_calls_are_kept_where_the_help_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cast, "load_backend", lambda *_, **__: ScriptedBackend(generate=says))
    help_text = CliRunner().invoke(app, ["synth", "translate", "--help"], env={"COLUMNS": "200"}).stdout
    assert "by default OUT-STEM.calls.sqlite beside OUT" in help_text
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]) + "\n", encoding="utf-8")
    call = ["synth", "translate", str(tmp_path / "c.yaml"), "--name", "beavertails"]
    CliRunner().invoke(app, [*call, "--from", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "zh.jsonl")])
    assert [path.name for path in tmp_path.glob("*.sqlite")] == ["zh.calls.sqlite"]


@pytest.mark.parametrize("out", ["rows.jsonl", "folder/rows.jsonl"])
def test_the_set_itself_is_not_written_over(tmp_path: Path, out: str) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    file = tmp_path / out
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    before, source = file.read_bytes(), tmp_path / Path(out).parts[0]
    call = ["synth", "translate", str(tmp_path / "c.yaml"), "--name", "beavertails", "--out", str(file)]
    result = CliRunner().invoke(app, [*call, "--from", str(source)])
    assert "is read, and would be written over" in str(result.exception)
    assert file.read_bytes() == before


def test_a_chinese_set_is_not_translated(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    call = ["synth", "translate", str(tmp_path / "c.yaml"), "--name", "cold", "--out", str(tmp_path / "o.jsonl")]
    result = CliRunner().invoke(app, [*call, "--from", str(tmp_path / "rows.csv")])
    assert "'cold' is Chinese: there is nothing to translate" in str(result.exception)
