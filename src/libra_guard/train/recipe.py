"""A training recipe: what is trained on what, as one YAML file; unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from libra_guard.errors import UsageError
from libra_guard.records import Label


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """One part of a mixture."""

    set: str
    """Name of an importer (``libra data list``)."""
    path: str
    """File of that set, relative to the data folder."""
    reads: Literal["pair", "question", "answer"] = "pair"
    """What the classifier is shown of each sample."""
    label: Label | None = None
    """Overrides the samples' own: a question has no label in a set of labelled answers."""
    scenarios: list[str] | None = None
    """Only samples of these scenarios (English names)."""
    per_question: int | None = Field(default=None, ge=1)
    """At most so many samples of one question and label, drawn at random: noisy sets repeat themselves."""
    sample: int | None = Field(default=None, ge=1)
    """At most so many samples in all, drawn at random by question."""
    unseen: bool = False
    """For a test set that nothing is trained on: all its questions that no training or calibration example had."""
    repeat: int = Field(default=1, ge=1)
    """How often each sample is shown in an epoch."""


class Stage(_Strict):
    """One stage of the curriculum."""

    name: str
    data: list[Source] = Field(min_length=1)
    epochs: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    head_learning_rate: float = Field(default=1e-3, gt=0)
    batch_size: int = Field(default=16, ge=1)
    warmup: float = Field(default=0.1, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)


class Encoder(_Strict):
    """The pretrained encoder and how it is cut."""

    base: str
    """Folder or hub name."""
    layers: list[int] | None = None
    """Layers to keep, by number; all where None."""
    vocabulary: int | None = Field(default=None, ge=1)
    """Keep single characters of Chinese and Latin text, and longer pieces seen so often in the first stage's data; None: all."""
    freeze_vocabulary: bool = True
    frozen_layers: int = Field(default=0, ge=0)
    """So many of the lowest layers stay as they were pretrained: quicker, and steadier on little data."""
    max_length: int = Field(default=512, ge=32)
    """Tokens that the finished guard reads at once."""
    train_length: int = Field(default=256, ge=32)
    """Tokens of a training example; what is longer is cut into windows in use, and to its first part in training."""


class Ngrams(_Strict):
    """The wide part: logistic regression over hashed character n-grams."""

    data: list[Source] = Field(min_length=1)
    buckets: int = 1 << 18
    longest: int = Field(default=3, ge=1, le=4)
    inverse_regularisation: float = Field(default=4.0, gt=0)


class Calibration(_Strict):
    """How the parts are joined and the threshold chosen, on questions that no part was trained on."""

    data: list[Source] = Field(min_length=1)
    benign: list[Source] = Field(default_factory=list)
    false_positives: float = Field(default=0.02, gt=0, le=1)
    """Share of benign pairs that the threshold may flag."""


class Recipe(_Strict):
    """All of it."""

    name: str
    seed: int = 42
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    encoder: Encoder | None = None
    stages: list[Stage] = Field(default_factory=list)
    ngrams: Ngrams | None = None
    calibration: Calibration
    test: list[Source] = Field(default_factory=list)

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if (self.encoder is None) != (not self.stages):
            raise ValueError("an encoder needs stages, and stages an encoder")
        if self.encoder is None and self.ngrams is None:
            raise ValueError("nothing to train: give an encoder with stages, or ngrams, or both")
        return self

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads a recipe.

        Raises:
            UsageError: The file is missing, is not YAML, or has a wrong or unknown key; the message names it.
        """
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise UsageError(f"{path}: not YAML: {error}") from None
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            lines = [f"  {'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors()]
            raise UsageError(f"{path}: not a training recipe:\n" + "\n".join(lines)) from None
