"""Which rows people are to label: those on which judges differ, by quotas for each scenario and source."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, NonNegativeInt, field_validator

from libra_guard.bench.leakage import Leak, find_leaks
from libra_guard.bench.rows import NO_SCENARIO, BenchRow, read_bench_rows
from libra_guard.bench.votes import disagree, folder_votes, own_votes
from libra_guard.configuration import ConfigFile, Probability
from libra_guard.errors import UsageError
from libra_guard.io import BadRow, dumps
from libra_guard.records import Vote
from libra_guard.taxonomy import SCENARIOS, SUB_CATEGORIES, scenario

ANY = "*"
"""In place of a source: whichever."""


def _known(name: str) -> str:
    try:
        return scenario(name).name
    except UsageError as error:
        raise ValueError(str(error)) from None


def _any_alone(quota: int | dict[str, int]) -> int | dict[str, int]:
    if isinstance(quota, dict) and ANY in quota and len(quota) > 1:
        raise ValueError(f"'{ANY}' is any source, so that a row could count twice: name it alone, or name sources only")
    return quota


Quota = Annotated[NonNegativeInt | dict[str, NonNegativeInt], AfterValidator(_any_alone)]


class SelectConfig(ConfigFile):
    """How many rows of what kind a benchmark is to have."""

    kind: ClassVar[str] = "selection of rows"

    seed: int = 0
    quota: Quota = 0
    """Rows of each scenario that ``quotas`` does not name: of whatever source, or by source."""
    quotas: dict[Annotated[str, AfterValidator(_known)], Quota] = Field(default_factory=dict)
    """The same for single scenarios, by any of their names."""
    agreed_share: Probability = 0.0
    """Share of each quota that is filled with rows on which the judges agree, so that a benchmark is not all hard."""

    @field_validator("quotas", mode="before")
    @classmethod
    def _once(cls, value: Any) -> Any:
        names = Counter(_known(str(name)) for name in value) if isinstance(value, Mapping) else Counter[str]()
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"'{twice[0]}' stands there under two names")
        return value

    def cells(self) -> Iterator[tuple[str, str, int]]:
        """Scenario, source (``*``: any) and the number of rows wanted."""
        for one in SCENARIOS:
            quota = self.quotas.get(one.name, self.quota)
            for source, wanted in ({ANY: quota} if isinstance(quota, int) else quota).items():
                yield one.name, source, wanted


@dataclass(frozen=True)
class Candidate:
    """A row with its votes."""

    row: BenchRow
    votes: tuple[Vote, ...]
    hard: bool
    """Whether the judges differ on it."""

    def as_dict(self) -> dict[str, Any]:
        """For the file of the rows selected."""
        votes = [vote.model_dump(mode="json") for vote in self.votes]
        return {**self.row.model_dump(), "difficulty": "disagreed" if self.hard else "agreed", "votes": votes}


@dataclass(frozen=True)
class Filled:
    """What became of one quota."""

    scenario: str
    source: str
    wanted: int
    hard: int
    """Rows taken on which the judges differ."""
    agreed: int

    @property
    def short(self) -> int:
        """Rows wanted and not found."""
        return self.wanted - self.hard - self.agreed

    def __str__(self) -> str:
        where = self.scenario + ("" if self.source == ANY else f", {self.source}")
        return f"{where}: {self.hard} hard and {self.agreed} agreed of {self.wanted}"


@dataclass(frozen=True)
class Selection:
    """The rows selected, in the order of the data, and what was left out and why."""

    rows: list[Candidate]
    filled: list[Filled]
    rejects: list[BadRow]
    no_scenario: int
    """Rows of no scenario: no fault, and no quota asks for them."""
    leaks: list[Leak]
    complaints: list[str]


def select(data: str, judges: Sequence[Path], config: SelectConfig, against: Sequence[str] = ()) -> Selection:
    """Chooses the rows of a benchmark.

    Within a quota, the sub-categories take turns, so that none starves; within a sub-category a seeded draw decides,
    which depends on the row's id alone and not on what stands around it.

    Args:
        data: File or folder of rows with questions and answers, ``data/`` of a pipeline's run among them; with
            ``votes`` where no judges are given.
        judges: Folders that ``libra infer`` wrote over the same rows, one a judge.
        config: The quotas.
        against: Training data: rows whose question stands there are left out before people spend time on them.

    Raises:
        UsageError: A file is missing, no quota is above zero, or there are fewer than two judges.
        DataError: A folder holds no predictions.
    """
    if not any(wanted for _, _, wanted in config.cells()):
        raise UsageError("no rows are asked for: give a quota above 0")
    if len(judges) == 1:
        raise UsageError("one judge cannot disagree: give two or more, or rows with votes and no judge")
    found = list(read_bench_rows(data))
    bad = [item for item in found if isinstance(item, BadRow)]
    rejects = [item for item in bad if item.reason != NO_SCENARIO]
    no_scenario = len(bad) - len(rejects)
    pairs = [item for item in found if not isinstance(item, BadRow)]
    rows, complaints = [row for row, _ in pairs], list[str]()
    votes: Sequence[Sequence[Vote] | None]
    if judges:
        votes, complaints = folder_votes(rows, judges)
    else:
        votes = own_votes(data, [record for _, record in pairs], rejects)
    complaints += _unknown_sources(config, {row.source for row in rows})
    leaks = find_leaks(rows, against)
    leaked = {leak.row for leak in leaks}
    candidates = list[Candidate]()
    for row, said in zip(rows, votes, strict=True):
        # What leaks, and whose votes are none, is told already.
        if row.id in leaked or said is None:
            continue
        hard = disagree(said)
        if hard is None:
            readable = sum(vote.label is not None for vote in said)
            rejects.append(BadRow(data, 0, f"{readable} of {len(said)} votes can be read", dumps(row.model_dump())))
            continue
        candidates.append(Candidate(row, tuple(said), hard))
    taken, filled = _fill(candidates, config)
    rows_taken = [c for c in candidates if c.row.id in taken]
    return Selection(rows_taken, filled, rejects, no_scenario, leaks, complaints)


def _unknown_sources(config: SelectConfig, sources: set[str]) -> Iterator[str]:
    for source in dict.fromkeys(source for _, source, wanted in config.cells() if wanted and source != ANY):
        if source not in sources:
            near = get_close_matches(source, sources, n=1)
            there = f"is it '{near[0]}'?" if near else f"there are {', '.join(sorted(sources - {''})) or 'none'}"
            yield f"no row has the source '{source}'; {there}"


def _fill(candidates: Sequence[Candidate], config: SelectConfig) -> tuple[set[str], list[Filled]]:
    taken, filled = set[str](), list[Filled]()
    for name, source, wanted in config.cells():
        if not wanted:
            continue
        fitting = [c for c in candidates if c.row.category_name == name and source in (ANY, c.row.source)]
        easy = round(wanted * config.agreed_share)
        chosen = [
            _take([c.row for c in fitting if c.hard is hard], count, config.seed)
            for hard, count in ((True, wanted - easy), (False, easy))
        ]
        taken.update(*chosen)
        filled.append(Filled(name, source, wanted, len(chosen[0]), len(chosen[1])))
    return taken, filled


def _take(rows: Iterable[BenchRow], count: int, seed: int) -> list[str]:
    """Ids of at most ``count`` rows, the sub-categories taking turns."""
    queues: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        queues[row.sub_category_name].append(row.id)
    for queue in queues.values():
        queue.sort(key=lambda name: (Random(f"{seed}:select:{name}").random(), name), reverse=True)
    order = [queues[name] for name in (*(sub.name for sub in SUB_CATEGORIES), "") if name in queues]
    chosen = list[str]()
    while len(chosen) < count and any(order):
        chosen += [queue.pop() for queue in order if queue][: count - len(chosen)]
    return chosen
