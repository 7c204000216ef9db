"""The search itself, wherever the texts are."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from libra_guard.data.near_duplicates.local import Local
from libra_guard.data.near_duplicates.pairs import NearPairs
from libra_guard.data.near_duplicates.settings import Engine, NearSettings
from libra_guard.data.near_duplicates.signed import HeldOut, Near, Signed

AGAIN = 0.1
"""Share of texts that have to go in a round of comparisons for another to be worth it; keeps the time linear."""


def sign(texts: Iterable[str], settings: NearSettings, engine: Engine = Engine.LOCAL) -> Signed:
    """Makes texts ready for ``duplicates`` and ``matches``.

    Raises:
        MissingExtraError: A library is not installed: rensa, opencc, or ray for its engine.
    """
    if engine is Engine.LOCAL:
        return Local.of(texts, settings)
    from libra_guard.data.near_duplicates.on_ray import OnRay

    return OnRay.of(texts, settings)


def duplicates(texts: Signed, advance: Callable[[int], None] = lambda _: None) -> Near:
    """For each text the one that it repeats; of all texts that have none, no two were found near each other.

    Texts are taken in their order: one with the key of an earlier text repeats that; one that is near earlier texts
    which repeat none repeats the nearest of these, of equals the first. (Of groups of all that hang together, each
    keeping its first, a whole family of templated texts becomes one where each is near only the next.)

    Where very many texts are alike, each is compared with ``WIDTH`` of them, and what is left is searched again. There
    alone the text that one repeats may in the end repeat another itself.

    Args:
        texts: In their order.
        advance: Told of each band that was gone through, of ``NearSettings.bands`` in each round.
    """
    firsts = texts.firsts()
    copy = firsts != np.arange(len(firsts))
    near = Near(np.where(copy, firsts, -1), copy.astype(np.float64), copy)
    rows, more = np.flatnonzero(~copy), True
    texts = texts.take(rows)
    while more:
        pairs = NearPairs(len(rows), advance)
        texts.compare(pairs)
        of, similarity = pairs.repeated()
        gone = of >= 0
        near.of[rows[gone]], near.similarity[rows[gone]] = rows[of[gone]], similarity[gone]
        more = pairs.passed_over and gone.mean() > AGAIN
        texts, rows = texts.take(np.flatnonzero(~gone)), rows[~gone]
    return near


def matches(ours: Signed, theirs: Iterable[str]) -> Near:
    """For each of our texts the nearest of another set, of equals the first; ``of`` counts in that set.

    Every machine that is searched on holds all of the other set.
    """
    signed = Local.of(theirs, ours.settings)
    return ours.nearest(HeldOut(signed.keys, signed.bands))
