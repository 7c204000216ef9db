"""What a model was to write and did not: the error of whoever reads it, and what stands in a row's place."""

from __future__ import annotations

from dataclasses import dataclass


class UnreadableError(ValueError):
    """A model's answer is not of the form that was asked for; the message is the reason."""


@dataclass(frozen=True)
class Failure:
    """What a model did not bring."""

    reason: str
    text: str = ""
    """What it said instead, where it said something."""
    model: bool = False
    """Whether the model failed, not its answer: another run may have more luck."""
