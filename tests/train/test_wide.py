from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression

from libra_guard.backends.ngrams import NgramFeatures
from libra_guard.train.mixture import Example, Reader, Split, target_array
from libra_guard.train.outputs import Outputs
from libra_guard.train.recipe import Ngrams, Source
from libra_guard.train.wide import WideModel, _matrix, fit_wide

LABELS = Outputs.of("libra").labels
SEED = Source(set="libra-seed", path="seed.jsonl")
RECIPE = Ngrams(data=[SEED], buckets=1 << 14, longest=2, inverse_regularisation=16)
NAN = float("nan")


@pytest.fixture(scope="module")
def examples(data: Path) -> dict[Split, list[Example]]:
    reader = Reader(data, seed=1)
    return {split: reader.read([SEED], split) for split in Split}


@pytest.fixture(scope="module")
def wide(examples: dict[Split, list[Example]]) -> WideModel:
    return fit_wide(RECIPE, examples[Split.TRAIN], seed=1)


def test_it_learns_the_rule(wide: WideModel, examples: dict[Split, list[Example]]) -> None:
    tests = examples[Split.TEST]
    assert len(tests) > 10
    np.testing.assert_array_equal(wide.logits([e.text for e in tests])[:, 0] > 0, [e.unsafe for e in tests])


def test_a_column_is_what_scikit_learn_fits(wide: WideModel, examples: dict[Split, list[Example]]) -> None:
    """The idf weighs the normalised counts, and is part of the table: the same logits without a table of its own."""
    train, tests = examples[Split.TRAIN], examples[Split.TEST]
    plain = _matrix(NgramFeatures(1 << 14, 2), [e.text for e in train])
    # scikit-learn's own smoothed idf, taken from presence.
    idf = TfidfTransformer(norm=None).fit(plain > 0).idf_ * (np.asarray((plain > 0).sum(0))[0] >= 3)
    unseen = _matrix(NgramFeatures(1 << 14, 2), [e.text for e in tests]).multiply(idf).tocsr()
    for column in (0, 1 + next(e.targets[1:] for e in train if any(e.targets[1:])).index(1)):
        wanted = target_array(train)[:, column]
        model = LogisticRegression(C=16, solver="liblinear", max_iter=300, random_state=1)
        model.fit(plain.multiply(idf).tocsr(), wanted)
        found = wide.logits([e.text for e in tests])[:, column]
        np.testing.assert_allclose(found, model.decision_function(unseen), atol=1e-3)


def test_rare_buckets_weigh_nothing() -> None:
    texts = ["甲好", "甲坏", "甲好", "甲坏", "乙好", "乙坏"]
    rows = [Example(t, (float("坏" in t), *[0.0] * 7), "s", t) for t in texts]
    wide = fit_wide(RECIPE, rows, seed=1)
    features = NgramFeatures(1 << 14, 1)
    assert wide.table[features("坏")[0], 0] > 0 > wide.table[features("好")[0], 0]
    assert not wide.table[features("乙")[0]].any()
    # 甲 stands on both sides alike.
    assert abs(wide.table[features("甲")[0], 0]) < 0.1 * wide.table[features("坏")[0], 0]


def test_a_scenario_that_never_occurs_is_never_named(wide: WideModel) -> None:
    column = LABELS.index("Hate Speech and Abuse")
    assert wide.logits(["什么都行", ("怎么", "可以帮你")])[:, column].tolist() == [-10, -10]


def test_unknown_targets_are_left_out(examples: dict[Split, list[Example]]) -> None:
    """An unsafe sample without its scenario trains the first output alone."""
    train = examples[Split.TRAIN]
    more = [*train, *(Example(("问", f"新{i}"), (1.0, *[NAN] * 7), "s", "问") for i in range(20))]
    before, after = fit_wide(RECIPE, train, seed=1), fit_wide(RECIPE, more, seed=1)
    text = [("问", "新")]
    assert after.logits(text)[0, 0] > before.logits(text)[0, 0] + 1
    assert np.isfinite(after.logits(text)).all()
    np.testing.assert_allclose(after.logits(text)[0, 1:], before.logits(text)[0, 1:], atol=0.5)


def test_no_texts(wide: WideModel) -> None:
    assert wide.logits([]).shape == (0, len(LABELS))
    assert np.isfinite(wide.logits(["", ("", "")])).all()
