"""Settings of a pipeline run: which models sit where, and what each step does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from libra_guard.configuration import ConfigFile, Move, Probability, Strict
from libra_guard.errors import UsageError
from libra_guard.records import Origin
from libra_guard.synth.language.translate import TranslateSettings
from libra_guard.synth.seats.budget import BudgetSettings, Price
from libra_guard.synth.seats.endpoints import WAIT
from libra_guard.synth.steps.augment import AugmentSettings
from libra_guard.synth.steps.dedup import DedupSettings
from libra_guard.taxonomy import SUB_CATEGORIES, sub_category

GRAMMAR = "grammar"
"""The writer and responder that is no model: sentences from a grammar."""
FAMILIES = 3
"""So many models of different families answer in the published pipeline."""


def _sub_category(name: str) -> str:
    try:
        return sub_category(name).name
    except UsageError as error:
        raise ValueError(str(error)) from None


def _name(text: str) -> str:
    if not re.fullmatch(r"[^\W_][\w.-]*", text):
        raise ValueError("write letters, digits, '.', '_' and '-' alone, with a letter or a digit first")
    return text


class ModelSettings(Strict):
    """One model, wherever it runs."""

    backend: str
    """A name of ``libra_guard.backends``: ``openai``, ``anthropic``, ``transformers``, ``scripted``."""
    model: str
    """A server's name for it, a hub name, or a folder."""
    endpoints: tuple[str, ...] = ()
    """Addresses of servers of this model, which share the work; none: the backend's own default."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further options of the backend. Keys of servers come from the environment, not from here."""
    key_env: str | None = None
    """Name of the environment variable that holds the key of its servers; without it ``endpoints`` are sent none, but
    for the provider's own address."""
    raw: bool = False
    """A base model without a chat template: prompts are plain text that it goes on from."""
    temperature: float = Field(default=0.8, ge=0)
    """Of what it writes and answers; 0 for a server that takes none."""
    concurrency: int = Field(default=16, ge=1)
    """Calls at a time, on each endpoint; a model in this process is called one by one. Of entries that name one address
    the lowest holds for all of them together."""
    batch: int = Field(default=8, ge=1)
    """Of a model in this process: texts at a time."""
    a_minute: float | None = Field(default=None, gt=0)
    """Calls a minute, on each endpoint; of entries that name one address as for ``concurrency``."""
    price: Price | None = None
    """None: not known; a model on a server needs one, or one of 0, where ``budget.money`` is set."""
    patience: int = Field(default=5, ge=1)
    """Failures in a row after which an endpoint is given up."""
    wait: float = Field(default=WAIT, ge=0)
    """Seconds without any answer after which an endpoint is given up that says it is busy (429, 503) or takes no
    connection; none of its rows is lost by that."""


class JudgeSettings(Strict):
    """One judge: a guard, on a model of this run or one of its own."""

    guard: str
    """A name of ``libra guards``, with its model behind it (``words:FILE``) where ``model`` is not given."""
    model: str | None = None
    """A name of ``models``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The guard's own: threshold, few_shot, ..."""

    @property
    def name(self) -> str:
        """What its votes are signed with: of a guard with a file, the file's name alone."""
        name, sign, file = self.guard.partition(":")
        return f"{name}:{self.model}" if self.model else f"{name}{sign}{Path(file).name}"


def places_of(judges: Sequence[JudgeSettings]) -> dict[str, JudgeSettings]:
    """Judges by the keys that they stand at."""
    return {f"seats.judges.{number}": judge for number, judge in enumerate(judges)}


class Seats(Strict):
    """Who does what; names are keys of ``models``, or ``grammar``."""

    writer: str = GRAMMAR
    responders: tuple[str, ...] = Field(default=(GRAMMAR,), min_length=1)
    judges: tuple[JudgeSettings, ...]
    """At least two."""
    arbiter: JudgeSettings | None = None
    """Decides where the judges differ; none: such samples are left out."""

    @property
    def sitting(self) -> dict[str, JudgeSettings]:
        """The judges, and the arbiter where there is one, by the keys that they stand at."""
        return places_of(self.judges) | ({"seats.arbiter": self.arbiter} if self.arbiter else {})


class ElementSettings(Strict):
    """The lists that queries are combined of."""

    extra: Path | None = None
    """A folder of further lists, in the form of the package's own."""
    extend: int = Field(default=0, ge=0)
    """So many new elements the writer adds to each list that the queries are combined of: behaviours, events and lawful
    subjects of each sub-category, everyday subjects of each area of life, places and tasks."""


class QuerySettings(Strict):
    """How many queries of each kind."""

    harmful: int = Field(default=20, ge=0)
    """For each sub-category."""
    borderline: int = Field(default=8, ge=0)
    """For each sub-category: lawful talk on it."""
    benign: int = Field(default=200, ge=0)
    """In all."""
    only: tuple[Annotated[str, AfterValidator(_sub_category)], ...] = ()
    """Sub-categories, by any of their names; none: all 39."""
    per_call: int = Field(default=10, ge=1, le=50)
    rounds: int = Field(default=4, ge=1)
    """Times that a sub-category that came short is asked for again."""

    @property
    def sub_categories(self) -> tuple[str, ...]:
        """The English names, in the taxonomy's order."""
        return tuple(sub.name for sub in SUB_CATEGORIES if not self.only or sub.name in self.only)


class ImportSettings(Strict):
    """Real queries: a public set of questions, or the questions of a set of samples."""

    set: str
    """A name of ``libra data list``."""
    path: str
    """Relative to the data folder."""
    sample: int | None = Field(default=None, ge=1)
    origin: Literal[Origin.REAL, Origin.TRANSLATED] = Origin.REAL
    """Of Chinese rows, whether they were translated by others; English ones are translated here."""


class RespondSettings(Strict):
    """How queries are answered."""

    per_query: int | None = Field(default=None, ge=1)
    """Responders for each query, drawn by its id; None: all of them."""
    max_tokens: int = Field(default=512, ge=1)
    longest: int = Field(default=4000, ge=1)
    """Characters; a longer answer is cut off at the last sentence before."""


class AnnotateSettings(Strict):
    """How pairs are judged."""

    explain: bool = True
    """Also keep the judges' analyses."""
    chunk: int | None = Field(default=None, ge=1)
    """Pairs that are judged between two looks at the progress; None: as many as keep all judges busy."""


class SplitSettings(Strict):
    """Which samples make which stage."""

    hard: tuple[Origin, ...] = tuple(Origin)
    """Of which origins disagreed samples go to stage 2."""
    agreed_real: Literal["leave", "stage1", "stage2"] = "leave"
    """Where real samples go that the judges agree on; the published recipe leaves them."""


class SynthConfig(ConfigFile):
    """A run."""

    kind: ClassVar[str] = "configuration of the pipeline"
    bundled: ClassVar[Path | None] = Path(__file__).parent / "configs"

    name: Annotated[str, AfterValidator(_name)]
    licence: str = "other"
    """Of the data set that comes out, for its card."""
    for_trying: bool = False
    """Whether its card is to say that what comes out is for trying the pipeline; where a grammar has a hand in it, it
    always does."""
    seed: int = 42
    models: dict[str, ModelSettings] = Field(default_factory=dict)
    seats: Seats
    budget: BudgetSettings = BudgetSettings()
    attempts: int = Field(default=3, ge=1)
    """Times that an answer is asked for that cannot be read or used, each with another seed."""
    failures: Probability = 0.02
    """Share of a step's rows that may be lost to failing models; with more the run stops, and goes on when repeated."""
    elements: ElementSettings = ElementSettings()
    queries: QuerySettings = QuerySettings()
    imports: tuple[ImportSettings, ...] = ()
    translate: TranslateSettings = TranslateSettings()
    augment: AugmentSettings = AugmentSettings()
    dedup: DedupSettings = DedupSettings()
    respond: RespondSettings = RespondSettings()
    annotate: AnnotateSettings = AnnotateSettings()
    split: SplitSettings = SplitSettings()

    @classmethod
    def moved(cls, settings: dict[str, Any], move: Move) -> dict[str, Any]:
        """See ``ConfigFile.moved``: lists of elements, and what judges read."""
        elements = settings.get("elements")
        if isinstance(elements, dict) and isinstance(elements.get("extra"), str):
            settings = settings | {"elements": elements | {"extra": move(elements["extra"])}}
        return moved_judges(settings, move)

    @model_validator(mode="after")
    def _models_are_there(self) -> Self:
        judging = (judge.model for judge in self.seats.sitting.values() if judge.model)
        named = [self.seats.writer, *self.seats.responders, *judging]
        known = {GRAMMAR, *self.models}
        for name in named:
            if name not in known:
                raise ValueError(f"no model is called '{name}'; there are {', '.join(sorted(known))}")
        if len(self.seats.judges) < 2:
            raise ValueError("seats.judges: at least two are needed; one alone always agrees with itself")
        if GRAMMAR in self.models:
            raise ValueError(f"'{GRAMMAR}' is the name of the writer that is no model; call yours otherwise")
        guards = {judge.name: judge.guard for judge in self.seats.sitting.values()}
        for judge in self.seats.sitting.values():
            if judge.guard != (other := guards[judge.name]):
                raise ValueError(f"'{judge.guard}' and '{other}' would both sign as '{judge.name}': rename one")
        if len(set(self.seats.responders)) < len(self.seats.responders):
            raise ValueError("a responder is named twice")
        return self

    @model_validator(mode="after")
    def _judges_are_apart(self) -> Self:
        """Agreement is between two, and what the judges differ on is for somebody else to decide."""
        # What is for trying may be decided by one of them, for a bare machine has no third one.
        sitting = places_of(self.seats.judges) if self.for_trying else self.seats.sitting
        known: dict[str, str] = {}
        for place, judge in sitting.items():
            name, _, file = judge.guard.partition(":")
            model = self.models[judge.model].model if judge.model else file or f"the guard {name}"
            if (other := known.setdefault(model, place)) != place:
                told = "it would decide for itself" if place == "seats.arbiter" else "their agreement would say nothing"
                raise ValueError(f"{place}: '{judge.name}' judges with what {other} judges with, {model}: {told}")
        return self

    @property
    def few_responders(self) -> str:
        """What is to be said where fewer than ``FAMILIES`` models answer; else empty."""
        count = len(self.seats.responders)
        if count >= FAMILIES:
            return ""
        return (
            f"responders: {count}; a set to train on wants {FAMILIES} or more, of different families, or a guard "
            "learns the manner of few"
        )

    @property
    def offline(self) -> bool:
        """Whether what comes out is for trying the pipeline, not for training: it is said so, or a grammar's."""
        return self.for_trying or GRAMMAR in (self.seats.writer, *self.seats.responders)


def moved_judges(settings: dict[str, Any], move: Move) -> dict[str, Any]:
    """Unchecked settings with the names of files moved that their judges and their arbiter read."""
    seats = settings.get("seats")
    if not isinstance(seats, dict):
        return settings
    found = dict(seats)
    if isinstance(judges := seats.get("judges"), list):
        found["judges"] = [_moved_judge(judge, move) for judge in judges]
    if "arbiter" in seats:
        found["arbiter"] = _moved_judge(seats["arbiter"], move)
    return settings | {"seats": found}


def _moved_judge(judge: Any, move: Move) -> Any:
    if not isinstance(judge, dict):
        return judge
    found = dict(judge)
    name, sign, file = str(judge.get("guard", "")).partition(":")
    if file:
        found["guard"] = f"{name}{sign}{move(file)}"
    if isinstance(options := judge.get("options"), dict):
        found["options"] = {key: move(one) if isinstance(one, str) else one for key, one in options.items()}
    return found
