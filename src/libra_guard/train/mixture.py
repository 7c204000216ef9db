"""From a recipe's sources to training examples, split by question."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from libra_guard.backends.base import Text
from libra_guard.data.base import normalise_question, split_of, split_text
from libra_guard.data.reasons import reason_kind
from libra_guard.data.registry import load_dataset_rows, load_importer
from libra_guard.errors import UsageError
from libra_guard.guards.normalise import normalise
from libra_guard.guards.sentences import split_sentences
from libra_guard.io import BadRow
from libra_guard.records import Label, Question, Sample
from libra_guard.train.generative_recipe import GenerativeRecipe
from libra_guard.train.outputs import Outputs
from libra_guard.train.recipe import Recipe, Source

_LIBRA = Outputs.of("libra")
_SHORTEST = 8
"""Characters of a sentence that is shown by itself; streams are cut into longer parts."""
_TOLD = 3
"""Reasons for which rows of a file were left out that are told."""


class Split(Enum):
    """What a part of the questions is for; the values are the keys of ``SPLITS``."""

    TRAIN = "train"
    CALIBRATE = "dev"
    TEST = "test"


@dataclass(frozen=True)
class Example:
    """What the classifier is shown and what it should say."""

    text: Text
    targets: tuple[float, ...]
    """One for each output, 1 or 0; NaN where the data do not tell (an unsafe sample without its scenario)."""
    source: str
    question: str

    @property
    def unsafe(self) -> bool:
        """Whether the first target is 1."""
        return self.targets[0] == 1


class Reader:
    """Reads sets once, and draws from them by a seed.

    Args:
        root: Folder that the sources' paths are relative to.
        seed: For drawing.
        outputs: What the examples' targets are of.
    """

    def __init__(self, root: str | Path, *, seed: int, outputs: Outputs = _LIBRA) -> None:
        self.root = Path(root)
        self.seed = seed
        self.outputs = outputs
        self.rejected: Counter[str] = Counter()
        """Rows that make no record, by set."""
        self._sides: dict[str, Split] = {}
        """Normalised questions of all that was read so far, and what each is for."""
        self._sets: dict[tuple[str, str], _Rows] = {}

    def afresh(self, seed: int) -> Reader:
        """Another one, for which nothing was drawn yet; what was read is not read again."""
        other = Reader(self.root, seed=seed, outputs=self.outputs)
        other._sets, other.rejected = self._sets, self.rejected
        return other

    def read(self, sources: Iterable[Source], split: Split) -> list[Example]:
        """The examples of one split, in a fixed order.

        Raises:
            UsageError: A source has none.
        """
        return [as_example(sample, source, self.outputs) for sample, source in self.pairs(sources, split)]

    def pairs(self, sources: Iterable[Source], split: Split) -> list[tuple[Sample, Source]]:
        """The samples of one split with their sources, in a fixed order.

        Raises:
            UsageError: A source has none.
        """
        return [(sample, source) for source in sources for sample in self.samples(source, split)]

    def samples(self, source: Source, split: Split) -> list[Sample]:
        """The samples of one source and split, in a fixed order, each as often as the source repeats it.

        Raises:
            UsageError: There are none, or a question of theirs was read for another split.
        """
        rng = random.Random(f"{self.seed}:{source.set}:{source.path}:{split.name}")
        groups: dict[tuple[str, Label], list[Sample]] = {}
        for sample in self._rows(source):
            question = normalise_question(split_text(sample))
            if self._stands(question, source, split) and _wanted(sample, source):
                groups.setdefault((question, sample.label), []).append(sample)
        if source.share < 1:
            asked = sorted({question for question, _ in groups}, key=lambda question: _draw(self.seed, question))
            drawn = set(asked[: ceil(len(asked) * source.share)])
            groups = {key: group for key, group in groups.items() if key[0] in drawn}
        kept = list(groups.values())
        if source.reads == "question":
            kept = [g[:1] for g in {k[0]: g for k, g in groups.items()}.values()]
        elif source.per_question:
            kept = [rng.sample(g, min(len(g), source.per_question)) for g in kept]
        rng.shuffle(kept)
        samples = [s for group in kept for s in group][: source.sample]
        place, part = f"{source.set} ({source.path})", split.name.lower()
        if not samples:
            raise UsageError(f"{place}: no sample for the {part} split; {self._why_none(source)}")
        for text in map(split_text, samples):
            side = self._sides.setdefault(normalise_question(text), split)
            if side is not split:
                # Only where a source is read whole.
                other = side.name.lower()
                raise UsageError(
                    f"{place}: a question of the {part} split stands in the {other} split too: {text[:80]}"
                )
        return [s for s in samples for _ in range(source.repeat)]

    @property
    def left_out(self) -> list[str]:
        """For people: how many rows of each set make no record, and the first of each reason."""
        reasons = [line for found in self._sets.values() for line in found.reasons]
        return [f"rows left out, by set: {dict(self.rejected) or 'none'}", *reasons]

    def _stands(self, question: str, source: Source, split: Split) -> bool:
        if source.unseen:
            return self._sides.get(question, Split.TEST) is Split.TEST
        return source.whole or split_of(question) == split.value

    def _why_none(self, source: Source) -> str:
        found, rows = self._read(source), self._rows(source)
        if not found.records and not found.bad:
            return "there are no rows in it"
        if rows and not any(_wanted(row, source) for row in rows):
            why = f"of {len(rows)} samples none is of the kind that the source asks for"
        elif rows and source.unseen:
            why = f"the questions of all {len(rows)} samples were trained or calibrated on"
        elif rows:
            why = f"{len(rows)} samples were read, but the hashes of their questions put all into other splits"
        elif found.records and source.reads == "question":
            why = "its questions carry no label; give them one (label: 不安全)"
        else:
            why = "no labelled answer was read"
        return "\n".join([f"{why}; {found.bad} rows make no sample:" if found.bad else why, *found.reasons])

    def _rows(self, source: Source) -> list[Sample]:
        asked = source.reads == "question"
        if load_importer(source.set).info.holds == "questions" and not asked:
            raise UsageError(
                f"{source.set} holds questions without labelled answers: answer and judge them first, or let the guard "
                "learn the questions themselves (reads: question)"
            )
        rows = self._read(source).records
        if not asked:
            return [row for row in rows if isinstance(row, Sample)]
        return [
            row if isinstance(row, Sample) else _as_sample(row)
            for row in rows
            if isinstance(row, Sample) or source.label or row.harmful is not None
        ]

    def _read(self, source: Source) -> _Rows:
        """A set's rows, read once; what makes no record is counted."""
        key = (source.set, source.path)
        if key not in self._sets:
            records: list[Sample | Question] = []
            bad, reasons = 0, dict[str, str]()
            for row in load_dataset_rows(source.set, self.root / source.path):
                if isinstance(row, BadRow):
                    bad += 1
                    reasons.setdefault(reason_kind(row.reason), f"  {row.file}:{row.line}: {row.reason}")
                else:
                    records.append(row)
            self._sets[key] = _Rows(records, bad, list(reasons.values())[:_TOLD])
            if bad:
                self.rejected[source.set] += bad
        return self._sets[key]


def check_mixture(recipe: Recipe | GenerativeRecipe, reader: Reader) -> None:
    """Draws all that a training of the recipe draws, to find out what is wrong with the data before it.

    Args:
        recipe: Of either kind.
        reader: One for which nothing was drawn yet.

    Raises:
        UsageError: A set is missing or empty, has no sample for what it is to be used for, or a question of two splits;
            or a part has one label where it needs both.
    """
    if isinstance(recipe, GenerativeRecipe):
        taught = {f"stage '{stage.name}'": stage.data for stage in recipe.stages}
    else:
        taught = {"the stages": [source for stage in recipe.stages for source in stage.data]}
        taught["ngrams"] = recipe.ngrams.data if recipe.ngrams else []
    for part, sources in taught.items():
        if sources:
            need_both_labels(part, reader.pairs(sources, Split.TRAIN))
    if recipe.calibration:
        pairs, benign = (
            reader.pairs(sources, Split.CALIBRATE) for sources in (recipe.calibration.data, recipe.calibration.benign)
        )
        # A join is fitted on both.
        need_both_labels("calibration", pairs if isinstance(recipe, GenerativeRecipe) else pairs + benign)
    if isinstance(recipe, Recipe):
        reader.pairs(recipe.calibration.questions, Split.CALIBRATE)
    reader.pairs(recipe.test, Split.TEST)


def need_both_labels(part: str, pairs: Sequence[tuple[Sample, Source]]) -> None:
    """Sees to it that what is learnt, or fitted on, has something of either label.

    Args:
        part: Of the recipe, in words.
        pairs: The samples with their sources.

    Raises:
        UsageError: There is one label only, or nothing.
    """
    labels = {_label(sample, source) for sample, source in pairs}
    if len(labels) < 2:
        found = f"all {len(pairs)} samples are {labels.pop().value}" if labels else "no samples are left"
        raise UsageError(f"{part}: {found}; both labels are needed")


class _Rows(NamedTuple):
    """What a set's file holds."""

    records: list[Sample | Question]
    bad: int
    """Rows that make no record."""
    reasons: list[str]
    """Why, for people: of each kind the first, with its place."""


def _as_sample(row: Question) -> Sample:
    """A question without an answer, for a reader of questions; with its label where its authors gave one."""
    label = Label.UNSAFE if row.harmful else Label.SAFE
    return Sample.model_construct(**row.model_dump(), response="", label=label, question_label=label)


def _wanted(sample: Sample, source: Source) -> bool:
    if source.scenarios is not None and sample.category_name not in source.scenarios:
        return False
    for field, values in source.where.items():
        if getattr(sample, field, None) not in (values if isinstance(values, list) else [values]):
            return False
    return source.reads != "sentence" or _label(sample, source) is Label.SAFE


def _draw(seed: int, question: str) -> bytes:
    """The same place in the draw for the same question, whatever other questions there are."""
    return hashlib.sha256(f"{seed}:{question}".encode()).digest()


def as_example(sample: Sample, source: Source, outputs: Outputs = _LIBRA) -> Example:
    """A sample as the classifier is shown it by its source."""
    question, response = normalise(sample.question), normalise(sample.response)
    if source.reads == "sentence":
        response = _sentence(response)
    text: Text = question if source.reads == "question" else ("" if source.reads == "answer" else question, response)
    targets = outputs.targets(sample, unsafe=_label(sample, source) is Label.UNSAFE)
    return Example(text, targets, source.called, sample.question)


def _sentence(response: str) -> str:
    """One of the sentences, the same whenever it is asked for; the whole where none is long enough."""
    found = [
        text for span in split_sentences(response) if len(text := response[span.start : span.end].strip()) >= _SHORTEST
    ]
    return random.Random(response).choice(found or [response])


def _label(sample: Sample, source: Source) -> Label:
    own = (sample.model_extra or {}).get("question_label") if source.reads == "question" else None
    return source.label or Label(own or sample.label)


def target_array(examples: Sequence[Example]) -> NDArray[np.float32]:
    """Targets of all examples, shape ``(n, outputs)``; NaN where unknown."""
    return np.array([e.targets for e in examples], dtype=np.float32)
