from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_guard.backends.ngrams import NgramFeatures


@pytest.mark.parametrize(
    "options",
    [
        {"buckets": 0},
        {"buckets": -8},
        {"buckets": 1000},
        {"buckets": 1 << 25},
        {"longest": 0},
        {"longest": 5},
    ],
)
def test_impossible_settings(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        NgramFeatures(**options)


def test_values_are_pinned() -> None:
    # Trained tables are indexed by them.
    ids, weights = NgramFeatures(buckets=1 << 10, longest=2)("你好a")
    assert ids.tolist() == [4, 38, 54, 195, 502]
    np.testing.assert_allclose(weights, [5**-0.5] * 5, rtol=1e-6)
    ids, _ = NgramFeatures(buckets=1 << 24, longest=4)(("问", "答😀ab"))
    assert ids.tolist() == [
        1734445,
        5961687,
        6574708,
        6695553,
        7530805,
        7566434,
        7722711,
        11669883,
        12823314,
        14993814,
        16310301,
    ]


def test_weights_are_sublinear_in_the_count() -> None:
    ids, weights = NgramFeatures(longest=1)("啊啊啊啊吗")
    counts = dict(zip(ids.tolist(), (weights / weights.min()).tolist(), strict=True))
    assert sorted(counts.values()) == pytest.approx([1, 1 + np.log(4)])


def test_the_texts_of_a_pair_are_different_features() -> None:
    features = NgramFeatures()
    alone, pair, swapped = (set(features(t)[0].tolist()) for t in ("毒品", ("毒品", "好的"), ("好的", "毒品")))
    assert alone < pair
    assert not alone & swapped
    assert not pair & swapped


def test_longer_ngrams_only_add() -> None:
    found = [set(NgramFeatures(longest=n)("一二三四五")[0].tolist()) for n in (1, 2, 3, 4)]
    assert [len(f) for f in found] == [5, 9, 12, 14]
    assert found[0] < found[1] < found[2] < found[3]


@pytest.mark.parametrize("text", ["", ("", "")])
def test_an_empty_text_has_one_feature_of_no_weight(text: str | tuple[str, str]) -> None:
    ids, weights = NgramFeatures()(text)
    assert (ids.tolist(), weights.tolist()) == ([0], [0.0])


@given(
    st.text(st.characters(), max_size=40) | st.tuples(st.text(), st.text()),
    st.integers(0, 24),
    st.integers(1, 4),
)
def test_any_text(text: str | tuple[str, str], bits: int, longest: int) -> None:
    ids, weights = NgramFeatures(buckets=1 << bits, longest=longest)(text)
    assert (ids.dtype, weights.dtype, ids.shape) == (np.int64, np.float32, weights.shape)
    assert len(ids) >= 1
    assert (np.diff(ids) > 0).all()
    assert 0 <= ids.min() <= ids.max() < 1 << bits
    assert np.linalg.norm(weights) == pytest.approx(1 if "".join(text) else 0, abs=1e-5)


def test_lone_surrogates_do_not_stop_it() -> None:
    assert len(NgramFeatures(longest=1)("\ud800a")[0]) == 2


def test_settings_survive_the_config_file() -> None:
    features = NgramFeatures(buckets=1 << 12, longest=2)
    assert NgramFeatures(**features.config()) == features
