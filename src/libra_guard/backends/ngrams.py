"""Hashed character n-grams: the features of the n-gram guard and of the bundled guard's wide part.

The hashing trick (Weinberger et al., 2009, arXiv:0902.2206) needs no vocabulary file, and numpy hashes a megabyte of
text in a fraction of a second, so the light install carries no tokenizer or scikit-learn for it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libra_guard.backends.base import Text

_PRIMES = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], dtype=np.uint64)
_BITS = 24


@dataclass(frozen=True)
class NgramFeatures:
    """Turns a text, or a pair, into bucket numbers and weights.

    The weight of an n-gram is ``(1 + ln count) / norm``: sublinear term frequency with the L2 norm over the whole
    text, as in TF-IDF; the inverse document frequency is part of the model's table. The two texts of a pair are
    hashed apart, so that a word in the question and the same word in the answer are different features.
    """

    buckets: int = 1 << 18
    """Size of the table; a power of two, at most 2**24 (the hash has so many bits)."""
    longest: int = 3
    """n-grams of 1 to ``longest`` characters, at most 4."""

    def __post_init__(self) -> None:
        for name, number in asdict(self).items():
            if type(number) is not int:
                raise ValueError(f"{name} must be a whole number, not {number!r}")
        if not 0 < self.buckets <= 1 << _BITS or self.buckets.bit_count() != 1:
            raise ValueError(f"buckets must be a power of two up to 2**{_BITS}, not {self.buckets}")
        if not 1 <= self.longest <= len(_PRIMES):
            raise ValueError(f"longest must be 1 to {len(_PRIMES)}, not {self.longest}")

    def __call__(self, text: Text) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Bucket numbers (unique, sorted) and weights of one text or pair; both of shape ``(m,)``, m ≥ 1."""
        parts = (text,) if isinstance(text, str) else text
        hashed = np.concatenate([self._hash(part, salt) for salt, part in enumerate(parts)])
        ids, counts = np.unique(hashed, return_counts=True)
        if not len(ids):
            return np.zeros(1, np.int64), np.zeros(1, np.float32)
        weights = 1 + np.log(counts)
        return ids, (weights / np.linalg.norm(weights)).astype(np.float32)

    def config(self) -> dict[str, Any]:
        """What a model folder's ``config.json`` keeps."""
        return asdict(self)

    def _hash(self, text: str, salt: int) -> NDArray[np.int64]:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
        found = []
        with np.errstate(over="ignore"):
            for n in range(1, min(self.longest, len(codes)) + 1):
                mixed = np.full(len(codes) - n + 1, np.uint64(n * 31 + salt), dtype=np.uint64)
                for i in range(n):
                    mixed = (mixed ^ codes[i : len(codes) - n + 1 + i]) * _PRIMES[i]
                    mixed ^= mixed >> np.uint64(29)
                found.append(((mixed * _PRIMES[0]) >> np.uint64(64 - _BITS)) & np.uint64(self.buckets - 1))
        return np.concatenate(found).astype(np.int64) if found else np.zeros(0, np.int64)
