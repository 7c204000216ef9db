"""Settings of adversarial rounds."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from libra_guard.configuration import ConfigFile, Move, Strict
from libra_guard.data.near_duplicates import NearSettings
from libra_guard.synth.config import JudgeSettings, ModelSettings, moved_judges, places_of
from libra_guard.synth.seats.budget import BudgetSettings
from libra_guard.train.recipe import Source


class AdversarySeats(Strict):
    """Who writes and who judges; names are keys of ``models``."""

    writer: str
    judges: tuple[JudgeSettings, ...] = Field(min_length=1)
    """A pair is kept where all of them give it the label that it was written for."""

    @property
    def sitting(self) -> dict[str, JudgeSettings]:
        """The judges by the keys that they stand at."""
        return places_of(self.judges)


class StageSettings(Strict):
    """How the classifier learns a round's pairs; see ``libra_guard.train.recipe.Stage``."""

    learning_rate: float = Field(default=5e-5, gt=0)
    epochs: int = Field(default=1, ge=1)
    length: int = Field(default=384, ge=32)


class AdversarialConfig(ConfigFile):
    """A run of rounds."""

    kind: ClassVar[str] = "file of adversarial rounds"

    recipe: str
    """The classifier's, relative to this file."""
    seed: int = 42
    models: dict[str, ModelSettings]
    seats: AdversarySeats
    budget: BudgetSettings = BudgetSettings()
    attempts: int = Field(default=3, ge=1)
    """Times that an answer is asked for that cannot be read."""
    rounds: int = Field(default=3, ge=1)
    """At most."""
    gain: float = Field(default=0.002, ge=0)
    """Least gain of a round in mean AUC on the calibration questions that is worth another one."""
    pool: int = Field(default=2000, ge=1)
    """So many training pairs, drawn at random, are judged to find those that the classifier gets wrong."""
    seeds: int = Field(default=100, ge=1)
    """So many of them a round begins with: the worst judged, half of either label."""
    variants: int = Field(default=4, ge=1, le=20)
    """Pairs that are written for each."""
    repeat: int = Field(default=1, ge=1)
    """How often a round's pairs are shown in an epoch."""
    stage: StageSettings = StageSettings()
    replay: tuple[Source, ...] = ()
    """What is shown beside them, of what was learnt before; a classifier of n-grams alone needs none."""
    near: NearSettings = NearSettings()
    """From which on a pair is a near-duplicate, and a question too near to one that is tested on."""

    @classmethod
    def moved(cls, settings: dict[str, Any], move: Move) -> dict[str, Any]:
        """See ``ConfigFile.moved``: the recipe, and what judges read."""
        recipe = {"recipe": move(settings["recipe"])} if isinstance(settings.get("recipe"), str) else {}
        return moved_judges(settings | recipe, move)

    @model_validator(mode="after")
    def _models_are_there(self) -> Self:
        for name in (self.seats.writer, *(judge.model for judge in self.seats.judges if judge.model)):
            if name not in self.models:
                raise ValueError(f"no model is called '{name}'; there are {', '.join(sorted(self.models))}")
        if len({judge.name for judge in self.seats.judges}) < len(self.seats.judges):
            raise ValueError("seats.judges: one stands there twice")
        return self
