"""Texts that nearly are one: MinHash finds candidates, the exact Jaccard similarity of character n-grams decides.

Texts are compared as ``comparison_key`` has them. MinHash (Broder 1997, doi:10.1109/SEQUEN.1997.666900; signatures by
the library rensa) with bands finds the pairs that may be near; every pair is then checked exactly, so that nothing is
ever taken for a duplicate that is none, and only a share of the true ones is missed: see ``NearSettings.bands``.

Memory grows linearly: per text about eight bytes for every band and nine for every character. Time grows a little
faster, as the number of texts to the power of 1.1 between ten thousand and a million (benchmarks/near_duplicates.json):
the more texts, the more candidates that are none.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from libra_guard.configuration import Strict
from libra_guard.data.base import normalise_question
from libra_guard.errors import require
from libra_guard.records import is_visible

EXTRA = "synth"
LARGEST_NGRAM = 3
"""Characters whose code points, 21 bits each, fit a number of 64 bits: no two n-grams share a number."""
FOUND = 0.98
"""Least probability with which a pair of just the threshold's similarity is to become a candidate."""
WIDTH = 8
"""With how many others of its bucket a text is compared, and how many near ones are noted of it. Wide buckets come of
what templates share: on 60,000 queries of 40 templates, 8 finds 99 % of the near pairs that comparing all finds, at a
ninth of the comparisons."""
WIDTH_ACROSS = 64
"""With how many texts of a bucket of another set a text is compared: such sets are small, and a match weighs more."""
AGAIN = 0.1
"""Share of texts that have to go in a round of comparisons for another to be worth it; keeps the time linear."""
_BATCH = 10_000
_PAIRS = 100_000
_MULTIPLIERS = np.array([pow(0x9E3779B97F4A7C15, i, 2**64) for i in range(1, 65)], np.uint64)
"""Of the slots of a band, so that they become one number: powers of an odd number that is no pattern in binary."""

Rows = NDArray[np.int64]


class Engine(StrEnum):
    """Where signatures are made; the result is the same."""

    LOCAL = "local"
    RAY = "ray"


class NearSettings(Strict):
    """What counts as near, and how hard it is looked for."""

    threshold: float = Field(default=0.7, gt=0, le=1)
    """Jaccard similarity of the sets of n-grams, from which on two texts are near."""
    ngram: int = Field(default=2, ge=1, le=LARGEST_NGRAM)
    """Characters. A shorter text is one n-gram by itself, and so is near nothing but its like."""
    permutations: int = Field(default=128, ge=16, le=512)
    """Length of a signature."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the signatures."""

    @property
    def bands(self) -> tuple[int, int]:
        """Number of bands and of signature slots in each: as many slots as leave a pair at the threshold ``FOUND``.

        A pair of similarity s is a candidate with the probability 1 - (1 - s^slots)^bands.
        """
        for slots in range(min(self.permutations, len(_MULTIPLIERS)), 1, -1):
            bands = self.permutations // slots
            if 1 - (1 - self.threshold**slots) ** bands >= FOUND:
                return bands, slots
        return self.permutations, 1


class Signed(NamedTuple):
    """Texts made ready to be compared."""

    keys: list[str]
    """``comparison_key`` of each."""
    bands: NDArray[np.uint64]
    """Shape (texts, bands). Texts that agree in a band are candidates."""
    settings: NearSettings

    def take(self, rows: Rows) -> Self:
        """Some of the texts, in the order given."""
        return self._replace(keys=[self.keys[i] for i in rows.tolist()], bands=self.bands[rows])


class Near(NamedTuple):
    """For each text another one that it is near, if there is one; both arrays have the shape (texts,)."""

    of: Rows
    """Index of the other text; -1 where there is none."""
    similarity: NDArray[np.float64]
    """Jaccard similarity to it, at least the threshold; 0 where there is none."""


def comparison_key(text: str) -> str:
    """The text as it is compared: ``normalise_question``, and traditional characters as simplified ones.

    White space, punctuation, symbols and what is invisible do not count, save where a text holds nothing else.

    Raises:
        MissingExtraError: The library opencc is not installed.
    """
    key = normalise_question(text) or "".join(filter(is_visible, unicodedata.normalize("NFKC", text))) or text
    return key.translate(_simplified())


def sign(texts: Sequence[str], settings: NearSettings, engine: Engine = Engine.LOCAL) -> Signed:
    """Makes texts ready for ``duplicates`` and ``matches``.

    Raises:
        MissingExtraError: A library is not installed: rensa, opencc, or ray for its engine.
    """
    keys, bands = [""] * len(texts), np.zeros((len(texts), settings.bands[0]), np.uint64)
    for rows, some, of_some in (_on_ray if engine is Engine.RAY else _here)(texts, settings):
        bands[rows] = of_some
        for row, key in zip(rows.tolist(), some, strict=True):
            keys[row] = key
    return Signed(keys, bands, settings)


def duplicates(texts: Signed) -> Near:
    """For each text the one that it repeats; of all texts that have none, no two were found near each other.

    Texts are taken in their order: one with the key of an earlier text repeats that; one that is near earlier texts
    which repeat none repeats the nearest of these, of equals the first. (Of groups of all that hang together, each
    keeping its first, a whole family of templated texts becomes one where each is near only the next.)

    Where very many texts are alike, each is compared with ``WIDTH`` of them, and what is left is searched again. There
    alone the text that one repeats may in the end repeat another itself.
    """
    rows, firsts = _different(texts.keys)
    copy = firsts != np.arange(len(firsts))
    near = Near(np.where(copy, firsts, -1), copy.astype(np.float64))
    left, more = texts.take(rows), True
    grams = _gram_sets(left.keys, texts.settings.ngram)
    bands = left.bands
    while more:
        pairs, more = _near_pairs(grams, bands, texts.settings.threshold)
        of, similarity = _repeated(len(rows), *pairs)
        gone = of >= 0
        near.of[rows[gone]], near.similarity[rows[gone]] = rows[of[gone]], similarity[gone]
        rows, grams, bands, more = rows[~gone], grams[~gone], bands[~gone], more and gone.mean() > AGAIN
    return near


def matches(ours: Signed, theirs: Signed) -> Near:
    """For each of our texts the nearest of another set, of equals the first; ``of`` counts in that set.

    Of the different texts in a bucket of the other set, the first ``WIDTH_ACROSS`` are compared.
    """
    near = Near(np.full(len(ours.keys), -1), np.zeros(len(ours.keys)))
    different, _ = _different(theirs.keys)
    theirs = theirs.take(different)
    grams, their_grams = (_gram_sets(side.keys, ours.settings.ngram) for side in (ours, theirs))
    for band in range(ours.bands.shape[1]):
        for mine, other in _across(ours.bands[:, band], theirs.bands[:, band]):
            _keep_nearest(
                near, mine, different[other], _jaccard(grams, their_grams, mine, other), ours.settings.threshold
            )
    place = dict(zip(theirs.keys, different.tolist(), strict=True))
    same = np.array([place.get(key, -1) for key in ours.keys], np.int64)
    near.of[same >= 0], near.similarity[same >= 0] = same[same >= 0], 1.0
    return near


def _keep_nearest(near: Near, mine: Rows, other: Rows, similarity: NDArray[np.float64], threshold: float) -> None:
    """Notes pairs, each of ours in one of them at most."""
    known = near.similarity[mine]
    nearer = (similarity > known) | ((similarity == known) & (other < near.of[mine]))
    nearer &= similarity >= threshold
    near.of[mine[nearer]], near.similarity[mine[nearer]] = other[nearer], similarity[nearer]


@functools.cache
def _simplified() -> dict[int, str]:
    converter = require("opencc", EXTRA).OpenCC("t2s")

    class Table(dict[int, str]):
        # One by one: a character must not be read otherwise because of its neighbours.
        def __missing__(self, code: int) -> str:
            # Lone surrogates, which the library cannot take, stay.
            self[code] = chr(code) if 0xD800 <= code < 0xE000 else converter.convert(chr(code))
            return self[code]

    return Table()


def _here(texts: Sequence[str], settings: NearSettings) -> Iterator[tuple[Rows, list[str], NDArray[np.uint64]]]:
    for start in range(0, len(texts), _BATCH):
        some = texts[start : start + _BATCH]
        yield np.arange(start, start + len(some)), *_signed(some, settings)


def _on_ray(texts: Sequence[str], settings: NearSettings) -> Iterator[tuple[Rows, list[str], NDArray[np.uint64]]]:
    import pyarrow as pa

    # As bytes, for Arrow's strings hold no lone surrogates.
    def signed(batch: dict[str, NDArray[Any]]) -> dict[str, Any]:
        keys, bands = _signed([text.decode("utf-8", "surrogatepass") for text in batch["text"]], settings)
        return {"row": batch["row"], "key": _as_bytes(keys), "bands": bands}

    ray_data = require("ray.data", "ray")
    table = pa.table({"row": np.arange(len(texts)), "text": pa.array(_as_bytes(texts), pa.large_binary())})
    blocks = [table.slice(start, _BATCH) for start in range(0, len(texts), _BATCH)]
    found = ray_data.from_arrow(blocks or [table]).map_batches(signed, batch_size=_BATCH)
    for batch in found.iter_batches(batch_size=_BATCH):
        yield batch["row"], [key.decode("utf-8", "surrogatepass") for key in batch["key"]], batch["bands"]


def _as_bytes(texts: Sequence[str]) -> NDArray[np.object_]:
    return np.array([text.encode("utf-8", "surrogatepass") for text in texts], object)


def _signed(texts: Sequence[str], settings: NearSettings) -> tuple[list[str], NDArray[np.uint64]]:
    """Keys, and what stands in each band of their signatures, as one number."""
    keys = [comparison_key(text) for text in texts]
    grams, ends = _grams(keys, settings.ngram)
    minhash = require("rensa", EXTRA).RMinHash
    matrix = minhash.digest_matrix_from_flat_token_hashes(
        grams.astype(np.uint64), ends.astype(np.uint64), settings.permutations, settings.seed
    )
    bands, slots = settings.bands
    signatures = np.array(matrix.to_rows(), np.uint64).reshape(len(keys), -1)[:, : bands * slots]
    # What is equal stays equal; what falls together by chance is told apart when the pair is checked.
    return keys, (signatures.reshape(len(keys), bands, slots) * _MULTIPLIERS[:slots]).sum(axis=2, dtype=np.uint64)


def _grams(keys: Sequence[str], ngram: int) -> tuple[Rows, Rows]:
    """The n-grams of all texts as numbers, one text after another, and where each begins, with the end of the last."""
    padded = [key.ljust(ngram, "\0") for key in keys]
    points = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    lengths = np.array([len(key) for key in padded], np.int64)
    codes = np.zeros(max(0, len(points) - ngram + 1), np.int64)
    for i in range(ngram):
        codes = codes << 21 | points[i : i + len(codes)]
    inside = np.ones(len(points), bool)
    last = np.cumsum(lengths)
    for i in range(1, ngram):
        inside[last - i] = False
    return codes[inside[: len(codes)]], np.concatenate(([0], np.cumsum(lengths - ngram + 1)))


def _gram_sets(keys: Sequence[str], ngram: int) -> sparse.csr_matrix:
    """One text a row, one n-gram a column; sorted in each row, which is what makes so many columns possible."""
    parts = [_grams(keys[start : start + _BATCH], ngram) for start in range(0, len(keys), _BATCH)]
    grams = np.concatenate([np.zeros(0, np.int64), *(codes for codes, _ in parts)])
    sizes = np.concatenate([np.zeros(1, np.int64), *(np.diff(ends) for _, ends in parts)])
    shape = (len(keys), 2**63 - 1)
    sets = sparse.csr_matrix((np.ones(len(grams), bool), grams, np.cumsum(sizes)), shape=shape)
    sets.sum_duplicates()
    return sets


def _jaccard(left: sparse.csr_matrix, right: sparse.csr_matrix, rows: Rows, others: Rows) -> NDArray[np.float64]:
    """Similarity of the rows of both, pair by pair."""
    sizes, other_sizes = np.diff(left.indptr)[rows], np.diff(right.indptr)[others]
    common = np.concatenate(
        [np.zeros(0, np.int64)]
        + [
            np.diff(left[rows[i : i + _PAIRS]].multiply(right[others[i : i + _PAIRS]]).indptr)
            for i in range(0, len(rows), _PAIRS)
        ]
    )
    return np.asarray(common / (sizes + other_sizes - common))


def _different(keys: Sequence[str]) -> tuple[Rows, Rows]:
    """The rows whose key stands in none before them; and of each row the first with its key."""
    first: dict[str, int] = {}
    firsts = np.array([first.setdefault(key, row) for row, key in enumerate(keys)], np.int64)
    return np.flatnonzero(firsts == np.arange(len(firsts))), firsts


def _near_pairs(
    grams: sparse.csr_matrix, bands: NDArray[np.uint64], threshold: float
) -> tuple[tuple[Rows, Rows, NDArray[np.float64]], bool]:
    """Pairs of near rows, the earlier row left, in the order of the right; and whether some were passed over."""
    sizes, partners = np.diff(grams.indptr), np.zeros(len(bands), np.int64)
    pairs, similarities, capped = np.zeros(0, np.int64), np.zeros(0), False
    for band in range(bands.shape[1]):
        found, wide = _neighbours(bands[:, band], bands[:, (band + 1) % bands.shape[1]])
        found = found[~_stands_in(found, pairs)]
        right, left = np.divmod(found, max(1, len(bands)))
        full = partners[right] >= WIDTH
        capped |= wide or bool(full.any())
        close = np.minimum(sizes[left], sizes[right]) >= threshold * np.maximum(sizes[left], sizes[right])
        found, left, right = (a[close & ~full] for a in (found, left, right))
        similarity = _jaccard(grams, grams, left, right)
        near = similarity >= threshold
        partners += np.bincount(right[near], minlength=len(bands))
        pairs, similarities = np.concatenate((pairs, found[near])), np.concatenate((similarities, similarity[near]))
        order = np.argsort(pairs)
        pairs, similarities = pairs[order], similarities[order]
    right, left = np.divmod(pairs, max(1, len(bands)))
    return (left, right, similarities), capped


def _stands_in(found: Rows, ordered: Rows) -> NDArray[np.bool_]:
    at = np.searchsorted(ordered, found)
    return at < np.searchsorted(ordered, found, "right")


def _neighbours(band: NDArray[np.uint64], following: NDArray[np.uint64]) -> tuple[Rows, bool]:
    """Pairs that agree in a band, each as later row * number of rows + earlier row; and whether a bucket was too wide.

    In a wide bucket each row is paired with the ``WIDTH`` next to it, and those beside each other agree in the
    following band as well.
    """
    order = np.lexsort((following, band))
    found, sorted_band = [np.zeros(0, np.int64)], band[order]
    for distance in range(1, min(WIDTH + 2, len(order))):
        same = np.flatnonzero(sorted_band[distance:] == sorted_band[:-distance])
        if not len(same):
            return np.concatenate(found), False
        if distance <= WIDTH:
            one, two = order[same], order[same + distance]
            found.append(np.maximum(one, two) * len(band) + np.minimum(one, two))
    return np.concatenate(found), len(order) > WIDTH + 1


def _across(ours: NDArray[np.uint64], theirs: NDArray[np.uint64]) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of rows that agree in a band, up to ``WIDTH_ACROSS`` times one of theirs for each of ours."""
    order = np.argsort(theirs, kind="stable")
    begin, end = (np.searchsorted(theirs[order], ours, side) for side in ("left", "right"))
    for distance in range(WIDTH_ACROSS):
        mine = np.flatnonzero(begin + distance < end)
        if not len(mine):
            return
        yield mine, order[begin[mine] + distance]


def _repeated(number: int, left: Rows, right: Rows, similarity: NDArray[np.float64]) -> Near:
    """For each row the nearest earlier one that repeats none."""
    of, most = [-1] * number, [0.0] * number
    for one, two, similar in zip(left.tolist(), right.tolist(), similarity.tolist(), strict=True):
        if of[one] < 0 and similar > most[two]:
            of[two], most[two] = one, similar
    return Near(np.array(of, np.int64), np.array(most))
