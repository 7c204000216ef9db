"""What every step is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from libra_guard.data.near_duplicates import Engine
from libra_guard.predict.shards import Shard
from libra_guard.synth.config import SynthConfig
from libra_guard.synth.progress import Advance
from libra_guard.synth.seats.cast import Cast
from libra_guard.synth.seats.failure import Failure

AT_ONCE = 256
"""Rows that are asked for between two looks at the progress."""
_EACH = 4
"""Rows for each worker of a model between two looks: towards their end some have nothing to do."""


class Reject(NamedTuple):
    """A row that a step did not let pass."""

    reason: str
    row: dict[str, Any]
    failed: bool = False
    """Whether a model failed on it, so that another run may have more luck."""

    @classmethod
    def of(cls, failure: Failure, row: BaseModel | dict[str, Any]) -> Reject:
        """A row that a model did not bring, with what it said instead."""
        data = row.model_dump(mode="json") if isinstance(row, BaseModel) else dict(row)
        return cls(failure.reason, {**data, **({"said": failure.text} if failure.text else {})}, failure.model)


@dataclass(frozen=True)
class Done:
    """What a step made."""

    rows: Collection[BaseModel]
    rejects: Collection[Reject] = ()
    figures: dict[str, Any] = field(default_factory=dict)
    """What else is to be known of it, for the step's record."""
    files: Sequence[str] = ()
    """What it wrote besides its rows, as paths in the run's folder."""


@contextmanager
def _unseen(_: str, __: int | None) -> Iterator[Advance]:
    yield lambda _: None


@dataclass(frozen=True)
class Work:
    """What a step is given."""

    config: SynthConfig
    cast: Cast
    data: Path
    """Folder that paths of public sets are relative to."""
    shard: Shard = field(default_factory=Shard)
    engine: Engine = Engine.LOCAL
    progress: Callable[[str, int | None], Any] = _unseen
    """A context manager of an ``Advance``, from what is done and how many rows there are."""
    records: Sequence[dict[str, Any]] = ()
    """What the steps before wrote down of themselves, each part for itself; of the step that tells it."""

    def part(self, rows: Collection[Any]) -> list[Any]:
        """Those of this shard."""
        part = self.shard.range(len(rows))
        return [*islice(rows, part.start, part.stop)]

    def path(self, name: str) -> str:
        """A path of the settings: as it is written where there is such a file, else in the data folder."""
        return name if "://" in name or Path(name).exists() else str(self.data / name)


def at_once(workers: Iterable[int], least: int = AT_ONCE) -> int:
    """Rows between two looks at the progress: enough for the model with the most workers, a multiple of ``least``."""
    return ceil(_EACH * max(workers) / least) * least


def pieces(rows: Sequence[Any], size: int = AT_ONCE) -> Iterator[Sequence[Any]]:
    """The rows in groups of ``size``, in order."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
