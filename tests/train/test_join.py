from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from libra_guard.train.join import Joint, choose_threshold, fit_joint
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


def choose(scores: Any, examples: list[Example], benign: Any = (), *, false_positives: float = 0.02) -> float:
    """The threshold, where it must not complain of any."""
    arrays = np.array(scores, dtype=float), np.array(benign, dtype=float)
    return choose_threshold(arrays[0], examples, arrays[1], false_positives=false_positives, report=pytest.fail)


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
    # Two ranges are as good: the lower one's middle, and not a place between them.
    assert choose([0.9, 0.7, 0.5, 0.3], rows([True, False, False, True])) == choose([0.9, 0.3], rows([True, True]))


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
    benign, said = np.array([0.99] * 5 + [0.6] * 5), []
    options: dict[str, Any] = {"false_positives": 0.02, "report": said.append}
    assert choose_threshold(np.array([0.9, 0.1]), rows([True, False]), benign, **options) == 0.95
    (line,) = said
    assert "0.95, flags 50.0% of 10 benign texts" in line
    assert "false_positives: 0.02 allows" in line


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


def test_joint_is_linear() -> None:
    one = np.arange(8.0)
    assert (
        Joint(one, one + 1, one - 1).apply(np.full((2, 8), 2.0), np.ones((2, 8))).tolist() == [(4 * one).tolist()] * 2
    )
