"""A training recipe: what is trained on what, as one YAML file; unknown keys are errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from libra_guard.backends.ngrams import NgramFeatures
from libra_guard.configuration import ConfigFile, Strict
from libra_guard.errors import UsageError
from libra_guard.records import Label
from libra_guard.taxonomy import SCENARIOS
from libra_guard.train.outputs import Outputs, OwnOutputs

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


STUDIES = {"variants": "libra train ablate", "seats": "libra train adversarial"}
"""Keys by which files are known that name a recipe and are none."""


class Source(Strict):
    """One part of a mixture."""

    set: str
    """Name of an importer (``libra data list``)."""
    path: str
    """File of that set, relative to the data folder."""
    name: str | None = Field(default=None, min_length=1)
    """What counts and results call it; the name of its set where None. Sources of one name are counted together."""
    reads: Literal["pair", "question", "answer", "sentence"] = "pair"
    """What the classifier is shown of each sample. ``sentence``: the question and one sentence of the answer, drawn at
    random, as streams are judged; of safe samples alone, for not each sentence of an unsafe answer is unsafe."""
    label: Label | None = None
    """Overrides the samples' own: their ``label``, or of a question their ``question_label`` where they have one."""
    scenarios: list[str] | None = None
    """Only samples of these scenarios (English names)."""
    where: dict[str, Any] = Field(default_factory=dict)
    """Only samples whose fields have these values, or one of a list of values: ``part: [1, 2]``."""
    per_question: int | None = Field(default=None, ge=1)
    """At most so many samples of one question and label, drawn at random: noisy sets repeat themselves."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Only this share of the questions, drawn at random; a larger share holds all of a smaller one."""
    sample: int | None = Field(default=None, ge=1)
    """At most so many samples in all, drawn at random by question."""
    unseen: bool = False
    """For a test set that nothing is trained on: all its questions that no training or calibration example had."""
    whole: bool = False
    """All its questions, whatever their hash says: for files that were split before. A question that stands in two of
    the splits is an error then."""
    repeat: int = Field(default=1, ge=1)
    """How often each sample is shown in an epoch."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Later settings show only where they are set: the marks of finished stages are hashes of this."""
        yield from (pair for pair in super().__repr_args__() if pair not in (("whole", False), ("name", None)))

    @property
    def called(self) -> str:
        """What counts and results call it."""
        return self.name or self.set

    @field_validator("label")
    @classmethod
    def _two_states(cls, value: Label | None) -> Label | None:
        if value is Label.CONTROVERSIAL:
            raise ValueError("a sample's label is 安全 or 不安全")
        return value

    @field_validator("scenarios")
    @classmethod
    def _known(cls, value: list[str] | None) -> list[str] | None:
        names = [s.name for s in SCENARIOS]
        if unknown := [name for name in value or () if name not in names]:
            raise ValueError(f"no scenario is called {', '.join(unknown)}; there are {', '.join(names)}")
        return value


class Stage(Strict):
    """One stage of the curriculum."""

    name: str = Field(pattern=r"^[\w-]+$")
    """Also that of its folder."""
    data: list[Source] = Field(min_length=1)
    epochs: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    head_learning_rate: float = Field(default=1e-3, gt=0)
    batch_size: int = Field(default=16, ge=1)
    warmup: float = Field(default=0.1, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    length: int = Field(default=256, ge=32)
    """Tokens of a training example, at most the encoder's ``max_length``; of a longer one the first part is kept."""
    seed: int | None = None
    """Of the order and the dropout; the recipe's where None."""


class Encoder(Strict):
    """The pretrained backbone, an encoder or a causal language model: how it is cut, and what its head learns."""

    base: str
    """Folder or hub name."""
    layers: Annotated[list[NonNegativeInt], Field(min_length=1)] | None = None
    """Layers to keep, by number; all where None."""
    vocabulary: int | None = Field(default=None, ge=1)
    """Keep single Chinese and Latin characters, and longer pieces seen so often in the first stage; None: all."""
    freeze_vocabulary: bool = True
    frozen_layers: int = Field(default=0, ge=0)
    """So many of the lowest layers stay as they were pretrained: quicker, and steadier on little data."""
    max_length: int = Field(default=512, ge=32)
    """Tokens that the finished guard reads at once."""
    pooling: Literal["mean", "last"] | None = None
    """What the head reads: the mean of all tokens' states, or the last token's. None: last of a causal language model,
    as its sequence classifier in transformers does (DuoGuard, arXiv:2502.05163, is one), mean of an encoder."""
    positive_weight: Literal["balanced"] | Weight | dict[str, Weight] | None = None
    """How much an example that has a category counts beside one that has not: for all outputs, or by name (others 1).
    ``balanced``: negatives over positives among the stage's known targets, at most 10. None: 1."""
    category_weight: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    """How much each category's loss counts beside that of ``unsafe``."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Later settings show only where they are set: the marks of finished stages are hashes of this."""
        fields = type(self).model_fields
        for name, value in super().__repr_args__():
            if name not in ("pooling", "positive_weight", "category_weight") or value != fields[name].default:
                yield name, value


class Ngrams(Strict):
    """The wide part: logistic regression over hashed character n-grams."""

    data: list[Source] = Field(min_length=1)
    buckets: int = 1 << 18
    longest: int = Field(default=3, ge=1, le=4)
    inverse_regularisation: float = Field(default=4.0, gt=0)

    @field_validator("buckets")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        NgramFeatures(value)
        return value


class PairCalibration(Strict):
    """How the threshold of pairs is chosen, on questions that nothing was trained on."""

    data: list[Source] = Field(min_length=1)
    benign: list[Source] = Field(default_factory=list)
    false_positives: float = Field(default=0.02, gt=0, le=1)
    """Share of benign pairs that the threshold may flag."""


class Calibration(PairCalibration):
    """How the parts are joined too, and questions judged by themselves get a threshold of their own."""

    questions: list[Source] = Field(default_factory=list)
    """For the threshold of questions judged by themselves; the answers' threshold where there are none."""
    question_false_positives: float = Field(default=0.05, gt=0, le=1)
    """Share of the safe ones among them that their threshold may flag."""


class TrainingRecipe(ConfigFile):
    """What recipes of all kinds have."""

    name: str
    seed: int = 42
    """Of first weights, order and dropout."""
    data_seed: int | None = None
    """Of the samples that are drawn, to train and to test; ``seed`` where None."""

    @property
    def draws(self) -> int:
        """The seed that samples are drawn with."""
        return self.seed if self.data_seed is None else self.data_seed


class Recipe(TrainingRecipe):
    """All of it."""

    kind = "training recipe"
    kin: ClassVar[Mapping[str, str]] = {"model": "libra train generative", **STUDIES}
    marks = ("encoder", "ngrams")

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    outputs: str | OwnOutputs = "libra"
    """What is told apart beside safe and unsafe: a category system by name, or names of one's own."""
    encoder: Encoder | None = None
    stages: list[Stage] = Field(default_factory=list)
    ngrams: Ngrams | None = None
    calibration: Calibration
    test: list[Source] = Field(default_factory=list)

    @property
    def base(self) -> str | None:
        """The pretrained model that is started from; None without an encoder."""
        return self.encoder.base if self.encoder else None

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, as JSON has them."""
        return self.model_dump(mode="json")

    @property
    def brief(self) -> dict[str, Any]:
        """The same without those that are left at their defaults."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def fitted_on(self) -> list[Source]:
        """Everything that the guard is trained or calibrated on."""
        return [source for part in self._parts().values() for source in part]

    def _parts(self) -> dict[str, list[Source]]:
        parts = {f"stages.{stage.name}": stage.data for stage in self.stages}
        parts["ngrams"] = self.ngrams.data if self.ngrams else []
        for name in ("data", "benign", "questions"):
            parts[f"calibration.{name}"] = getattr(self.calibration, name)
        return parts

    @field_validator("outputs")
    @classmethod
    def _known_system(cls, value: str | OwnOutputs) -> str | OwnOutputs:
        try:
            return Outputs.of(value).system or value
        except UsageError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _weights_of_outputs(self) -> Self:
        weights = self.encoder.positive_weight if self.encoder else None
        labels = Outputs.of(self.outputs).labels
        if unknown := [name for name in weights if name not in labels] if isinstance(weights, dict) else []:
            raise ValueError(
                f"positive_weight: no output is called {', '.join(unknown)}; there are {', '.join(labels)}"
            )
        return self

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if (self.encoder is None) != (not self.stages):
            raise ValueError("an encoder needs stages, and stages an encoder")
        if self.encoder is None and self.ngrams is None:
            raise ValueError("nothing to train: give an encoder with stages, or ngrams, or both")
        return self

    @model_validator(mode="after")
    def _stages_told_apart(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError("stages: two have the same name, and so the same folder")
        return self

    @model_validator(mode="after")
    def _unseen_is_for_tests(self) -> Self:
        for name, sources in self._parts().items():
            if any(source.unseen for source in sources):
                # It takes questions of every split, those of the test too.
                raise ValueError(f"{name}: 'unseen' is for test sets alone")
        return self
