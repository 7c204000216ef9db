"""Texts in this process."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Self

import numpy as np
from scipy import sparse

from libra_guard.data.near_duplicates.pairs import NearPairs, Similarities, near, neighbours
from libra_guard.data.near_duplicates.settings import NearSettings
from libra_guard.data.near_duplicates.signed import HeldOut, Near, Signed
from libra_guard.data.near_duplicates.text import BATCH, Bands, Rows, gram_sets, jaccard, signatures

WIDTH_ACROSS = 64
"""With how many texts of a bucket of another set a text is compared: such sets are small, and a match weighs more."""


@dataclass(frozen=True)
class Local(Signed):
    """Texts in this process.

    Memory grows linearly: per text about eight bytes for every band and nine for every character.
    """

    keys: list[str]
    """``comparison_key`` of each."""
    bands: Bands
    """Shape (texts, bands). Texts that agree in a band are candidates."""
    settings: NearSettings

    @classmethod
    def of(cls, texts: Iterable[str], settings: NearSettings) -> Self:
        """Signs texts.

        Raises:
            MissingExtraError: A library is not installed: rensa or opencc.
        """
        keys: list[str] = []
        bands = [np.zeros((0, settings.bands[0]), np.uint64)]
        for some in batches(texts):
            more, of_some = signatures(some, settings)
            keys += more
            bands.append(of_some)
        return cls(keys, np.concatenate(bands), settings)

    def __len__(self) -> int:
        return len(self.keys)

    @functools.cached_property
    def grams(self) -> sparse.csr_matrix:
        """The n-grams of each text."""
        return gram_sets(self.keys, self.settings.ngram)

    def take(self, rows: Rows) -> Self:
        """Some of the texts, by their numbers in rising order; they are counted anew."""
        some = type(self)([self.keys[i] for i in rows.tolist()], self.bands[rows], self.settings)
        if "grams" in vars(self):
            vars(some)["grams"] = self.grams[rows]
        return some

    def firsts(self) -> Rows:
        """For each text the first with its key."""
        first: dict[str, int] = {}
        return np.array([first.setdefault(key, row) for row, key in enumerate(self.keys)], np.int64)

    def compare(self, pairs: NearPairs) -> None:
        """Notes pairs that agree in a band and are near, band by band."""
        number = self.bands.shape[1]
        for band in range(number):
            earlier, later, wide = neighbours(self.bands[:, band], self.bands[:, (band + 1) % number])
            if wide:
                pairs.note_wide()
            still = pairs.open(earlier, later)
            pairs.add(near(self.grams, earlier[still], later[still], self.settings.threshold))

    def nearest(self, theirs: HeldOut) -> Near:
        """For each text the nearest of another set, of equals the first.

        Of the different texts in a bucket of the other set, the first ``WIDTH_ACROSS`` are compared.
        """
        found = Near(np.full(len(self), -1), np.zeros(len(self)), np.zeros(len(self), bool))
        place: dict[str, int] = {}
        for i, key in enumerate(theirs.keys):
            place.setdefault(key, i)
        different = np.array([*place.values()], np.int64)
        their_grams, their_bands = gram_sets([*place], self.settings.ngram), theirs.bands[different]
        for band in range(self.bands.shape[1]):
            for mine, other in _across(self.bands[:, band], their_bands[:, band]):
                similarity = jaccard(self.grams, their_grams, mine, other)
                _keep_nearest(found, mine, different[other], similarity, self.settings.threshold)
        same = np.array([place.get(key, -1) for key in self.keys], np.int64)
        exact = same >= 0
        found.of[exact], found.similarity[exact], found.exact[exact] = same[exact], 1.0, True
        return found


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in groups of ``BATCH``."""
    rest = iter(texts)
    while some := [*islice(rest, BATCH)]:
        yield some


def _across(ours: Bands, theirs: Bands) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of rows that agree in a band, up to ``WIDTH_ACROSS`` times one of theirs for each of ours."""
    order = np.argsort(theirs, kind="stable")
    begin, end = (np.searchsorted(theirs[order], ours, side) for side in ("left", "right"))
    for distance in range(WIDTH_ACROSS):
        mine = np.flatnonzero(begin + distance < end)
        if not len(mine):
            return
        yield mine, order[begin[mine] + distance]


def _keep_nearest(found: Near, mine: Rows, other: Rows, similarity: Similarities, threshold: float) -> None:
    """Notes pairs, each of ours in one of them at most."""
    known = found.similarity[mine]
    nearer = (similarity > known) | ((similarity == known) & (other < found.of[mine]))
    nearer &= similarity >= threshold
    found.of[mine[nearer]], found.similarity[mine[nearer]] = other[nearer], similarity[nearer]
