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

import numpy as np
from numpy.typing import NDArray

from libra_guard.backends.base import Text
from libra_guard.data.base import normalise_question, split_of, split_text
from libra_guard.data.registry import load_dataset_rows, load_importer
from libra_guard.errors import UsageError
from libra_guard.guards.normalise import normalise
from libra_guard.guards.sentences import split_sentences
from libra_guard.io import BadRow
from libra_guard.records import Label, Question, Sample
from libra_guard.train.outputs import Outputs
from libra_guard.train.recipe import Source

_LIBRA = Outputs.of("libra")
_SHORTEST = 8
"""Characters of a sentence that is shown by itself; streams are cut into longer parts."""


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
        self.seen: set[str] = set()
        """Normalised questions of all examples read for training and calibration so far."""
        self.rejected: Counter[str] = Counter()
        self._sets: dict[tuple[str, str], list[Sample | Question]] = {}

    def read(self, sources: Iterable[Source], split: Split) -> list[Example]:
        """The examples of one split, in a fixed order.

        Raises:
            UsageError: A source has none.
        """
        return [
            as_example(sample, source, self.outputs) for source in sources for sample in self.samples(source, split)
        ]

    def samples(self, source: Source, split: Split) -> list[Sample]:
        """The samples of one source and split, in a fixed order, each as often as the source repeats it.

        Raises:
            UsageError: There are none.
        """
        rng = random.Random(f"{self.seed}:{source.set}:{source.path}:{split.name}")
        groups: dict[tuple[str, Label], list[Sample]] = {}
        for sample in self._rows(source):
            question = normalise_question(split_text(sample))
            here = question not in self.seen if source.unseen else split_of(question) == split.value
            if here and _wanted(sample, source):
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
        if not samples:
            read, bad = len(self._rows(source)), self.rejected[source.set]
            found = f"{read} samples were read, and {bad} rows of the set make none"
            if not read and not bad:
                found = "its questions carry no label; give them one (label: 不安全)"
            raise UsageError(f"{source.set} ({source.path}): no sample for the {split.name.lower()} split; {found}")
        if split is not Split.TEST:
            self.seen.update(normalise_question(split_text(s)) for s in samples)
        return [s for s in samples for _ in range(source.repeat)]

    def _rows(self, source: Source) -> list[Sample]:
        asked = source.reads == "question"
        if load_importer(source.set).info.holds == "questions" and not asked:
            raise UsageError(
                f"{source.set} holds questions without labelled answers: answer and judge them first, or let the guard "
                "learn the questions themselves (reads: question)"
            )
        rows = self._read(source)
        if not asked:
            return [row for row in rows if isinstance(row, Sample)]
        return [
            row if isinstance(row, Sample) else _as_sample(row)
            for row in rows
            if isinstance(row, Sample) or source.label or row.harmful is not None
        ]

    def _read(self, source: Source) -> list[Sample | Question]:
        """A set's rows, read once; what makes no record is counted."""
        key = (source.set, source.path)
        if key not in self._sets:
            rows = list(load_dataset_rows(source.set, self.root / source.path))
            self._sets[key] = [row for row in rows if not isinstance(row, BadRow)]
            if lost := len(rows) - len(self._sets[key]):
                self.rejected[source.set] += lost
        return self._sets[key]


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
    return Example(text, targets, source.set, sample.question)


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
