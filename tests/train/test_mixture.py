from __future__ import annotations

import json
import tempfile
from collections import Counter
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_guard.data.base import normalise_question, split_of
from libra_guard.errors import UsageError
from libra_guard.taxonomy import SCENARIOS
from libra_guard.train.mixture import Example, Reader, Split, target_array
from libra_guard.train.outputs import Outputs
from libra_guard.train.recipe import Source

LABELS = Outputs.of("libra").labels
SEED = {"set": "libra-seed", "path": "seed.jsonl"}
SMILE = {"set": "smile", "path": "smile.jsonl"}


def read(root: Path, *sources: dict[str, Any], split: Split = Split.TRAIN, seed: int = 1) -> list[Example]:
    return Reader(root, seed=seed).read([Source(**s) for s in sources], split)


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    """A file of libra-seed rows, of which only what differs is given."""
    place = {"category_name": "", "sub_category_name": "", "label": "安全", "question": "问", "response": "答"}
    usual = {"source": "s", "analyze": "", "kind": "", "pair_id": "", **place}
    lines = [json.dumps({**usual, "id": str(i), **row}) for i, row in enumerate(rows)]
    (folder / "seed.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


# Sources that cannot be read


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"set": "nothing", "path": "seed.jsonl"}, "no data set 'nothing'"),
        ({"set": "libra-seed", "path": "none.jsonl"}, "no such file"),
        ({"set": "flames", "path": "seed.jsonl"}, "flames holds questions without labelled answers"),
        (
            {**SEED, "scenarios": ["Hate Speech and Abuse"]},
            r"libra-seed \(seed\.jsonl\): no sample for the train split",
        ),
    ],
)
def test_a_source_without_samples(data: Path, source: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(data, source)


def every(root: Path, **source: Any) -> dict[str, bool]:
    """The questions of all splits and whether they are unsafe."""
    found = [example for split in Split for example in _some(root, source, split)]
    assert all(example.text == example.question for example in found)
    return {example.question: example.unsafe for example in found}


def _some(root: Path, source: dict[str, Any], split: Split) -> list[Example]:
    try:
        return read(root, source, split=split)
    except UsageError:
        return []


def test_questions_without_answers_teach_a_reader_of_questions(tmp_path: Path) -> None:
    (tmp_path / "Insult.csv").write_text("怎么骂人\n你真丑\n", "utf-8")
    source = {"set": "xsafety", "path": ".", "reads": "question", "label": "不安全"}
    assert every(tmp_path, **source) == {"怎么骂人": True, "你真丑": True}
    assert every(tmp_path, **source | {"where": {"kind": "commonsense"}}) == {}


def test_questions_whose_authors_labelled_them_need_no_label(tmp_path: Path) -> None:
    rows = [{"prompt": "杀死进程", "label": "safe"}, {"prompt": "杀死邻居", "label": "unsafe"}]
    lines = [json.dumps({"id": str(i), "type": "homonyms", **row}) for i, row in enumerate(rows)]
    (tmp_path / "xstest.jsonl").write_text("\n".join(lines), "utf-8")
    source = {"set": "xstest", "path": "xstest.jsonl", "reads": "question"}
    assert every(tmp_path, **source) == {"杀死进程": False, "杀死邻居": True}
    assert every(tmp_path, **source, label="不安全") == {"杀死进程": True, "杀死邻居": True}


def test_questions_without_any_label_are_no_lesson(tmp_path: Path) -> None:
    (tmp_path / "Insult.csv").write_text("怎么骂人\n", "utf-8")
    with pytest.raises(UsageError, match="its questions carry no label; give them one"):
        read(tmp_path, {"set": "xsafety", "path": ".", "reads": "question"})


def test_rows_that_cannot_be_read_are_counted_once(data: Path) -> None:
    reader = Reader(data, seed=1)
    for split in Split:
        reader.read([Source(**SMILE), Source(**SMILE, reads="question")], split)
    assert reader.rejected == {"smile": 1}
    assert reader.left_out == [
        "rows left out, by set: {'smile': 1}",
        f"  {data}/smile.jsonl:81: there are no fields question and response",
    ]


PAIR = {"question": "怎么办", "response": "这么办", "label": "安全"}


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], r"there are no rows in it$"),
        (
            [{"question": "问", "response": "答", "lable": "安全"}] * 3,
            r"no labelled answer was read; 3 rows make no sample:\n  \S*own\.jsonl:1: there is no field 'label'$",
        ),
        (
            [{"prompt": "问", "answer": "答", "label": "安全"}],
            r"jsonl:1: there is no field 'question', 'response'$",
        ),
        ([{**PAIR, "label": "unsafe"}], r"jsonl:1: label: Input should be '安全', '不安全'"),
        (
            [{}, {**PAIR, "id": "1"}, {**PAIR, "id": "1"}, {**PAIR, "label": "safe"}, {**PAIR, "question": ""}],
            r"(\n  .*:1: there is no field.*)(\n  .*:3: the id '1' was there before)(\n  .*:4: label: .*)$",
        ),
    ],
)
def test_a_file_of_ones_own_that_gives_nothing_says_why(tmp_path: Path, rows: list[Any], why: str) -> None:
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    # No sample of the last file stands in this split.
    split = next(split for split in Split if split.value != split_of(PAIR["question"]))
    with pytest.raises(UsageError, match=why) as told:
        read(tmp_path, {"set": "samples", "path": "own.jsonl"}, split=split)
    assert str(told.value).startswith(f"samples (own.jsonl): no sample for the {split.name.lower()} split; ")


def test_samples_that_stand_elsewhere_are_not_called_unreadable(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(json.dumps(PAIR), "utf-8")
    own = {"set": "samples", "path": "own.jsonl"}
    here, elsewhere = (
        next(split for split in Split if (split.value == split_of(PAIR["question"])) == same) for same in (True, False)
    )
    with pytest.raises(UsageError, match="1 samples were read, but the hashes of their questions put all into other"):
        read(tmp_path, own, split=elsewhere)
    with pytest.raises(UsageError, match="of 1 samples none is of the kind that the source asks for"):
        read(tmp_path, {**own, "where": {"kind": "x"}}, split=here)
    reader = Reader(tmp_path, seed=1)
    reader.read([Source(**own, whole=True)], Split.TRAIN)
    with pytest.raises(UsageError, match="the questions of all 1 samples were trained or calibrated on"):
        reader.read([Source(**own, unseen=True)], Split.TEST)


# The split


def test_every_sample_stands_on_one_side(data: Path) -> None:
    sides = {split: read(data, SEED, split=split) for split in Split}
    questions = {split: {e.question for e in examples} for split, examples in sides.items()}
    assert sum(map(len, sides.values())) == 256
    assert sum(map(len, questions.values())) == len(set().union(*questions.values())) == 128
    assert len(questions[Split.TRAIN]) > 80
    assert Counter(e.unsafe for e in sides[Split.TRAIN]) == dict.fromkeys((True, False), len(questions[Split.TRAIN]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.sampled_from("怎么办ABab１1？ ，"), min_size=1, max_size=6).filter(str.strip), min_size=1))
def test_a_question_in_two_sets_stands_on_the_same_side(questions: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = write(Path(scratch), *({"question": q, "label": "不安全"} for q in questions))
        rows = [{"question": f" {q.swapcase()}！", "response": "别的"} for q in questions]
        (folder / "smile.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
        sides: dict[str, set[Split]] = {}
        for split in Split:
            for source in (SEED, SMILE, {**SEED, "reads": "question"}, {**SMILE, "reads": "answer"}):
                try:
                    found = read(folder, source, split=split)
                except UsageError:
                    continue
                for example in found:
                    sides.setdefault(normalise_question(example.question), set()).add(split)
    assert set(sides) == {normalise_question(q) for q in questions}
    assert all(len(found) == 1 for found in sides.values())


def test_posts_are_split_by_the_post(tmp_path: Path) -> None:
    (tmp_path / "cold.csv").write_text(
        "".join(["topic,label,TEXT\n", *(f"race,{i % 2},评论{i}\n" for i in range(60))]), "utf-8"
    )
    sides = [{e.text for e in read(tmp_path, {"set": "cold", "path": "cold.csv"}, split=s)} for s in Split]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 60
    assert all(sides)


def test_unseen_is_all_that_nothing_was_trained_or_calibrated_on(data: Path) -> None:
    reader = Reader(data, seed=1)
    train = reader.read([Source(**SEED, sample=60)], Split.TRAIN)
    calibrate = reader.read([Source(**SEED)], Split.CALIBRATE)
    reader.read([Source(**SEED)], Split.TEST)
    unseen = reader.read([Source(**SEED, unseen=True)], Split.TEST)
    used = {e.question for e in [*train, *calibrate]}
    assert not {e.question for e in unseen} & used
    assert len({e.question for e in unseen} | used) == 128


def test_a_whole_file_stands_where_it_is_put(tmp_path: Path) -> None:
    """And so does the rest of a file of which a field says what each row is for."""
    rows = [{"question": f"问题{i}", "split": ("train", "dev", "test")[i % 3]} for i in range(60)]
    write(tmp_path, *rows)
    reader = Reader(tmp_path, seed=1)
    for number, split in enumerate(Split):
        found = reader.read([Source(**SEED, whole=True, where={"split": split.value})], split)
        assert {e.question for e in found} == {f"问题{i}" for i in range(number, 60, 3)}


def test_a_question_on_both_sides_of_a_split_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, *({"question": f"问题{i}"} for i in range(60)))
    (tmp_path / "held.jsonl").write_text(json.dumps({**PAIR, "question": " 问题7！"}), "utf-8")
    reader = Reader(tmp_path, seed=1)
    reader.read([Source(**SEED, whole=True)], Split.TRAIN)
    told = r"^samples \(held\.jsonl\): a question of the test split stands in the train split too:  问题7！$"
    with pytest.raises(UsageError, match=told):
        reader.read([Source(set="samples", path="held.jsonl", whole=True)], Split.TEST)


def test_unseen_sees_through_spelling(tmp_path: Path) -> None:
    write(tmp_path, *({"question": f"how to {i}"} for i in range(30)))
    (tmp_path / "smile.jsonl").write_text(
        "\n".join(json.dumps({"question": f"Ｈow  TO {i}?!", "response": "好"}) for i in range(40)), "utf-8"
    )
    reader = Reader(tmp_path, seed=1)
    for split in (Split.TRAIN, Split.CALIBRATE):
        reader.read([Source(**SEED)], split)
    seen = {e.question[7:] for e in reader.read([Source(**SEED)], Split.TEST)}
    unseen = reader.read([Source(**SMILE, unseen=True)], Split.TEST)
    assert {e.question[8:-2] for e in unseen} == seen | {str(i) for i in range(30, 40)}


# Drawing


def test_caps(tmp_path: Path) -> None:
    rows = [
        {"question": f"问题{i % 20}", "response": f"答{i}", "label": "不安全" if i % 5 else "安全"} for i in range(200)
    ]
    write(tmp_path, *rows)
    whole, capped = read(tmp_path, SEED), read(tmp_path, {**SEED, "per_question": 2})
    assert max(Counter((e.question, e.unsafe) for e in whole).values()) > 2
    assert Counter((e.question, e.unsafe) for e in capped) == {
        pair: min(2, count) for pair, count in Counter((e.question, e.unsafe) for e in whole).items()
    }
    assert len(read(tmp_path, {**SEED, "sample": 7})) == 7
    assert {e.text for e in read(tmp_path, {**SEED, "sample": 7})} < {e.text for e in whole}
    assert len(read(tmp_path, {**SEED, "sample": 1000})) == len(whole)


def of_each(folder: Path, questions: int = 60) -> Path:
    """A safe and two unsafe answers to each question."""
    rows = [(f"问题{i}", f"答{i}-{j}", "不安全" if j else "安全") for i in range(questions) for j in range(3)]
    return write(folder, *({"question": q, "response": r, "label": label} for q, r, label in rows))


@pytest.mark.parametrize("reads", ["pair", "question", "answer", "sentence"])
def test_a_larger_share_holds_all_of_a_smaller(tmp_path: Path, reads: str) -> None:
    of_each(tmp_path)
    drawn = [{e.text for e in read(tmp_path, {**SEED, "reads": reads, "share": s})} for s in (0.01, 0.1, 0.5, 0.9)]
    whole = {e.text for e in read(tmp_path, {**SEED, "reads": reads})}
    assert {e.text for e in read(tmp_path, {**SEED, "reads": reads, "share": 1})} == whole
    for smaller, larger in pairwise([*drawn, whole]):
        assert smaller < larger
    assert len(drawn[0]) == len(whole) / len({e.question for e in read(tmp_path, SEED)})


def test_a_share_is_of_questions_with_all_their_answers(tmp_path: Path) -> None:
    of_each(tmp_path)
    whole = len({e.question for e in read(tmp_path, SEED)})
    found = Counter(e.question for e in read(tmp_path, {**SEED, "share": 0.3}))
    assert set(found.values()) == {3}
    assert len(found) == ceil(0.3 * whole) < whole
    for split in Split:
        assert read(tmp_path, {**SEED, "share": 0.01}, split=split)


def test_a_share_comes_before_the_caps(tmp_path: Path) -> None:
    of_each(tmp_path)
    drawn = {e.question for e in read(tmp_path, {**SEED, "share": 0.5})}
    assert {e.question for e in read(tmp_path, {**SEED, "share": 0.5, "per_question": 1})} == drawn
    capped = read(tmp_path, {**SEED, "share": 0.5, "sample": 9, "repeat": 2})
    assert len(capped) == 18
    assert {e.question for e in capped} < drawn


def test_a_share_is_drawn_by_the_seed_and_alike_in_every_set(tmp_path: Path) -> None:
    of_each(tmp_path)
    answers = [{"question": f"问题{i}", "response": "慢慢来。"} for i in range(60)]
    (tmp_path / "smile.jsonl").write_text("\n".join(map(json.dumps, answers)), "utf-8")
    first, again, other = (
        [e.question for e in read(tmp_path, {**SEED, "share": 0.5}, seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again
    assert {*first} != {*other}
    assert {e.question for e in read(tmp_path, {**SMILE, "share": 0.5})} == {*first}


def test_a_share_keeps_what_is_unseen_unseen(tmp_path: Path) -> None:
    of_each(tmp_path)
    reader = Reader(tmp_path, seed=1)
    seen = {e.question for e in reader.read([Source(**SEED, share=0.5)], Split.TRAIN)}
    unseen = reader.read([Source(**SEED, unseen=True)], Split.TEST)
    assert {e.question for e in unseen} == {f"问题{i}" for i in range(60)} - seen


def test_repeat_comes_after_the_caps(data: Path) -> None:
    examples = read(data, {**SEED, "sample": 5, "repeat": 3})
    assert sorted(Counter(e.text for e in examples).values()) == [3] * 5


def test_scenarios(data: Path) -> None:
    wanted = "Ethics and Morality"
    examples = read(data, {**SEED, "scenarios": [wanted]})
    column = LABELS.index(wanted)
    assert examples
    assert all(e.targets[column] == e.unsafe for e in examples)
    assert len(read(data, {**SEED, "scenarios": [wanted, "Privacy and Property"]})) == len(read(data, SEED))


def test_where(tmp_path: Path) -> None:
    """By fields of the row; one that a row lacks has no value."""
    rows = [{"part": i % 3, "kind": "ab"[i % 2]} if i < 180 else {} for i in range(200)]
    write(tmp_path, *({"question": f"问{i}", **row} for i, row in enumerate(rows)))

    def found(**where: Any) -> set[tuple[Any, Any]]:
        numbers = [int(e.question[1:]) for e in read(tmp_path, {**SEED, "where": where})]
        return {(rows[i].get("part"), rows[i].get("kind")) for i in numbers}

    assert len(found()) == 7
    assert found(part=2) == {(2, "a"), (2, "b")}
    assert found(part=[0, 2], kind="a") == {(0, "a"), (2, "a")}
    for where in ({"part": 3}, {"part": "2"}, {"prt": 2}, {"part": []}):
        with pytest.raises(UsageError, match="no sample for the train split"):
            found(**where)


def test_a_source_goes_by_its_own_name(data: Path) -> None:
    reader = Reader(data, seed=1)
    named = reader.read([Source(**SEED, name="hard ones"), Source(**SEED)], Split.TRAIN)
    assert {example.source for example in named} == {"hard ones", "libra-seed"}


def test_the_same_seed_draws_the_same(data: Path) -> None:
    source = {**SEED, "sample": 20, "per_question": 1}
    first, again, other = (read(data, source, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    # What is read before does not change what is drawn.
    reader = Reader(data, seed=1)
    reader.read([Source(**SMILE)], Split.TRAIN)
    assert reader.read([Source(**source)], Split.TRAIN) == first


# What the classifier is shown


def test_reads(tmp_path: Path) -> None:
    write(tmp_path, {"question": "Ｑ\u200b？", "response": "好\r\n\n的", "label": "不安全"}, {"question": "Ｑ\u200b？"})

    def texts(reads: str) -> list[Any]:
        for split in Split:
            try:
                return sorted((e.text for e in read(tmp_path, {**SEED, "reads": reads}, split=split)), key=str)
            except UsageError:
                continue
        return []

    assert texts("pair") == [("Q?", "好\n的"), ("Q?", "答")]
    assert texts("answer") == [("", "好\n的"), ("", "答")]
    assert texts("question") == ["Q?"]


def test_a_sentence_of_each_safe_answer(tmp_path: Path) -> None:
    parts = ["先把水烧到八十度左右。", "再投茶，等两三分钟。", "好。"]
    rows = [
        {"question": f"问{i}", "response": response, "label": label}
        for i in range(40)
        for response, label in (("".join(parts), "安全"), ("不行。", "安全"), ("".join(parts[::-1]), "不安全"))
    ]
    write(tmp_path, *rows)
    found = read(tmp_path, {**SEED, "reads": "sentence"})
    assert not any(e.unsafe for e in found)
    assert {e.text[0] for e in found} == {e.text[0] for e in read(tmp_path, SEED)}
    # One that is too short is never drawn; an answer without a longer one stands whole.
    assert {e.text[1] for e in found} <= {"先把水烧到八十度左右。", "再投茶,等两三分钟。", "不行。"}
    assert sum(e.text[1] == "不行。" for e in found) * 2 == len(found)
    assert read(tmp_path, {**SEED, "reads": "sentence"}, seed=1) == found


def test_targets(tmp_path: Path) -> None:
    place = {"category_name": "Privacy and Property", "sub_category_name": "Personal Data"}
    rows = [{"label": "不安全", **place}, {"label": "不安全"}, {"label": "安全", **place}, {"label": "安全"}]
    write(tmp_path, *({"question": f"问{i}{j}", **row} for j in range(30) for i, row in enumerate(rows)))
    by_row = {e.question[1]: target_array([e])[0] for e in read(tmp_path, SEED)}
    known = np.array([1.0, *(s.name == "Privacy and Property" for s in SCENARIOS)])
    np.testing.assert_array_equal(by_row["0"], known)
    np.testing.assert_array_equal(by_row["1"], [1, *[np.nan] * 7])
    np.testing.assert_array_equal(by_row["2"], np.zeros(8))
    np.testing.assert_array_equal(by_row["3"], np.zeros(8))
    assert all(e.unsafe for e in read(tmp_path, {**SEED, "label": "不安全"}))
    assert not any(np.any(e.targets) for e in read(tmp_path, {**SEED, "label": "安全"}))


def test_a_question_may_have_a_label_of_its_own(tmp_path: Path) -> None:
    """A safe answer to a bad question: the pair is safe, the question is not."""
    own = {"question_label": "不安全", "category_name": "Privacy and Property", "sub_category_name": "Personal Data"}
    write(tmp_path, *({"question": f"问{i}", **own} for i in range(20)))
    assert not any(e.unsafe for e in read(tmp_path, SEED))
    questions = read(tmp_path, {**SEED, "reads": "question"})
    assert all(e.targets[LABELS.index("Privacy and Property")] == e.unsafe == 1 for e in questions)
    assert not any(e.unsafe for e in read(tmp_path, {**SEED, "reads": "question", "label": "安全"}))
