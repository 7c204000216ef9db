"""What ``config.json`` beside a classifier's weights says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from libra_guard.errors import UsageError

Probability = Annotated[float, Field(ge=0, le=1)]


class ClassifierConfig(BaseModel):
    """The keys that Libra reads; what else stands there is left alone."""

    model_config = ConfigDict(strict=True, frozen=True)

    labels: list[str] = []
    """Names of the outputs in order."""
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


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UsageError: The file cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path}: an object is needed, not a {type(found).__name__}")
    return found
