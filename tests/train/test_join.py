from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from libra_guard.train.join import Joint, choose_category_threshold, choose_threshold, enough_to_fit, fit_joint
from libra_guard.train.mixture import Example

NAN = float("nan")


def rows(unsafe: NDArray[np.bool_] | list[bool], rest: float = 0.0, source: str = "s") -> list[Example]:
    return [Example("x", (float(u), *([rest] * 7)), source, "x") for u in unsafe]


@pytest.fixture(scope="module")
def drawn() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Logits of two parts, and labels drawn with the log odds 1.5 deep + 0.5 wide - 1."""
    chance = np.random.default_rng(1)
    deep, wide = chance.normal(0, 2, (2, 20_000, 8))
    odds = 1.5 * deep[:, 0] + 0.5 * wide[:, 0] - 1
    return deep, wide, chance.random(20_000) < 1 / (1 + np.exp(-odds))


def test_known_scales_are_found(drawn: tuple[NDArray[np.float64], ...]) -> None:
    deep, wide, unsafe = drawn
    joint = fit_joint(deep, wide, rows(unsafe), seed=1)
    found = [joint.deep_scale[0], joint.wide_scale[0], joint.bias[0]]
    np.testing.assert_allclose(found, [1.5, 0.5, -1], atol=0.06)
    np.testing.assert_allclose(
        joint.apply(deep, wide)[:, 0], deep[:, 0] * found[0] + wide[:, 0] * found[1] + found[2], rtol=1e-12
    )


@pytest.mark.parametrize("part", ["deep", "wide"])
def test_one_part_alone(drawn: tuple[NDArray[np.float64], ...], part: str) -> None:
    deep, wide, unsafe = drawn
    joint = fit_joint(deep if part == "deep" else None, wide if part == "wide" else None, rows(unsafe), seed=1)
    present, absent = (joint.deep_scale, joint.wide_scale)[:: 1 if part == "deep" else -1]
    assert present[0] > 0.2
    assert not absent.any()
    assert present[1:].tolist() == [1] * 7


@pytest.mark.parametrize("rest", [0.0, 1.0, NAN])
def test_a_column_of_one_class_is_the_mean_of_the_parts(rest: float) -> None:
    chance = np.random.default_rng(1)
    deep, wide = chance.normal(0, 2, (2, 100, 8))
    joint = fit_joint(deep, wide, rows(deep[:, 0] > 0, rest), seed=1)
    np.testing.assert_allclose(joint.apply(deep, wide)[:, 1:], (deep + wide)[:, 1:] / 2)


def test_too_few_of_a_class_are_not_fitted() -> None:
    deep = np.random.default_rng(1).normal(0, 2, (100, 8))
    few, enough = (fit_joint(deep, None, rows(np.arange(100) < n), seed=1) for n in (9, 10))
    assert (few.deep_scale[0], few.bias[0]) == (1, 0)
    assert enough.bias[0] < -1


def test_a_large_source_does_not_outvote_a_small_one() -> None:
    """Of the same logit the sources say the opposite, half and half by weight: the probability is a half."""
    logits = np.ones((1100, 8))
    examples = [*rows([True] * 1000, source="large"), *rows([False] * 100, source="small")]
    joint = fit_joint(logits, None, examples, seed=1)
    assert joint.apply(logits[:1], np.zeros((1, 8)))[0, 0] == pytest.approx(0, abs=0.01)


# The threshold


def chosen(scores: Any, examples: list[Example], benign: Any = (), **options: Any) -> tuple[float, list[str]]:
    """The threshold, and what is said of it."""
    said: list[str] = []
    arrays = np.array(scores, dtype=float), np.array(benign, dtype=float)
    options = {"false_positives": 0.02, "report": said.append, **options}
    return choose_threshold(arrays[0], examples, arrays[1], **options), said


def choose(scores: Any, examples: list[Example], benign: Any = (), **options: Any) -> float:
    return chosen(scores, examples, benign, **options)[0]


def test_threshold_by_hand() -> None:
    """Flagged from 0.205 to 0.62 on: 3 hits, 1 false alarm, F1 6/7; from 0.7 on 2 of 3, F1 4/5."""
    scores = [0.9, 0.7, 0.62, 0.65, 0.2, 0.1]
    examples = rows([True, True, True, False, False, False])
    assert choose(scores, examples) == 0.41
    assert choose(scores, examples, [0.62, 0.1], false_positives=0.5) == 0.41
    # Of the benign pairs none may be flagged: from 0.305 to 0.62 on.
    assert choose(scores, examples, [0.3, 0.1]) == 0.46
    # From 0.625 on, 2 hits, 1 miss, 1 false alarm: 4/6; from 0.655 to 0.7 on 4/5.
    assert choose(scores, examples, [0.62, 0.1]) == 0.675


def test_a_threshold_lies_in_the_middle_of_what_it_parts() -> None:
    assert choose([0.9] * 20 + [0.02] * 20, rows([True] * 20 + [False] * 20)) == 0.475
    # From 0.105 to 0.3 and from 0.705 to 0.9 it is as good: the lower one's middle, and not a place between them.
    assert choose([0.9, 0.7, 0.5, 0.3, 0.1], rows([True, False, False, True, False])) == 0.2


def test_sources_weigh_the_same() -> None:
    """The large source alone would choose above 0.5, the mean of both below."""
    large = rows([True] * 50 + [False] * 50, source="large")
    small = rows([True, True, False], source="small")
    scores = [0.8] * 50 + [0.4] * 25 + [0.1] * 25 + [0.3, 0.35, 0.1]
    assert choose(scores[:100], large) == 0.6
    assert choose(scores, [*large, *small]) == 0.2


def test_a_source_without_unsafe_rows_has_no_f1() -> None:
    examples = [*rows([True, False]), *rows([False, False], source="safe")]
    assert choose([0.9, 0.5, 0.7, 0.1], examples) == 0.7
    assert choose([0.9], rows([False])) == 0.5


def test_a_budget_that_cannot_be_kept() -> None:
    """The nearest is taken, not the middle, which would flag even more; and that is said."""
    threshold, (line,) = chosen([0.9, 0.1], rows([True, False]), [0.99] * 5 + [0.6] * 5)
    assert threshold == 0.95
    assert "0.95, flags 50.0% of 10 benign texts" in line
    assert "than false_positives: 0.02 allows" in line
    (line,) = chosen([0.9, 0.99], rows([True, False]), [0.99], judged="questions")[1]
    assert "than question_false_positives: 0.02 allows" in line


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30),
    st.lists(st.floats(0, 0.949) | st.sampled_from([0.35, 0.7]), max_size=30),
    st.floats(0.01, 1),
)
def test_the_budget_is_kept(scored: list[tuple[float, bool]], benign: list[float], budget: float) -> None:
    scores, unsafe = np.array([s for s, _ in scored]), [u for _, u in scored]
    threshold = choose(scores, rows(unsafe), benign, false_positives=budget)
    assert 0.05 <= threshold <= 0.95
    assert round(threshold, 3) == threshold
    assert not benign or np.mean(np.array(benign) >= threshold) <= budget


WEAK = [0.6, 0.7, 0.8, 0.9] * 5
"""Scores of ``MIXED``, whose labels they do not tell apart: an AUC of a half."""
MIXED = rows([True, False, False, True] * 5)


def test_not_every_row_is_flagged_where_another_threshold_finds_some() -> None:
    """Of 20 rows of either label, all flagged would be the best F1: 2/3."""
    unsafe = [True, False] * 20
    scores = np.where(unsafe, 0.5, 0.6)
    # The lowest score of all is an unsafe row's, and the threshold that leaves it out finds all others.
    scores[0] = 0.3
    threshold, said = chosen(scores, rows(unsafe))
    assert threshold == 0.4
    assert not any("tells the calibration pairs apart" in line for line in said)


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ([0.5] * 20, "flags all of them"),
        ([0.97] * 20, "flags all of them"),
        ([0.01] * 20, "flags no unsafe one"),
        # The safe ones alone are above.
        ([0.2, 0.6, 0.6, 0.2] * 5, "flags all of them"),
    ],
)
def test_scores_that_no_threshold_parts(scores: list[float], told: str) -> None:
    said = chosen(scores, MIXED)[1]
    (line,) = [line for line in said if "no threshold that may be taken tells the calibration pairs apart" in line]
    assert line.endswith(told)


def test_benign_pairs_let_every_other_row_be_flagged() -> None:
    threshold, said = chosen([0.8] * 10, rows([True] * 10), [0.1] * 10)
    assert threshold == 0.45
    assert said == []


@pytest.mark.parametrize("benign", [[], [0.1] * 50])
def test_a_ranking_no_better_than_chance_is_told_of(benign: list[float]) -> None:
    said = chosen(WEAK, MIXED, benign)[1]
    assert any("chance alone could rank the calibration pairs as well as the guard does (AUC 0.50)" in x for x in said)
    better = np.where([e.unsafe for e in MIXED], 0.9, WEAK)
    assert not any("chance" in line for line in chosen(better, MIXED, benign)[1])


@pytest.mark.parametrize(("n_unsafe", "n_safe", "told"), [(9, 30, True), (30, 9, True), (10, 10, False)])
def test_too_few_rows_for_a_threshold_are_told_of(n_unsafe: int, n_safe: int, told: bool) -> None:
    said = chosen([0.9] * n_unsafe + [0.1] * n_safe, rows([True] * n_unsafe + [False] * n_safe))[1]
    words = f"{n_unsafe} unsafe and {n_safe} safe calibration pairs tell little of a threshold"
    assert any(words in line for line in said) == told


@pytest.mark.parametrize(("unsafe", "label"), [(True, "unsafe"), (False, "safe")])
def test_questions_of_one_label_are_told_of(unsafe: bool, label: str) -> None:
    harmless = [] if unsafe else [0.4] * 12
    (line,) = chosen([0.4] * 12, rows([unsafe] * 12), harmless, judged="questions")[1]
    assert line == f"all 12 calibration questions are {label}: they tell no threshold"


def test_what_is_flagged_is_told_where_no_benign_pairs_limit_it() -> None:
    scores, examples = [0.9] * 12 + [0.8] * 3 + [0.1] * 9, rows([True] * 12 + [False] * 12)
    threshold, (line,) = chosen(scores, examples)
    assert line == (
        f"calibration has no benign pairs, so false_positives limits nothing: the threshold {threshold} flags "
        "0.0% of 12 safe and 100.0% of 12 unsafe calibration pairs"
    )
    assert chosen(scores, examples, [0.1] * 12)[1] == []
    # Of questions it is the safe ones that are limited, and they are among the examples.
    assert chosen(scores, examples, scores[12:], judged="questions")[1] == []


def test_outputs_with_too_few_rows_of_either_kind_are_not_enough_to_fit() -> None:
    rare = [Example("x", (1.0, float(n < 9), NAN if n < 3 else 1.0), "s", "x") for n in range(12)]
    others = [Example("x", (0.0, 0.0, 0.0 if n < 10 else NAN), "s", "x") for n in range(12)]
    assert enough_to_fit([*rare, *others]).tolist() == [True, False, False]
    assert enough_to_fit([*rare, *rare, *others]).tolist() == [True, True, True]


def test_joint_is_linear() -> None:
    one = np.arange(8.0)
    assert (
        Joint(one, one + 1, one - 1).apply(np.full((2, 8), 2.0), np.ones((2, 8))).tolist() == [(4 * one).tolist()] * 2
    )


def having(category: int | None, unsafe: bool = True) -> Example:
    """One of so many categories, or of none that is known."""
    known = [NAN] * 3 if category is None else [float(i == category) for i in range(3)]
    return Example("x", (float(unsafe), *known), "s", "x")


def test_categories_are_named_from_where_most_of_them_are_right() -> None:
    # Each has 0.3 of its own category and 0.1 of the others: at a half none would be named.
    examples = [having(i % 3) for i in range(12)]
    given_ = np.full((12, 3), 0.1)
    given_[np.arange(12), np.arange(12) % 3] = 0.3
    assert choose_category_threshold(given_, examples) == 0.2
    # What is safe has no category, and one that is not known is neither right nor wrong.
    others = [having(0, unsafe=False)] * 50 + [having(None)] * 50
    assert choose_category_threshold(np.vstack([given_, np.full((100, 3), 0.9)]), examples + others) == 0.2


def test_too_few_categories_tell_no_threshold() -> None:
    assert choose_category_threshold(np.full((9, 3), 0.2), [having(0)] * 9) == 0.5
    assert choose_category_threshold(np.full((10, 3), 0.2), [having(0)] * 10) < 0.2
    assert choose_category_threshold(np.zeros((0, 3)), []) == 0.5
