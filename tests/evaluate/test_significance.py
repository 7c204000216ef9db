import numpy as np
import pytest
from scipy.stats import binom

from libra_guard.evaluate.metrics import Outcomes, decide
from libra_guard.evaluate.rules import Rules, Unreadable
from libra_guard.evaluate.significance import compare, intervals


def cells(tn=0, fp=0, fn=0, tp=0):
    return np.repeat(np.arange(4, dtype=np.int8), [tn, fp, fn, tp])


@pytest.mark.parametrize(
    ("groups", "resamples"),
    [([], 100), ([cells()], 100), ([cells(tp=1)], 100), ([cells(tp=9), cells(tn=1)], 100), ([cells(3, 1, 1, 3)], 0)],
    ids=["no groups", "no rows", "one row", "a group of one row", "not asked for"],
)
def test_no_interval(groups, resamples):
    assert intervals(groups, resamples=resamples, seed=1) == {}


def test_a_metric_undefined_in_a_resample_has_no_interval():
    found = intervals([cells(tn=20)], resamples=200, seed=1)
    assert found == {"accuracy": (1.0, 1.0), "f1_safe": (1.0, 1.0)}


def test_the_same_seed_gives_the_same_interval():
    sample = [cells(30, 10, 5, 55)]
    assert intervals(sample, resamples=300, seed=1) == intervals(sample, resamples=300, seed=1)
    assert intervals(sample, resamples=300, seed=1) != intervals(sample, resamples=300, seed=2)


def test_accuracy_interval_is_the_binomials():
    n, right = 400, 300
    low, high = intervals([cells(150, 50, 50, 150)], resamples=4000, seed=1)["accuracy"]
    assert low == pytest.approx(binom.ppf(0.025, n, right / n) / n, abs=0.006)
    assert high == pytest.approx(binom.ppf(0.975, n, right / n) / n, abs=0.006)


def test_the_average_is_stratified_so_groups_of_equal_rows_add_no_spread():
    """One group always right, one always wrong: each resample has accuracy 1/2, which pooled rows would not give."""
    found = intervals([cells(5, 0, 0, 5), cells(0, 50, 50, 0)], resamples=200, seed=1)
    assert found["accuracy"] == (0.5, 0.5)


def outcomes(unsafe, flagged, source=None, scored=None):
    n = len(unsafe)
    every = np.ones(n, bool)
    return Outcomes(
        unsafe=np.array(unsafe, bool),
        flagged=np.array(flagged, bool),
        scored=every if scored is None else np.array(scored, bool),
        readable=every,
        score=np.full(n, np.nan),
        source=np.array(source or ["s"] * n),
        scenario=np.array(["c"] * n),
    )


@pytest.mark.parametrize(
    ("first_alone", "second_alone", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (0, 6, 0.03125), (8, 2, 0.109375), (4, 4, 1.0)],
)
def test_mcnemar_by_hand(first_alone, second_alone, p):
    """Twice the binomial tail: of 10 uneven rows 8 to 2 has 2 · (45 + 10 + 1) / 1024."""
    unsafe = [True] * (first_alone + second_alone + 3)
    first = [True] * first_alone + [False] * second_alone + [True, True, False]
    second = [False] * first_alone + [True] * second_alone + [True, True, False]
    found = compare(outcomes(unsafe, first), outcomes(unsafe, second), resamples=0, seed=1)
    assert (found.only_first_right, found.only_second_right) == (first_alone, second_alone)
    assert found.p_accuracy == pytest.approx(p)
    assert found.f1_unsafe_interval is None


def test_a_run_does_not_differ_from_itself():
    run = outcomes([True, True, False, False] * 10, [True, False, True, False] * 10)
    found = compare(run, run, resamples=200, seed=1)
    assert (found.f1_unsafe_difference, found.f1_unsafe_interval) == (0.0, (0.0, 0.0))
    assert (found.p_accuracy, found.p_f1_unsafe) == (1.0, 1.0)


def test_a_plain_difference_is_found_and_its_sign_is_the_firsts():
    rng = np.random.default_rng(0)
    unsafe = rng.random(300) < 0.5
    good, poor = unsafe ^ (rng.random(300) < 0.05), unsafe ^ (rng.random(300) < 0.3)
    source = ["a"] * 100 + ["b"] * 200
    found = compare(outcomes(unsafe, good, source), outcomes(unsafe, poor, source), resamples=500, seed=1)
    assert found.f1_unsafe_difference > 0.1
    assert found.f1_unsafe_interval[0] > 0
    assert found.p_f1_unsafe == pytest.approx(2 / 501)
    assert found.p_accuracy < 1e-6
    back = compare(outcomes(unsafe, poor, source), outcomes(unsafe, good, source), resamples=500, seed=1)
    assert back.f1_unsafe_difference == -found.f1_unsafe_difference


def test_f1_is_the_mean_over_sources():
    unsafe, flagged = [True, True, True, False], [True, False, True, True]
    found = compare(*[outcomes(unsafe, flagged, ["a", "a", "b", "b"])] * 2, resamples=0, seed=1)
    assert found.f1_unsafe == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def benign(n, flagged=0):
    """Rows of a source in which all are safe."""
    return [False] * n, [True] * flagged + [False] * (n - flagged)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(0, 0), (1, 0), (0, 1), (1, 1)], ids=["neither", "the first", "the second", "both"]
)
@pytest.mark.parametrize("n", [1, 40])
def test_a_source_without_unsafe_rows_does_not_undo_the_test(n, ours, theirs):
    """F1 is undefined where nothing is unsafe and nothing flagged, and 0 where something is flagged."""
    rng = np.random.default_rng(0)
    unsafe = rng.random(200) < 0.5
    good, poor = unsafe ^ (rng.random(200) < 0.05), unsafe ^ (rng.random(200) < 0.3)
    alone = compare(outcomes(unsafe, good), outcomes(unsafe, poor), resamples=200, seed=1)
    (safe, first), (_, second) = benign(n, ours), benign(n, theirs)
    both, source = [*unsafe, *safe], ["s"] * 200 + ["b"] * n
    runs = outcomes(both, [*good, *first], source), outcomes(both, [*poor, *second], source)
    found = compare(*runs, resamples=200, seed=1)
    assert found.n == 200 + n
    if n == 1 and ours and theirs:
        # Defined and the same in every resample: it counts, but one row alone is not resampled.
        assert (found.f1_unsafe_over, found.p_f1_unsafe) == ((2, 2), None)
        assert found.f1_unsafe_difference == pytest.approx(alone.f1_unsafe_difference / 2)
        return
    assert found.f1_unsafe_over == (1, 2)
    assert found.f1_unsafe == alone.f1_unsafe
    low, high = found.f1_unsafe_interval
    assert 0 < low < found.f1_unsafe_difference < high
    assert found.p_f1_unsafe == pytest.approx(2 / 201)


def test_the_sources_that_are_over_are_those_of_the_average_where_nothing_is_undefined():
    unsafe, flagged = [True, True, False, False] * 30, [True, False, True, False] * 30
    run = outcomes(unsafe, flagged, ["a", "b", "c"] * 40)
    assert compare(run, run, resamples=200, seed=1).f1_unsafe_over == (3, 3)


def test_where_f1_is_undefined_in_every_source_nothing_is_compared():
    safe, flagged = benign(10)
    found = compare(*[outcomes(safe, flagged)] * 2, resamples=200, seed=1)
    assert (found.f1_unsafe, found.f1_unsafe_over) == ((None, None), (0, 1))
    assert (found.f1_unsafe_difference, found.f1_unsafe_interval, found.p_f1_unsafe) == (None, None, None)


def test_under_skip_a_row_unreadable_in_either_run_is_left_out(matched):
    rules = Rules(unreadable=Unreadable.SKIP)
    first = decide(matched([("不安全", "不安全", None), ("不安全", None, None), ("安全", "安全", None)]), rules)
    second = decide(matched([("不安全", None, None), ("不安全", "不安全", None), ("安全", "不安全", None)]), rules)
    found = compare(first, second, resamples=0, seed=1)
    assert (found.n, found.only_first_right, found.accuracy) == (1, 1, (1.0, 0.0))
