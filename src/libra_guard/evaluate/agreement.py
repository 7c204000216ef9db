"""Agreement of raters beyond chance: Fleiss' kappa and Krippendorff's alpha.

Both are computed from how many raters gave each row each label, so a row is one line of a table of counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
"""Shape (..., rows, labels): how many raters gave each row each label."""


def fleiss_kappa(counts: Counts, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Fleiss' kappa (Fleiss 1971, doi:10.1037/h0031619).

    Args:
        counts: Shape (rows, labels); each row was labelled by the same number of raters, at least two.
        weights: How often each row counts, shape (..., rows); by default once.

    Returns:
        Shape (...), at most 1; NaN where all labels are the same one, and without rows.
    """
    weights = np.ones(len(counts)) if weights is None else weights
    raters = int(counts[0].sum()) if len(counts) else 2
    in_row = (counts * (counts - 1)).sum(axis=1) / (raters * (raters - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = weights @ in_row / weights.sum(axis=-1)
        shares = weights @ counts / (raters * weights.sum(axis=-1))[..., None]
        by_chance = (shares**2).sum(axis=-1)
        return np.asarray((observed - by_chance) / (1 - by_chance))


def krippendorff_alpha(counts: Counts, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Krippendorff's alpha for nominal labels, any of which may be missing (Krippendorff 2004, ch. 11).

    Args:
        counts: Shape (rows, labels). Rows with fewer than two labels say nothing of agreement and do not count.
        weights: How often each row counts, shape (..., rows); by default once.

    Returns:
        Shape (...), at most 1; NaN where all labels are the same one, and without rows.
    """
    weights = np.ones(len(counts)) if weights is None else weights
    in_row = counts.sum(axis=1)
    pairable = in_row > 1
    counts, in_row, weights = counts[pairable], in_row[pairable], weights[..., pairable]
    # Of each row, the ordered pairs of labels that differ, shared among its labels but one.
    differing = (in_row**2 - (counts**2).sum(axis=1)) / (in_row - 1)
    totals = weights @ counts
    number = totals.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = (number**2 - (totals**2).sum(axis=-1)) / (number - 1)
        return np.asarray(1 - weights @ differing / expected)
