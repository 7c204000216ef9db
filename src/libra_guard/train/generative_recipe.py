"""A recipe for a generative guard: a base model, what it is taught to write, and the stages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from libra_guard.configuration import Strict
from libra_guard.guards.libra_prompt import Critic
from libra_guard.train.recipe import STUDIES, PairCalibration, Source, TrainingRecipe


class Lora(Strict):
    """Low-rank adapters (PEFT) instead of all weights."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: str | list[str] = "all-linear"
    """Names of the layers that get one, or PEFT's ``all-linear``."""


class Model(Strict):
    """The base model and how its weights are trained."""

    base: str
    """Folder or hub name."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the matrix products; trained weights are float32."""
    lora: Lora | None = Field(default_factory=Lora)
    """None trains all weights."""
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False


class Teaching(Strict):
    """What the model is shown, and what it is to write."""

    critic: Critic = Critic.REAR
    rules: bool = False
    """Whether the prompt states the safety rules."""
    instruct: bool = True
    """Whether the prompt goes through the base's chat template; a base model has none."""
    label_weight: float = Field(default=1.0, gt=0)
    """How often the tokens of 安全 and 不安全 count in the loss."""
    without_analysis: Literal["label", "template"] = "label"
    """Of samples that have no analysis: the answer up to its label alone is taught, or a sentence from a template."""
    contradictions: Literal["error", "drop"] = "error"
    """Samples whose analysis comes to the other label."""


class Training(Strict):
    """How a stage is trained; a later stage inherits what it does not set. The learning rate is one for LoRA."""

    epochs: float = Field(default=1.0, gt=0)
    learning_rate: float = Field(default=2e-4, gt=0)
    batch_size: int = Field(default=8, ge=1)
    """Sequences of one step of one process."""
    accumulation: int = Field(default=1, ge=1)
    """Steps whose gradients make one update."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the updates."""
    weight_decay: float = Field(default=0.0, ge=0)
    length: int = Field(default=1024, ge=64)
    """Tokens of a sequence, prompt and answer; longer samples are left out, and counted."""
    packing: bool = False
    """Several samples in one sequence, each seeing only itself; for GPUs."""
    seed: int | None = None
    """Of the order and the dropout; the recipe's where None."""
    save_steps: int = Field(default=50, ge=1)
    """Updates between checkpoints: what a kill costs."""


class GenerativeStage(Training):
    """One stage of the curriculum."""

    name: str = Field(pattern=r"^[\w-]+$")
    """Also that of its folder."""
    data: list[Source] = Field(min_length=1)


def _given(training: Training) -> dict[str, Any]:
    """The settings that were set, not those left at their defaults."""
    return {name: getattr(training, name) for name in Training.model_fields if name in training.model_fields_set}


class GenerativeRecipe(TrainingRecipe):
    """All of it."""

    kind = "training recipe for a generative guard"
    kin: ClassVar[Mapping[str, str]] = {
        "encoder": "libra train classifier",
        "ngrams": "libra train classifier",
        **STUDIES,
    }
    marks = ("model",)

    model: Model
    teaching: Teaching = Field(default_factory=Teaching)
    training: Training = Field(default_factory=Training)
    """Settings of all stages, where they do not say otherwise."""
    stages: list[GenerativeStage] = Field(min_length=1)
    calibration: PairCalibration | None = None
    """None: the threshold is 0.5."""
    test: list[Source] = Field(default_factory=list)
    untrained: bool = True
    """Whether the base model is tested too, with the same prompt."""

    @property
    def base(self) -> str:
        """The pretrained model that is started from."""
        return self.model.base

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, as JSON has them; each stage with what it inherits, for what stands there is its own."""
        return {
            **self.model_dump(mode="json"),
            "stages": [stage.model_dump(mode="json") for stage in self.resolved],
        }

    @property
    def brief(self) -> dict[str, Any]:
        """The same without what is left at its default or is inherited; it reads back as the same recipe."""
        told = self.model_dump(mode="json", exclude_defaults=True)
        before, stages = self.training, []
        for stage, given in zip(self.resolved, told["stages"], strict=True):
            own = {
                name: value
                for name in Training.model_fields
                # A stage's seed goes to no other.
                if (value := getattr(stage, name)) != getattr(self.training if name == "seed" else before, name)
            }
            stages.append({"name": stage.name, **own, "data": given["data"]})
            before = stage
        return {**told, "stages": stages}

    @property
    def fitted_on(self) -> list[Source]:
        """Everything that the guard is trained or calibrated on."""
        calibration = [*self.calibration.data, *self.calibration.benign] if self.calibration else []
        return [source for stage in self.stages for source in stage.data] + calibration

    @property
    def resolved(self) -> list[GenerativeStage]:
        """The stages with what they inherit: a stage's own setting, else that of the one before, else the recipe's."""
        found: list[GenerativeStage] = []
        settings = _given(self.training)
        for stage in self.stages:
            # A stage's own seed varies that stage alone.
            settings |= {**_given(stage), "seed": self.training.seed if stage.seed is None else stage.seed}
            found.append(stage.model_copy(update=settings))
        return found

    def whence(self, path: str, typed: Collection[str] = ()) -> str:
        """Where a setting of no stage comes from, in words.

        Args:
            path: Dotted.
            typed: Dotted paths of what the command line set.
        """
        if any(path == one or path.startswith(f"{one}.") for one in typed):
            return "the command line"
        part: Any = self
        for name in path.split("."):
            if name not in part.model_fields_set:
                return "default"
            part = getattr(part, name)
        return "the recipe's"

    def origin(self, stage: str, setting: str, typed: Collection[str] = ()) -> str:
        """Where a stage's setting comes from, in words.

        Args:
            stage: Its name.
            setting: Its name.
            typed: Dotted paths of what the command line set.
        """
        names = [s.name for s in self.stages]
        for earlier in reversed(self.stages[: names.index(stage) + 1]):
            if setting in earlier.model_fields_set and (setting != "seed" or earlier.name == stage):
                own = "the command line" if f"stages.{stage}.{setting}" in typed else "its own"
                return own if earlier.name == stage else f"from '{earlier.name}'"
        if f"training.{setting}" in typed:
            return "the command line"
        return "the recipe's" if setting in self.training.model_fields_set else "default"

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError("stages: two have the same name, and so the same folder")
        if self.teaching.critic is Critic.FRONT and self.teaching.without_analysis == "label":
            raise ValueError("teaching: the front critic writes an analysis first, so without_analysis is template")
        for source in [*self.fitted_on, *self.test]:
            if source.reads != "pair":
                raise ValueError(f"{source.path}: a Libra guard judges pairs, so 'reads' cannot be '{source.reads}'")
            if source.label is not None:
                raise ValueError(f"{source.path}: 'label' is for questions; a pair has its own")
        if any(source.unseen for source in self.fitted_on):
            # It takes questions of every split, those of the test too.
            raise ValueError("'unseen' is for test sets alone")
        return self
