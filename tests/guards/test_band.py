"""Scores on another scale: order is kept, and the threshold stays between safe and unsafe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_guard.guards.band import Band
from libra_guard.records import Label, Verdict

BAND = Band(0.2, 0.5, 0.6)
share = st.floats(0, 1)


def moved(score: float | None, threshold: float, label: Label | None = None, band: Band = BAND) -> float | None:
    if label is None:
        label = Label.SAFE if score is None or score < threshold else Label.UNSAFE
    return band.score(Verdict(label=label, unsafe_score=score), threshold)


@pytest.mark.parametrize(
    ("score", "threshold", "expected"),
    [(0, 0.4, 0.2), (0.2, 0.4, 0.35), (0.4, 0.4, 0.5), (0.7, 0.4, 0.55), (1, 0.4, 0.6), (0, 0, 0.5), (1, 1, 0.6)],
)
def test_where_scores_come_to_lie(score: float, threshold: float, expected: float) -> None:
    assert moved(score, threshold) == pytest.approx(expected)


def test_no_score_stays_none() -> None:
    assert moved(None, 0.5) is None


@given(share, share, share, st.tuples(share, share, share).filter(lambda t: sorted(set(t)) == sorted(t)))
def test_order_is_kept_and_the_threshold_parts_the_labels(
    one: float, other: float, threshold: float, ends: tuple[float, ...]
) -> None:
    band = Band(*sorted(ends))
    low, high = (moved(score, threshold, band=band) for score in sorted((one, other)))
    assert low is not None
    assert high is not None
    assert band.low <= low <= high <= band.high
    for score in (one, other):
        found = moved(score, threshold, band=band)
        assert found is not None
        assert (found >= band.middle) == (score >= threshold)


def test_a_label_that_its_score_does_not_tell_is_kept_on_its_side() -> None:
    # The score of a doubtful text counts controversial half, so it may lie on either side.
    assert moved(0.9, 0.5, Label.SAFE) == pytest.approx(0.5)
    assert (moved(0.9, 0.5, Label.SAFE) or 1) < 0.5
    assert moved(0.1, 0.5, Label.UNSAFE) == 0.5
    assert moved(0.25, 0.5, Label.CONTROVERSIAL) == pytest.approx(0.35)
