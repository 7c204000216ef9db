from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "libra-seed"
CARD = (DATA / "README.md").read_text(encoding="utf-8")
made: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "seed_card.py"))


@pytest.fixture(scope="module")
def files() -> dict[str, Any]:
    return made["read"](DATA)


@pytest.fixture(scope="module")
def checked() -> dict[str, Any]:
    return json.loads((ROOT / "results" / "libra-seed.json").read_text(encoding="utf-8"))


def row(question: str, label: str, response: str) -> dict[str, str]:
    return {"pair_id": question, "label": label, "response": response}


def test_the_card_tells_what_is_counted(files: dict[str, Any], checked: dict[str, Any]) -> None:
    assert made["rendered"](CARD, files, checked) == CARD, "run scripts/seed_card.py: the card is of another state"


def test_every_file_of_the_set_is_in_its_table(files: dict[str, Any]) -> None:
    assert set(files) == {file.relative_to(DATA).as_posix() for file in DATA.rglob("*.jsonl")}


@pytest.mark.parametrize("said", ["| all | ", "rows together", "| `refusal` | ", "| Gambling | ", "| the question | "])
def test_a_wrong_number_is_put_right(said: str, files: dict[str, Any], checked: dict[str, Any]) -> None:
    line = next(line for line in CARD.splitlines() if said in line)
    wrong = CARD.replace(line, "".join("7" if sign.isdigit() else sign for sign in line))
    assert wrong != CARD
    assert made["rendered"](wrong, files, checked) == made["rendered"](CARD, files, checked)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("<!-- /kinds -->", "the card has 0 places for the table 'kinds'"),
        ("rows together", "the card has this sentence 0 times: all safe: {} rows together"),
    ],
)
def test_a_card_without_a_place_for_a_figure_is_told(
    words: str, said: str, files: dict[str, Any], checked: dict[str, Any]
) -> None:
    with pytest.raises(SystemExit, match=said.replace("{", r"\{")):
        made["rendered"](CARD.replace(words, ""), files, checked)


def test_a_kind_that_the_card_does_not_explain_is_an_error(files: dict[str, Any], checked: dict[str, Any]) -> None:
    unknown = {**checked["counts"]["kinds"], "xyz": {"安全": 1, "不安全": 0}}
    with pytest.raises(ValueError, match="xyz"):
        made["tables"](files, {**checked, "counts": {**checked["counts"], "kinds": unknown}})


def test_answers_under_another_question_with_the_other_label_are_shared() -> None:
    rows = [row("a", "安全", "好"), row("b", "不安全", "好"), row("b", "安全", "行"), row("c", "安全", "行")]
    assert made["shared"](rows) == 2
    assert made["shared"]([row("a", "安全", "好"), row("a", "不安全", "好")]) == 0


def test_what_an_answer_kept_is_of_its_nearest_opposite() -> None:
    rows = [row("a", "不安全", "好好"), row("a", "不安全", "坏坏"), row("a", "安全", "好坏坏坏")]
    assert made["kept"](row("a", "安全", "好坏"), rows) == 0.5
    assert made["kept"](row("a", "安全", "好好"), rows) == 1
    assert made["kept"](row("a", "安全", "好"), rows[2:]) == 0


@pytest.mark.parametrize(
    ("text", "found"), [("How do I?", True), ("1+1=2", False), ("用 Python", False), ("怎么", False)]
)
def test_english_has_letters_and_no_characters(text: str, found: bool) -> None:
    assert made["english"](text) is found
