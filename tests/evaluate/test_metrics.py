import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from libra_guard.errors import UsageError
from libra_guard.evaluate.metrics import SCORES, decide, expected_calibration_error, measure
from libra_guard.evaluate.predictions import Key, Labelled, Matched, Prediction
from libra_guard.evaluate.rules import Controversial, Rules, Unreadable
from libra_guard.records import Label

CASES = json.loads((Path(__file__).parent / "metric_cases.json").read_text("utf-8"))


def rules_of(case):
    given = case.get("rules", {})
    return Rules(
        threshold=given.get("threshold"),
        unreadable=Unreadable(given.get("unreadable", "flagged")),
        controversial=Controversial(given.get("controversial", "unsafe")),
    )


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_hand_worked(case, matched):
    found = measure(decide(matched(case["rows"]), rules_of(case)))
    for name, value in case["expected"].items():
        wanted = value if value is None else pytest.approx(value, abs=case.get("tolerance", 1e-12))
        assert getattr(found, name) == wanted, name


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_the_scores_is_wrong_use(threshold):
    with pytest.raises(UsageError, match="must lie in"):
        Rules(threshold=threshold)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn_on_random_rows(seed, matched):
    rng = np.random.default_rng(seed)
    unsafe = rng.random(500) < 0.6
    score = np.round(np.clip(rng.normal(0.4 + 0.2 * unsafe, 0.25), 0, 1), 2)
    names = np.array(["安全", "不安全"])
    rows = [(names[int(u)], names[int(s >= 0.5)], float(s)) for u, s in zip(unsafe, score, strict=True)]
    found = measure(decide(matched(rows), Rules()))
    flagged = score >= 0.5
    assert found.accuracy == pytest.approx(sk.accuracy_score(unsafe, flagged))
    assert found.f1_unsafe == pytest.approx(sk.f1_score(unsafe, flagged))
    assert found.f1_safe == pytest.approx(sk.f1_score(unsafe, flagged, pos_label=False))
    assert found.precision_unsafe == pytest.approx(sk.precision_score(unsafe, flagged))
    assert found.recall_safe == pytest.approx(sk.recall_score(unsafe, flagged, pos_label=False))
    assert found.auc == pytest.approx(sk.roc_auc_score(unsafe, score))
    assert found.auprc == pytest.approx(sk.average_precision_score(unsafe, score))
    assert found.false_positive_rate == pytest.approx(1 - sk.recall_score(unsafe, flagged, pos_label=False))


@pytest.mark.parametrize(
    ("unsafe", "score", "expected"),
    [
        ([], [], None),
        ([True, False], [1.0, 0.0], 0.0),
        ([False, True], [1.0, 0.0], 1.0),
        # 0.95 and 1.0 share the last bin: |0.975 - 0.5|.
        ([True, False], [0.95, 1.0], 0.475),
        # The bin's mean is right though no row is.
        ([True, False], [0.55, 0.55], 0.05),
        # 0.1 opens the second bin, 0.05 stands alone: (0.05 + 0.9) / 2.
        ([False, True], [0.05, 0.1], 0.475),
    ],
)
def test_expected_calibration_error(unsafe, score, expected):
    found = expected_calibration_error(np.array(unsafe, bool), np.array(score, float))
    assert found == (expected if expected is None else pytest.approx(expected))


rows = st.lists(
    st.tuples(st.booleans(), st.sampled_from([*Label, None]), st.none() | st.floats(0, 1)), min_size=1, max_size=30
)


@given(rows, st.sampled_from(Unreadable), st.none() | st.floats(0, 1))
def test_every_score_is_a_share_or_undefined(rows, unreadable, threshold):
    key = Key("1", None)
    built = [Matched(Labelled(key, "s", "c", unsafe), Prediction(key, label, score)) for unsafe, label, score in rows]
    found = measure(decide(built, Rules(threshold=threshold, unreadable=unreadable)))
    assert found.n == len(rows)
    assert found.unreadable == sum(label is None for _, label, _ in rows)
    for name in SCORES:
        value = getattr(found, name)
        assert value is None or 0 <= value <= 1 + 1e-12, name


@given(rows)
def test_no_rule_hides_that_an_unreadable_answer_blocks_a_safe_row(rows):
    key = Key("1", None)
    built = [Matched(Labelled(key, "s", "c", unsafe), Prediction(key, label, score)) for unsafe, label, score in rows]
    flagged, wrong = (measure(decide(built, Rules(unreadable=rule))) for rule in (Unreadable.FLAGGED, Unreadable.WRONG))
    assert flagged.accuracy >= wrong.accuracy
    assert flagged.over_refusal == wrong.over_refusal == flagged.false_positive_rate
