"""Candidates of a band, and the pairs of them that are near, as one band after another brings them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from libra_guard.data.near_duplicates.text import Bands, Rows, jaccard

WIDTH = 8
"""With how many others of its bucket a text is compared, and how many near ones are noted of it. Wide buckets come of
what templates share: on 60,000 queries of 40 templates, 8 finds 99 % of the near pairs that comparing all finds, at a
ninth of the comparisons."""

Similarities = NDArray[np.float64]


class Pairs(NamedTuple):
    """Pairs of texts; all arrays have the shape (pairs,)."""

    earlier: Rows
    later: Rows
    similarity: Similarities


class NearPairs:
    """Near pairs, each noted once.

    Args:
        number: How many texts there are; pairs hold numbers below.
        advance: Told of each band whose pairs were noted.
    """

    def __init__(self, number: int, advance: Callable[[int], None] = lambda _: None) -> None:
        self._number, self._advance = number, advance
        self._codes, self._similarities = np.zeros(0, np.int64), np.zeros(0)
        self._partners = np.zeros(number, np.int64)
        self._wide = False

    @property
    def passed_over(self) -> bool:
        """Whether some pair may not have been compared: a bucket was too wide, or a text has as many as are noted."""
        return self._wide or bool((self._partners >= WIDTH).any())

    @property
    def full(self) -> NDArray[np.bool_]:
        """Of each text, whether no more that it may repeat are noted."""
        return np.asarray(self._partners >= WIDTH)

    def note_wide(self) -> None:
        """A bucket was too wide for all of it to be compared."""
        self._wide = True

    def open(self, earlier: Rows, later: Rows) -> NDArray[np.bool_]:
        """Which pairs are still to be noted, should they be near."""
        codes = self._code(earlier, later)
        at = np.searchsorted(self._codes, codes)
        known = at < np.searchsorted(self._codes, codes, "right")
        return ~known & (self._partners[later] < WIDTH)

    def add(self, found: Pairs) -> None:
        """Notes near pairs of one band, but for those that are noted already or whose later text is full."""
        keep = self.open(found.earlier, found.later)
        earlier, later, similarity = found.earlier[keep], found.later[keep], found.similarity[keep]
        self._partners += np.bincount(later, minlength=self._number)
        codes = np.concatenate((self._codes, self._code(earlier, later)))
        order = np.argsort(codes, kind="stable")
        self._codes, self._similarities = codes[order], np.concatenate((self._similarities, similarity))[order]
        self._advance(1)

    def repeated(self) -> tuple[Rows, Similarities]:
        """For each text the nearest earlier one that repeats none, of equals the first; -1 where there is none."""
        of, most = [-1] * self._number, [0.0] * self._number
        later, earlier = np.divmod(self._codes, max(1, self._number))
        for one, two, similar in zip(earlier.tolist(), later.tolist(), self._similarities.tolist(), strict=True):
            if of[one] < 0 and similar > most[two]:
                of[two], most[two] = one, similar
        return np.array(of, np.int64), np.array(most)

    def _code(self, earlier: Rows, later: Rows) -> Rows:
        """One number for a pair; in their order, a text comes after all that it may repeat."""
        return np.asarray(later * self._number + earlier)


def neighbours(band: Bands, following: Bands) -> tuple[Rows, Rows, bool]:
    """Pairs that agree in a band, the earlier and the later row of each; and whether a bucket was too wide.

    In a wide bucket each row is paired with the ``WIDTH`` next to it, and those beside each other agree in the
    following band as well. What comes of a bucket depends on its rows alone.
    """
    order = np.lexsort((following, band))
    sorted_band = band[order]
    found = [(order[:0], order[:0])]
    for distance in range(1, min(WIDTH + 2, len(order))):
        same = np.flatnonzero(sorted_band[distance:] == sorted_band[:-distance])
        if not len(same):
            break
        if distance > WIDTH:
            return *_joined(found), True
        one, two = order[same], order[same + distance]
        found.append((np.minimum(one, two), np.maximum(one, two)))
    return *_joined(found), False


def near(grams: sparse.csr_matrix, earlier: Rows, later: Rows, threshold: float) -> Pairs:
    """Those of the pairs that are near, by exact comparison of their n-grams."""
    sizes = np.diff(grams.indptr)
    close = np.minimum(sizes[earlier], sizes[later]) >= threshold * np.maximum(sizes[earlier], sizes[later])
    earlier, later = earlier[close], later[close]
    similarity = jaccard(grams, grams, earlier, later)
    is_near = similarity >= threshold
    return Pairs(earlier[is_near], later[is_near], similarity[is_near])


def _joined(found: list[tuple[Rows, Rows]]) -> tuple[Rows, Rows]:
    earlier, later = (np.concatenate(side) for side in zip(*found, strict=True))
    return earlier, later
