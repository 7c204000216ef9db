from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from libra_guard.data.base import split_of

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_seed.py"
check: dict[str, Any] = runpy.run_path(str(SCRIPT))

LONG = "先把材料备齐，再按说明书一步一步来，最后请有经验的人看一遍，确认没有问题再开始用。"


def row(number: int, label: str, **fields: Any) -> dict[str, Any]:
    question = fields.get("question", f"第{number}个问题怎么办才好")
    return {
        "id": f"values-{number:03d}-{label}",
        "category_name": "Ethics and Morality",
        "sub_category_name": "Values",
        "question": question,
        "response": f"{number}号的回答，各不相同，{'可以这样' if label == '安全' else '别管别人'}。",
        "label": label,
        "kind": "redirect" if label == "安全" else "agreement",
        "pair_id": f"values-{number:03d}",
        "second_label": label,
        "analyze": "照规则看得出来。",
        "question_label": "安全",
        "split": split_of(question),
        **fields,
    }


def test_the_set_of_this_repository_keeps_its_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check["main"](["--out", str(tmp_path / "out.json")]) == 0, capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    kept = json.loads((SCRIPT.parents[1] / "results" / "libra-seed.json").read_text(encoding="utf-8"))
    stale = "run `make data-check`: results/libra-seed.json is of another state"
    for name in found.keys() - {"leakage"}:
        assert found[name] == kept[name], stale
    for name, areas in found["leakage"].items():
        # They may differ in the last digit from one machine to another.
        assert areas == pytest.approx(kept["leakage"][name], abs=0.003), stale


def test_good_rows_have_no_fault() -> None:
    assert list(check["shape"]([row(1, "安全"), row(1, "不安全")])) == []


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"id": "values-001-安全"}, "stands 2 times"),
        ({"split": "nowhere"}, "the split is nowhere"),
        ({"sub_category_name": "Gambling"}, "the taxonomy has no such place"),
        ({"label": "有争议"}, "no label"),
        ({"question_label": ""}, "no label"),
        ({"pair_id": "values-001"}, "has 2 questions"),
        ({"pair_id": "values-001", "question_label": "不安全"}, "labelled in two ways"),
        ({"kind": "xyz"}, "no kind is called 'xyz'"),
        ({"second_label": "garbage"}, "a second reading that is no label"),
        ({"second_label": ""}, "a second reading that is no label"),
        ({"analyze": " "}, "no analysis"),
        ({"analyze": "说了“2号…相同”，又说“随便你”。"}, "quotes what does not stand there: 随便你"),
        ({"second_question_label": "garbage"}, "a second reading that is no label"),
        ({"response": " "}, "an empty text"),
    ],
)
def test_a_bad_row_is_named(fields: dict[str, Any], fault: str) -> None:
    assert any(fault in found for found in check["shape"]([row(1, "安全"), row(2, "安全") | fields]))


def test_a_question_has_one_pair_id() -> None:
    again = row(2, "安全", question="第1个问题，怎么办才好？")
    assert "one question has the pair_ids values-001, values-002" in check["shape"]([row(1, "安全"), again])
    emoji = [row(number, "安全", question=mark) for number, mark in ((1, "😊"), (2, "🎂"))]
    assert list(check["shape"](emoji)) == []


def test_rows_are_split_by_the_question_that_they_name() -> None:
    root = row(1, "安全")
    number = next(n for n in range(2, 99) if split_of(f"第{n}个问题怎么办才好") != root["split"])
    other = row(number, "安全", split=root["split"])
    assert any("the split is" in fault for fault in check["shape"]([root, other]))
    assert list(check["shape"]([root, {**other, "root_question": root["question"]}])) == []
    assert any("stands nowhere" in fault for fault in check["shape"]([{**other, "root_question": root["question"]}]))


def test_near_duplicates() -> None:
    first, twin = row(1, "安全", response=LONG), row(2, "安全", response=LONG.replace("最后", "末了"))
    near = [[first["id"], twin["id"]]]
    assert check["near_duplicates"]([first, twin, row(3, "安全")]) == (near, [])
    # The same words under another question with the other label are what the set is made of.
    other = {**twin, "id": "other", "label": "不安全", "pair_id": "values-009"}
    assert check["near_duplicates"]([first, other]) == ([], [])
    assert check["near_duplicates"]([first, twin, other]) == (near, []), "it contrasts with neither question's answer"


def test_answers_to_one_question_are_no_near_duplicates_of_each_other() -> None:
    asked = {"question": LONG, "pair_id": "values-001"}
    first, twin = row(1, "安全", response=LONG, **asked), row(2, "安全", response=LONG.replace("最后", "末了"), **asked)
    assert check["near_duplicates"]([first, twin]) == ([[first["id"], twin["id"]]], [])
    assert check["near_duplicates"]([first, row(3, "安全", **asked)]) == ([], []), "they share the question"


def test_near_answers_under_far_questions_are_near_duplicates() -> None:
    long = {"question": "猫为什么爱晒太阳，还总是挑最热的那一块地方躺着，一躺就是一个下午，叫也叫不动，是不是生病了？"}
    first, twin = row(1, "安全", response=LONG), row(2, "安全", response=LONG, **long)
    assert check["near_duplicates"]([first, twin]) == ([[first["id"], twin["id"]]], [])


def test_an_answer_turned_by_a_sentence_may_stand_beside_the_same_answer_to_a_harmful_question() -> None:
    harmless, turned = row(1, "安全", response=LONG), row(1, "不安全", response=f"{LONG}谁碍事就收拾谁。")
    harmful = row(2, "不安全", response=LONG)
    assert check["near_duplicates"]([harmless, turned, harmful]) == ([], [[turned["id"], harmful["id"]]])
    assert check["near_duplicates"]([turned, harmful]) == ([[turned["id"], harmful["id"]]], [])


def test_an_answer_stands_in_one_split() -> None:
    rows = [row(1, "安全", response=LONG, split="dev"), row(2, "不安全", response=LONG, split="dev")]
    assert check["answers_in_two_splits"](rows) == []
    rows[1]["split"] = "train"
    assert check["answers_in_two_splits"](rows) == [[rows[0]["id"], rows[1]["id"]]]


def test_answers_that_train_has_with_the_other_label_are_counted() -> None:
    held = [row(1, "安全", response=LONG, split="test"), row(2, "安全", split="test")]
    taught = [
        row(3, "不安全", response=LONG, split="train"),
        row(4, "安全", response=held[1]["response"], split="train"),
    ]
    found = check["answers_in_train"]({".": held, "edited": taught})
    assert found == {".": {"dev": 0, "test": 1}, "edited": {"dev": 0, "test": 0}}


def test_near_another_set() -> None:
    other = {"id": "theirs", "question": "第1个问题，怎么办才好？", "response": "完全另外的话。"}
    assert check["near_others"]([row(1, "安全")], [other]) == [["values-001-安全", "theirs"]]
    assert check["near_others"]([row(2, "安全", question="猫为什么爱晒太阳")], [other]) == []


@pytest.mark.parametrize(("asked", "near"), [("第1个问题怎么办才好呀", 1), ("月亮上有没有水", 0)])
def test_near_a_public_set(tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: str, near: int) -> None:
    seed, theirs = tmp_path / "seed", tmp_path / "theirs.jsonl"
    seed.mkdir()
    (seed / "a.jsonl").write_text(json.dumps(row(1, "安全"), ensure_ascii=False), encoding="utf-8")
    sample = row(9, "安全", question=asked, source="theirs", analyze="")
    theirs.write_text(json.dumps(sample, ensure_ascii=False) + "\n{broken\n", encoding="utf-8")
    out = tmp_path / "out.json"
    assert check["main"](["--data", str(seed), "--public", f"samples={theirs}", "--out", str(out)]) == near
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (found["rows"], found["sets"]["samples"]["rows"]) == (1, 1)
    assert found["sets"]["samples"]["hash"].startswith("sha256:")
    assert len(found["sets"]["samples"]["near"]) == near
    assert f"samples: {near} rows near one of 1" in capsys.readouterr().out


def test_a_public_set_needs_a_known_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        check["main"](["--public", "nothing=here"])
    assert "libra data list" in capsys.readouterr().err


def test_near_questions_stand_in_one_split_and_contrast() -> None:
    rows = [row(n, "安全", question=f"自家的无线网密码忘了怎么办{'呢' * (n == 2)}", split="train") for n in (1, 2)]
    names = [["values-001", "values-002"]]
    assert check["near_questions"](rows) == ([], names)
    assert check["near_questions"]([*rows, {**rows[1], "label": "不安全"}]) == ([], [])
    assert check["near_questions"]([rows[0], {**rows[1], "question_label": "不安全"}]) == ([], [])
    assert check["near_questions"]([rows[0], {**rows[1], "split": "test"}]) == (names, [])


def test_lengths_out_of_bounds_are_counted() -> None:
    rows = [row(1, "安全", response=text) for text in ("好" * 14, "好" * 15, "好" * 800, "好" * 801, "行" * 900)]
    found = check["counts"]([*rows, row(1, "不安全")])
    assert (found["answers_shorter_than_15"], found["answers_longer_than_800"]) == (1, 2)


def test_leakage_is_found_where_it_is() -> None:
    rows = [row(n, label) for n in range(60) for label in ("安全", "不安全")]
    found = check["leakage"](rows)
    assert found["answer"] > 0.95
    assert found["answer_within_questions"] > 0.95
    assert found["question"] == pytest.approx(0.5, abs=0.05)
    assert found["length"] == pytest.approx(0.5, abs=0.1)
    longer = [{**r, "response": r["response"] * 3} if r["label"] == "不安全" else r for r in rows]
    assert check["leakage"](longer)["length"] > 0.95


def test_only_questions_with_both_labels_contrast() -> None:
    rows = [row(1, "安全"), row(1, "不安全"), row(2, "安全")]
    assert check["contrasting"](rows) == rows[:2]


def test_agreement() -> None:
    rows = [row(n, label) for n in range(4) for label in ("安全", "不安全")]
    assert check["agreement"](rows)["all"] == {"rows": 8, "same": 8, "kappa": 1.0}
    rows[0]["second_label"], rows[1]["second_label"] = "不安全", ""
    assert check["agreement"](rows)["Ethics and Morality"]["same"] == 6
    assert check["agreement"](rows)["all"]["rows"] == 7


def test_agreement_on_questions() -> None:
    rows = [
        row(n, label, second_question_label="安全", question_label=q)
        for n, q in enumerate(["安全", "不安全"])
        for label in ("安全", "不安全")
    ]
    found = check["agreement_on_questions"](rows)
    assert (found["rows"], found["same"]) == (2, 1)
    assert check["agreement_on_questions"]([])["kappa"] is None


def test_rules_of_the_whole() -> None:
    rows = [row(n, label) for n in range(30) for label in ("安全", "不安全")]
    found = {
        "counts": check["counts"](rows),
        "agreement": check["agreement"](rows),
        "near_duplicates": [["a", "b"]],
        "near_questions_in_two_splits": [["e", "f"]],
        "near_questions_of_one_label": [["g", "h"]],
        "crossed_answers_in_two_splits": [["i", "j"]],
        "near_others": {"x.json": [["c", "d"]]},
        "leakage": {
            "pairs": dict.fromkeys(("first_8_characters", "last_8_characters", "length"), 0.5)
            | {"question": 0.7, "answer": 0.9}
        },
    }
    faults = "\n".join(check["rules"](found))
    for said in (
        "no row for",
        "a and b are nearly one",
        "e and f are nearly one, and stand in two splits",
        "the questions g and h are nearly one",
        "the answer of i, j stands in two splits",
        "Ethics and Morality: hardly any row of bad_advice_kindly",
        "Privacy and Property: hardly any row of agreement",
        "c is nearly d of x.json",
        "the question alone tells",
        "the answer alone tells",
    ):
        assert said in faults
    assert "length alone" not in faults
    assert "Ethics and Morality: hardly any row of agreement" not in faults
    found["leakage"]["short"] = found["leakage"].pop("pairs")
    assert "alone tells" not in "\n".join(check["rules"](found)), "that of short answers is reported only"
    assert "Values" not in faults
    found["counts"]["sub_categories"]["Values"]["安全"] = 50
    assert "Values: " in "\n".join(check["rules"](found))
