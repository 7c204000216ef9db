import numpy as np
import pytest

from libra_guard.evaluate.agreement import fleiss_kappa, krippendorff_alpha


def test_by_hand():
    # Rows agree by 1, 1, 1/3, 1: 5/6 in the mean. Classes have 2/3 and 1/3: by chance 5/9. (15/18 - 10/18) / (8/18).
    assert fleiss_kappa(np.array([[3, 0], [0, 3], [2, 1], [3, 0]])) == pytest.approx(5 / 8)


@pytest.mark.parametrize(("counts", "kappa"), [([[3, 0, 0], [0, 3, 0]], 1), ([[1, 1], [1, 1]], -1)])
def test_ends_of_the_scale(counts, kappa):
    assert fleiss_kappa(np.array(counts)) == kappa


@pytest.mark.parametrize("statistic", [fleiss_kappa, krippendorff_alpha])
@pytest.mark.parametrize("counts", [np.zeros((0, 2), np.int64), np.array([[3, 0], [3, 0]])])
def test_one_label_throughout_leaves_nothing_to_tell_from_chance(statistic, counts):
    assert np.isnan(statistic(counts))


@pytest.mark.parametrize("statistic", [fleiss_kappa, krippendorff_alpha])
def test_a_row_that_weighs_twice_is_two_rows(statistic):
    counts = np.array([[3, 0], [0, 3], [2, 1]])
    twice = np.array([[3, 0], [0, 3], [2, 1], [2, 1]])
    assert statistic(counts, np.array([1.0, 1.0, 2.0])) == pytest.approx(float(statistic(twice)))
