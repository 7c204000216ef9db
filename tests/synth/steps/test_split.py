from __future__ import annotations

from typing import Any

import pytest

from libra_guard.records import Label, Origin, Vote
from libra_guard.synth.config import SplitSettings
from libra_guard.synth.records import Judged, MadeBy, Query
from libra_guard.synth.steps.split import place

SAFE, UNSAFE, CONTROVERSIAL = Label.SAFE, Label.UNSAFE, Label.CONTROVERSIAL


def judged(*labels: Label | None, last: Label | str | None = "", **fields: Any) -> Judged:
    """A pair with these votes; the arbiter's is ``last``, and there is none without it."""
    votes = tuple(Vote(judge=f"j{n}", label=label) for n, label in enumerate(labels))
    arbiter = None if last == "" else Vote(judge="last", label=last, analysis="想过了。")
    about = {"id": "p-1", "query": "q-1", "question": "怎么泡茶", "response": "先烧水。", "responder": "a"}
    return Judged.model_validate({**about, **fields, "votes": votes, "arbiter": arbiter})


@pytest.mark.parametrize(
    ("row", "stage", "label", "reason"),
    [
        (judged(SAFE, SAFE), "stage1", SAFE, ""),
        (judged(UNSAFE, UNSAFE, UNSAFE), "stage1", UNSAFE, ""),
        (judged(SAFE, UNSAFE, last=SAFE), "stage2", SAFE, ""),
        (judged(CONTROVERSIAL, CONTROVERSIAL, last=UNSAFE), "stage2", UNSAFE, ""),
        (judged(SAFE, UNSAFE), None, UNSAFE, "the judges differ, and no arbiter decides"),
        (judged(SAFE, UNSAFE, last=None), None, UNSAFE, "the judges differ, and the arbiter's answer cannot be read"),
        (judged(SAFE, UNSAFE, last=CONTROVERSIAL), None, UNSAFE, "the arbiter calls it 有争议"),
        (judged(SAFE, None, last=SAFE), None, UNSAFE, "a judge could not be read"),
        (judged(None, None, last=SAFE), None, UNSAFE, "a judge could not be read"),
        (judged(CONTROVERSIAL, None, last=SAFE), None, UNSAFE, "a judge could not be read"),
        (judged(SAFE, None, UNSAFE, last=SAFE), "stage2", SAFE, ""),
    ],
)
def test_where_a_pair_goes(row: Judged, stage: str | None, label: Label, reason: str) -> None:
    (placed,) = place([row], [], SplitSettings())
    assert (placed.stage, placed.sample.label, placed.reason) == (stage, label, reason)
    by = {"stage1": [vote.judge for vote in row.votes], "stage2": ["last"], None: []}[stage]
    assert (placed.sample.model_extra or {})["made_by"] == [MadeBy(step="annotate", model=n).model_dump() for n in by]


def test_beside_a_label_stands_how_its_judges_were_asked() -> None:
    sitting = [
        {"seat": seat, "name": name, "prompt": f"libra@{number}", "seed": number}
        for number, (seat, name) in enumerate([("judge", "j0"), ("judge", "j1"), ("arbiter", "last")])
    ]
    rows = [judged(SAFE, SAFE), judged(SAFE, UNSAFE, last=SAFE)]
    made = [(one.sample.model_extra or {})["made_by"] for one in place(rows, [], SplitSettings(), sitting)]
    assert [[(by["model"], by["prompt"], by["seed"]) for by in one] for one in made] == [
        [("j0", "libra@0", 0), ("j1", "libra@1", 1)],
        [("last", "libra@2", 2)],
    ]


def test_the_seed_beside_a_label_is_that_of_the_attempt_that_could_be_read() -> None:
    row = judged(SAFE, SAFE)
    votes = (row.votes[0], row.votes[1].model_copy(update={"asked": 3}))
    sitting = [{"seat": "judge", "name": name, "prompt": "p", "seed": 42} for name in ("j0", "j1")]
    (placed,) = place([row.model_copy(update={"votes": votes})], [], SplitSettings(), sitting)
    assert [by["seed"] for by in (placed.sample.model_extra or {})["made_by"]] == [42, 44]


def test_what_two_responders_say_word_for_word_is_one_sample() -> None:
    rows = [judged(SAFE, SAFE, responder=name, id=f"p-{name}") for name in "ab"]
    other = judged(SAFE, SAFE, responder="c", id="p-c", response="茶要现泡。")
    first, second, third = place([*rows, other], [], SplitSettings())
    assert (first.stage, third.stage) == ("stage1", "stage1")
    assert (second.stage, second.reason) == (None, "another responder's answer, word for word")


@pytest.mark.parametrize(("where", "stage"), [("leave", None), ("stage1", "stage1"), ("stage2", "stage2")])
def test_real_pairs_that_all_agree_on_go_where_the_settings_say(where: str, stage: str | None) -> None:
    row = judged(SAFE, SAFE, origin=Origin.REAL)
    (placed,) = place([row], [], SplitSettings.model_validate({"agreed_real": where}))
    assert placed.stage == stage


def test_origins_that_are_not_wanted_as_hard_ones_are_left_out() -> None:
    settings = SplitSettings(hard=(Origin.REAL,))
    rows = [judged(SAFE, UNSAFE, last=SAFE), judged(SAFE, UNSAFE, last=SAFE, origin=Origin.REAL)]
    assert [one.stage for one in place(rows, [], settings)] == [None, "stage2"]


def test_the_root_is_that_of_the_family_it_came_into() -> None:
    root = Query.make("怎么泡绿茶")
    child = Query.make("绿茶要怎么泡才香", parent=root.id)
    rows = [
        judged(SAFE, SAFE),
        judged(SAFE, SAFE, parent=child.id),
        judged(SAFE, SAFE, parent=child.id, root_question="别家的问题"),
        judged(SAFE, SAFE, parent="q-unknown"),
    ]
    roots = [(one.sample.model_extra or {})["root_question"] for one in place(rows, [root, child], SplitSettings())]
    assert roots == ["怎么泡茶", "怎么泡绿茶", "别家的问题", "怎么泡茶"]


def test_an_imported_query_keeps_its_row_and_its_english() -> None:
    about = {"source_id": "set-3", "original": {"question": "How to make tea?"}, "overlap": {"question": 0.9}}
    (placed,) = place([judged(SAFE, SAFE, origin=Origin.TRANSLATED, source="set", **about)], [], SplitSettings())
    extra = placed.sample.model_extra or {}
    assert [extra[key] for key in ("set", "set_id", "original", "overlap")] == ["set", *about.values()]
