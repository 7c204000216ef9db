"""Agreement: published examples, formulas written another way, and where it is undefined."""

from __future__ import annotations

import itertools
from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_guard.bench.agreement import (
    LABELS,
    agreement,
    by_annotator,
    by_scenario,
    count_labels,
    figure,
)
from libra_guard.bench.collect import Annotation
from libra_guard.bench.rows import BenchRow
from libra_guard.evaluate.agreement import fleiss_kappa, krippendorff_alpha

# Ten subjects, fourteen raters, five categories: the worked example of the literature on Fleiss' kappa.
FLEISS = [
    *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
    *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
]
# Krippendorff (2011), "Computing Krippendorff's alpha-reliability", section C: four observers, twelve units.
KRIPPENDORFF = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]


def counts_of(table: list[list[str]], labels: str) -> np.ndarray:
    return np.array([[unit.count(label) for label in labels] for unit in zip(*table, strict=True)])


def test_fleiss_published_example() -> None:
    assert float(fleiss_kappa(np.array(FLEISS))) == pytest.approx(0.210, abs=5e-4)


def test_krippendorff_published_example() -> None:
    counts = counts_of([line.split() for line in KRIPPENDORFF], "12345")
    assert float(krippendorff_alpha(counts)) == pytest.approx(0.743, abs=5e-4)


def kappa_pairwise(rows: list[list[int]]) -> float:
    """From pairs of people, not from counts."""
    pairs = [pair for row in rows for pair in itertools.permutations(row, 2)]
    shares = Counter(label for row in rows for label in row)
    chance = sum((n / shares.total()) ** 2 for n in shares.values())
    return (sum(a == b for a, b in pairs) / len(pairs) - chance) / (1 - chance)


def alpha_coincidences(rows: list[list[int]]) -> float:
    """From the matrix of coincidences, one pair at a time."""
    matrix: Counter[tuple[int, int]] = Counter()
    for row in rows:
        for pair in itertools.permutations(row, 2):
            matrix[pair] += 1 / (len(row) - 1)
    total = sum(matrix.values())
    of = [sum(v for (a, _), v in matrix.items() if a == label) for label in (0, 1)]
    return 1 - (total - 1) * (matrix[0, 1] + matrix[1, 0]) / (2 * of[0] * of[1])


labels = st.lists(st.sampled_from([0, 1]), min_size=3, max_size=3)


@given(
    st.lists(labels, min_size=2, max_size=40).filter(lambda rows: len({label for row in rows for label in row}) == 2)
)
def test_kappa_is_what_pairs_of_people_say(rows: list[list[int]]) -> None:
    counts = np.array([[row.count(0), row.count(1)] for row in rows])
    assert float(fleiss_kappa(counts)) == pytest.approx(kappa_pairwise(rows), abs=1e-9)


@given(st.lists(st.lists(st.sampled_from([0, 1]), max_size=4), min_size=2, max_size=40))
def test_alpha_is_what_coincidences_say(rows: list[list[int]]) -> None:
    counts = np.array([[row.count(0), row.count(1)] for row in rows])
    pairable = [row for row in rows if len(row) > 1]
    if len({label for row in pairable for label in row}) < 2:
        assert np.isnan(krippendorff_alpha(counts))
    else:
        assert float(krippendorff_alpha(counts)) == pytest.approx(alpha_coincidences(pairable), abs=1e-9)


def test_alpha_is_that_of_the_krippendorff_package() -> None:
    package = pytest.importorskip("krippendorff")
    chance = Random(5)
    data = np.array([[chance.choice([0, 0, 1, np.nan]) for _ in range(200)] for _ in range(3)])
    counts = np.array([[(unit == label).sum() for label in (0, 1)] for unit in data.T])
    wanted = package.alpha(reliability_data=data, level_of_measurement="nominal")
    assert float(krippendorff_alpha(counts)) == pytest.approx(wanted, abs=1e-12)


def test_weights_count_rows_several_times() -> None:
    kinds, weights = np.array([[3, 0], [1, 2], [0, 3]]), np.array([[4.0, 2, 5], [1, 1, 1]])
    whole = [np.repeat(kinds, row.astype(int), axis=0) for row in weights]
    for statistic in (fleiss_kappa, krippendorff_alpha):
        assert statistic(kinds, weights) == pytest.approx([float(statistic(rows)) for rows in whole])


@pytest.mark.parametrize("counts", [np.zeros((0, 2), int), np.array([[3, 0], [3, 0]]), np.array([[1, 0], [0, 1]])])
def test_undefined(counts: np.ndarray) -> None:
    found = agreement(counts, 3, resamples=100, seed=0)
    assert found.fleiss_kappa is found.krippendorff_alpha is None
    assert found.fleiss_kappa_interval is found.krippendorff_alpha_interval is None


def sample(rows: int, rates: tuple[float, ...]) -> np.ndarray:
    chance = np.random.default_rng(3)
    truth = chance.random(rows) < 0.5
    said = np.array([truth ^ (chance.random(rows) < rate) for rate in rates])
    return np.stack([(~said).sum(axis=0), said.sum(axis=0)], axis=1)


def test_intervals_hold_the_truth_and_narrow_with_more_rows() -> None:
    # Three people who err independently at rate e on balanced rows: kappa is (1 - 2e)^2.
    few, many = (agreement(sample(n, (0.1,) * 3), 3, resamples=500, seed=1) for n in (200, 5000))
    for found in (few, many):
        assert found.fleiss_kappa_interval is not None
        low, high = found.fleiss_kappa_interval
        assert low < 0.8**2 < high
        assert low < (found.fleiss_kappa or 0) < high
    assert few.fleiss_kappa_interval is not None
    assert many.fleiss_kappa_interval is not None
    widths = [high - low for low, high in (few.fleiss_kappa_interval, many.fleiss_kappa_interval)]
    assert widths[0] / widths[1] == pytest.approx(5, rel=0.25)


def test_intervals_are_those_of_drawing_rows() -> None:
    from scipy.stats import bootstrap

    counts = sample(150, (0.05, 0.2, 0.2))
    drawn = bootstrap(
        (np.arange(len(counts)),),
        lambda i: float(krippendorff_alpha(counts[i])),
        vectorized=False,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = agreement(counts, 3, resamples=4000, seed=7).krippendorff_alpha_interval
    assert found == pytest.approx((drawn.low, drawn.high), abs=0.01)


def test_the_seed_decides_the_interval() -> None:
    counts = sample(100, (0.1, 0.1, 0.1))
    found = [agreement(counts, 3, resamples=200, seed=seed).fleiss_kappa_interval for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    assert agreement(counts, 3, resamples=0, seed=1).fleiss_kappa_interval is None


def row(name: str, scenario: str) -> BenchRow:
    return BenchRow(id=name, category_name=scenario, question="问", response="答")


def said(text: str) -> list[Annotation]:
    """``r1 a 安全`` a line."""
    return [Annotation(*line.split(), "", "") for line in text.strip().splitlines()]


def test_unsure_and_missing_are_no_labels() -> None:
    rows = [row("r1", "偏见歧视"), row("r2", "偏见歧视"), row("r3", "伦理道德")]
    given = said("r1 a 安全\nr1 b 安全\nr1 c 不安全\nr2 a 不安全\nr2 b 不确定\nr3 a 不安全\nr3 b 不安全\nr3 c 不安全")
    assert count_labels(rows, given).tolist() == [[2, 1], [0, 1], [0, 3]]
    found = by_scenario(rows, given, 3, resamples=0, seed=0)
    assert list(found) == ["all", "Bias and Discrimination", "Ethics and Morality"]
    assert (found["all"].rows, found["all"].labels, found["all"].fleiss_rows) == (3, 7, 2)
    assert found["all"].unanimous == 0.5
    assert (found["all"].labelled_rows, found["all"].krippendorff_rows) == (3, 2)
    assert [(one.unsure, one.missing) for one in found.values()] == [(1, 1), (1, 1), (0, 0)]
    people = by_annotator(rows, given, ["a", "b", "c"])
    assert [(p.labelled, p.unsure, p.missing) for p in people.values()] == [(3, 0, 0), (2, 1, 0), (2, 0, 1)]
    # On r1 the others of a and of b differ, and make no majority; those of c say 安全.
    assert [(p.compared, p.with_others) for p in people.values()] == [(1, 1.0), (1, 1.0), (2, 0.5)]


def test_someone_who_said_nothing_agrees_with_nobody() -> None:
    assert by_annotator([row("r1", "偏见歧视")], [], ["a", "b"])["a"].with_others is None
    assert LABELS == ("安全", "不安全")


def test_nobody_is_compared_with_a_majority_of_their_own() -> None:
    rows = [row(f"r{n}", "偏见歧视") for n in range(2)]
    given = said("r0 a 不安全\nr0 b 安全\nr0 c 安全\nr0 d 不安全\nr1 a 安全\nr1 b 安全\nr1 c 安全")
    people = by_annotator(rows, given, ["a", "b", "c", "d"])
    # On r0 two against two: for each, the other three have a majority against them.
    assert [p.with_others for p in people.values()] == [0.5, 0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("value", "wanted"), [(None, "–"), (0.5, "0.500"), (-0.0001, "0.000"), (-0.0006, "-0.001"), (1, "1.000")]
)
def test_figures(value: float | None, wanted: str) -> None:
    assert figure(value) == wanted
