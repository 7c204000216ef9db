"""How unlike each other the texts of a data set are, by characters. White space does not count."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

from libra_guard.configuration import Strict

SAMPLE = 1000
"""Both measures depend on how many texts there are: figures can be compared where the samples are of one size."""
_LONGEST = 4
_SMALL = 0.1


class Diversity(Strict):
    """Figures over a sample of texts; None where the texts are too few or too short."""

    texts: int
    """There are."""
    sample: int
    distinct: dict[str, float | None]
    """n (1, 2, 3) → share of distinct n-grams, in [0, 1]; higher is more diverse."""
    self_bleu: float | None
    """In [0, 1]; lower is more diverse."""


def diversity(texts: Sequence[str], seed: int, size: int = SAMPLE) -> Diversity:
    """Measures a sample of the texts.

    Args:
        texts: In any order.
        seed: Of the draw.
        size: Texts at most.
    """
    drawn = sorted(texts)
    if len(drawn) > size:
        drawn = Random(f"{seed}:card:diversity").sample(drawn, size)
    found = {str(n): _rounded(distinct(drawn, n)) for n in (1, 2, 3)}
    return Diversity(texts=len(texts), sample=len(drawn), distinct=found, self_bleu=_rounded(self_bleu(drawn)))


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Distinct-n: different n-grams by all n-grams of the texts (Li et al. 2016, arXiv 1510.03055).

    Returns:
        In (0, 1]; None where there are no n-grams.
    """
    total, seen = 0, set[str]()
    for text in texts:
        grams = list(_grams("".join(text.split()), n))
        total += len(grams)
        seen.update(grams)
    return len(seen) / total if total else None


def self_bleu(texts: Sequence[str]) -> float | None:
    """Self-BLEU-4 (Zhu et al. 2018, Texygen, arXiv 1802.01886): the mean BLEU of each text against all others.

    BLEU-4 with equal weights and the closest length of a reference, of two the shorter. No match among a text's n-grams
    counts as 0.1 matches, as with the smoothing that Texygen takes (NLTK's method 1); a text that shares no character
    with any other has 0.

    Returns:
        In [0, 1]; None with less than two texts.
    """
    plain = ["".join(text.split()) for text in texts]
    if len(plain) < 2:
        return None
    precisions = [list(_precisions(plain, n)) for n in range(1, _LONGEST + 1)]
    lengths = sorted(Counter(map(len, plain)).items())
    scores = []
    for text, (first, *others) in zip(plain, zip(*precisions, strict=True), strict=True):
        if first[0] == 0:
            scores.append(0.0)
            continue
        logs = (math.log((matches or _SMALL) / grams) for matches, grams in (first, *others))
        scores.append(_brevity(len(text), lengths) * math.exp(sum(logs) / _LONGEST))
    return sum(scores) / len(scores)


def _precisions(texts: Sequence[str], n: int) -> Iterator[tuple[int, int]]:
    """For each text, its n-grams that stand in another one, clipped at the most that any has; and all its n-grams."""
    counts = [Counter(_grams(text, n)) for text in texts]
    # Of each n-gram the two highest counts: the most among the others is the second for the text that has the first.
    highest: dict[str, tuple[int, int]] = {}
    for count in counts:
        for gram, times in count.items():
            first, second = highest.get(gram, (0, 0))
            highest[gram] = (max(first, times), max(second, min(first, times)))
    for count in counts:
        matches = 0
        for gram, times in count.items():
            first, second = highest[gram]
            matches += min(times, second if times == first else first)
        yield matches, max(1, count.total())


def _brevity(length: int, lengths: Sequence[tuple[int, int]]) -> float:
    """The penalty for a text shorter than its closest reference; the text itself is none."""
    others = (other for other, times in lengths if other != length or times > 1)
    closest = min(others, key=lambda other: (abs(other - length), other), default=length)
    return 1.0 if length >= closest else math.exp(1 - closest / length)


def _grams(text: str, n: int) -> Iterator[str]:
    return (text[i : i + n] for i in range(len(text) - n + 1))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
