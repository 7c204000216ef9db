"""What ``config.json`` beside a classifier's weights says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from libra_guard.configuration import Probability
from libra_guard.errors import UsageError
from libra_guard.taxonomy import CategorySystem, category_system

UNSAFE = "unsafe"
"""The first label of a guard."""


class ClassifierConfig(BaseModel):
    """The keys that Libra reads; what else stands there is left alone."""

    model_config = ConfigDict(strict=True, frozen=True)

    labels: list[str] = []
    """Names of the outputs in order."""
    system: str | None = "libra"
    """The category system whose codes they are after the first; None where their trainer named them."""
    logit_bias: list[Annotated[float, Field(allow_inf_nan=False)]] | None = None
    """Added to the logits, one for each label: heads of transformers' sequence classifiers have none."""
    threshold: Probability = 0.5
    """Unsafe from this score on."""
    question_threshold: Probability | None = None
    """The same for a question that is judged by itself; None: as ``threshold``."""
    scenario_threshold: Probability = 0.5
    """A scenario is named in the analysis from this score on."""
    max_length: int = Field(default=512, ge=1)
    """Tokens that the model reads, special tokens included."""
    ngrams: dict[str, Any] = {}
    """Of ``NgramFeatures``."""

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str | Path) -> Self:
        """The keys in a parsed file.

        Args:
            config: The file's object.
            where: The file, for messages.

        Raises:
            UsageError: A value is of another type, or out of range.
        """
        try:
            return cls.model_validate(config)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise UsageError(f"{where}: {key}: {first['msg']}, not {first['input']!r:.80}") from None

    def system_of_labels(self, where: str | Path) -> CategorySystem | None:
        """The system that the labels are of; None where their trainer named them.

        Args:
            where: The file, for messages.

        Raises:
            UsageError: They are not those of a guard: ``unsafe``, then categories of the system, each once.
        """
        if not self.labels or self.labels[0] != UNSAFE:
            raise UsageError(f"{where} needs 'labels' beginning with '{UNSAFE}', not {self.labels}")
        if len(set(self.labels)) < len(self.labels):
            raise UsageError(f"{where}: labels: one stands there twice")
        if self.logit_bias and len(self.logit_bias) != len(self.labels):
            raise UsageError(f"{where}: logit_bias: {len(self.logit_bias)} numbers for {len(self.labels)} labels")
        if self.system is None:
            return None
        try:
            system = category_system(self.system)
            for label in self.labels[1:]:
                system.find(label)
        except UsageError as error:
            raise UsageError(f"{where}: labels: {error}") from None
        return system
