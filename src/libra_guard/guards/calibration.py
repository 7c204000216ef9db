"""A calibration: how a guard's score becomes a probability, and from which one on a text is unsafe.

It is fitted on labelled verdicts (``libra calibrate``) and kept as ``calibration.json`` beside the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, PrivateAttr, field_validator, model_validator

from libra_guard.configuration import ConfigFile, Probability, Strict, read_object
from libra_guard.errors import UsageError
from libra_guard.io import bytes_hash
from libra_guard.records import Target

CLEAR = 1e-6
"""Scores nearer to 0 or 1 than this are taken as this near: their logits would say more than six decimals can."""
DIGITS = 6
"""Decimals of a calibrated score, as of a classifier's own."""
Scores = NDArray[np.float64]


class _Map(Strict):
    """What all maps share. Each is monotone: a higher score never becomes a lower one.

    Scores may become alike: those within ``CLEAR`` of 0 or 1, those that differ by less than six decimals, and those on
    a level piece of an isotonic map.
    """

    model_config = ConfigDict(strict=True)

    threshold: Probability = 0.5
    """Unsafe from this calibrated score on."""

    def apply(self, scores: Scores | float) -> Scores:
        """Calibrated scores, to six decimals; any shape."""
        return np.asarray(np.round(self._mapped(np.asarray(scores, dtype=float)), DIGITS))

    def _mapped(self, scores: Scores) -> Scores:
        return scores


class Identity(_Map):
    """The scores as they are: only the threshold is fitted."""

    method: Literal["none"] = "none"


class Temperature(_Map):
    """``sigmoid(logit(score) / temperature)`` (Guo et al. 2017, arXiv:1706.04599)."""

    method: Literal["temperature"] = "temperature"
    temperature: float = Field(gt=0, allow_inf_nan=False)
    """Above 1 the scores move towards 0.5, below 1 away from it."""

    def _mapped(self, scores: Scores) -> Scores:
        return _sigmoid(logit(scores) / self.temperature)


class Platt(_Map):
    """``sigmoid(logit(score) / temperature + bias)``: Platt's scaling of the logit (Platt 1999)."""

    method: Literal["platt"] = "platt"
    temperature: float = Field(gt=0, allow_inf_nan=False)
    """As of ``Temperature``."""
    bias: float = Field(allow_inf_nan=False)
    """Above 0 the scores move up."""

    def _mapped(self, scores: Scores) -> Scores:
        return _sigmoid(logit(scores) / self.temperature + self.bias)


class Isotonic(_Map):
    """A monotone table, linear between its points and level outside of them (Zadrozny and Elkan 2002)."""

    method: Literal["isotonic"] = "isotonic"
    x: list[Probability] = Field(min_length=1)
    """Scores of the guard, rising."""
    y: list[Probability] = Field(min_length=1)
    """The calibrated scores at ``x``, none lower than the one before."""

    @model_validator(mode="after")
    def _monotone(self) -> Self:
        if len(self.x) != len(self.y):
            raise ValueError(f"x has {len(self.x)} points, y has {len(self.y)}")
        if any(b <= a for a, b in pairwise(self.x)):
            raise ValueError("x must rise from point to point")
        if any(b < a for a, b in pairwise(self.y)):
            raise ValueError("y must not fall from point to point")
        return self

    def _mapped(self, scores: Scores) -> Scores:
        return np.asarray(np.interp(scores, self.x, self.y))


ScoreMap = Annotated[Identity | Temperature | Platt | Isotonic, Field(discriminator="method")]


class Calibration(ConfigFile):
    """What ``calibration.json`` holds: a map and a threshold for answers, for questions, or for both."""

    kind = "calibration"

    response: ScoreMap | None = None
    """Of verdicts on answers; None: their scores and threshold stay the guard's own."""
    prompt: ScoreMap | None = None
    """Of verdicts on questions."""
    fitted_on: dict[str, Any] = Field(default_factory=dict)
    """Provenance of the guard that gave the scores: it serves no other. Empty: not checked."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """How it was fitted; free."""
    _file: str | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.response is None and self.prompt is None:
            raise ValueError("needs 'response' or 'prompt', or both")
        return self

    @field_validator("response", "prompt")
    @classmethod
    def _divides(cls, value: ScoreMap | None) -> ScoreMap | None:
        if value is not None:
            low, high = (float(end) for end in value.apply(np.array([0.0, 1.0])))
            if not low < value.threshold <= high:
                one = "unsafe" if value.threshold <= low else "safe"
                raise ValueError(f"scores become {low:g} to {high:g}: from {value.threshold:g} on, every text is {one}")
        return value

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads a file.

        Raises:
            UsageError: It is missing, is no JSON, or has a wrong or unknown key, a value out of range, a map that is
                not monotone, or a threshold that calls every text the same; the message names it.
        """
        path = Path(path).expanduser()
        found = cls.checked(read_object(path), path)
        found._file = bytes_hash(path.read_bytes())
        return found

    def of(self, target: Target) -> ScoreMap | None:
        """The map for a target; None where there is none."""
        return self.prompt if target is Target.PROMPT else self.response

    def check(self, guard: Mapping[str, Any]) -> None:
        """Sees to it that it was fitted on this guard, with this model and these questions to it.

        Args:
            guard: The guard's provenance.

        Raises:
            UsageError: It was fitted on another; the message says what differs.
        """
        check_fitted_on(self.fitted_on, guard)

    @property
    def sha256(self) -> str:
        """Of the file that it was read from; of what would be written where it was made here. As ``sha256:…``."""
        return self._file or bytes_hash(self.text().encode())

    def text(self) -> str:
        """The file."""
        kept = {name: value for name, value in self.model_dump(mode="json").items() if value}
        return json.dumps(kept, ensure_ascii=False, indent=2) + "\n"


def check_fitted_on(told: Mapping[str, Any], guard: Mapping[str, Any]) -> None:
    """Sees to it that what was fitted on one guard serves no other.

    Args:
        told: Provenance of the guard that was fitted on; empty: not checked.
        guard: That of the guard which is to be served.

    Raises:
        UsageError: They are of different guards, models or prompts; the message says what differs.
    """
    for key in _identity(told) if told else ():
        # What one of them alone has is a difference too: an adapter that came later makes another model.
        if told.get(key) != guard.get(key):
            raise UsageError(f"fitted on another {key}: {told.get(key)}, and this guard has {guard.get(key)}")


def logit(scores: Scores) -> Scores:
    """``log(p / (1 - p))``, of scores at least ``CLEAR`` away from 0 and 1."""
    clipped = np.clip(scores, CLEAR, 1 - CLEAR)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def _sigmoid(logits: Scores) -> Scores:
    # By tanh, which cannot overflow.
    return 0.5 * (1 + np.tanh(logits / 2))


def _identity(told: Mapping[str, Any]) -> Iterator[str]:
    """The keys of a guard's provenance that its scores depend on."""
    yield from ("guard", "prompt_sha256", "policies")
    for part in ("model", "base", "adapter"):
        yield f"{part}_hash"
        # A name is no proof where the weights are known, and the same model can lie elsewhere.
        if told.get(f"{part}_hash") is None:
            yield part
            if told.get(part) is not None:
                yield "revision"
