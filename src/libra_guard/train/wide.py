"""The wide part: logistic regression over hashed character n-grams, one output for each label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from libra_guard.backends.base import Text
from libra_guard.backends.ngrams import NgramFeatures
from libra_guard.train.mixture import Example, target_array
from libra_guard.train.recipe import Ngrams


@dataclass(frozen=True)
class WideModel:
    """``logits = sum(table[bucket] * n-gram weight) + bias``; the inverse document frequency is in the table."""

    features: NgramFeatures
    table: NDArray[np.float32]
    """Shape ``(buckets, outputs)``."""
    bias: NDArray[np.float32]
    """Shape ``(outputs,)``."""

    def logits(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        """Shape ``(len(texts), outputs)``."""
        return np.asarray(_matrix(self.features, texts) @ self.table.astype(np.float64) + self.bias)


def fit_wide(recipe: Ngrams, examples: Sequence[Example], *, seed: int) -> WideModel:
    """Fits TF-IDF weighted n-grams with logistic regression, each output on the examples whose target is known.

    The n-grams' weights are scaled by ``ln((1 + n) / (1 + df)) + 1`` (scikit-learn's smoothed idf) after, not before,
    they are normalised: so the scale can be folded into the table, and a text's features need no table of their own.
    """
    features = NgramFeatures(recipe.buckets, recipe.longest)
    matrix = _matrix(features, [e.text for e in examples])
    targets = target_array(examples)
    frequency = np.bincount(matrix.indices, minlength=recipe.buckets)
    idf = np.log((1 + matrix.shape[0]) / (1 + frequency)) + 1
    # A bucket seen once or twice tells nothing; leaving it out keeps the table sparse.
    idf[frequency < 3] = 0
    scaled = (matrix @ sparse.diags(idf)).tocsr()
    scaled.eliminate_zeros()
    outputs = targets.shape[1]
    table = np.zeros((recipe.buckets, outputs), dtype=np.float32)
    bias = np.full(outputs, -10, dtype=np.float32)
    for column in range(outputs):
        known = ~np.isnan(targets[:, column])
        wanted = targets[known, column] == 1
        if len(set(wanted)) < 2:
            continue
        model = LogisticRegression(
            C=recipe.inverse_regularisation, solver="liblinear", max_iter=300, random_state=seed
        ).fit(scaled[known], wanted)
        table[:, column] = model.coef_[0] * idf
        bias[column] = model.intercept_[0]
    return WideModel(features, table, bias)


def _matrix(features: NgramFeatures, texts: Sequence[Text]) -> sparse.csr_matrix:
    ids, weights, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)], [0]
    for text in texts:
        found, weight = features(text)
        ids.append(found)
        weights.append(weight)
        ends.append(ends[-1] + len(found))
    data, indices = np.concatenate(weights).astype(np.float64), np.concatenate(ids)
    return sparse.csr_matrix((data, indices, ends), shape=(len(texts), features.buckets))
