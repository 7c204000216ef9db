"""A guard over a file: sharded, resumable, every row accounted for.

The input is cut into chunks by row number. A chunk's rejects are written first, then its verdicts, each in one append
that waits for the disk. A resumed run walks input and output side by side, finds the first chunk that is not whole,
judges that whole chunk again (so every text has the same neighbours as before) and writes what is missing: the files
end up with the bytes of an uninterrupted run.

Rows that the model failed on are rejects with ``failed``. Asked to retry, a run that is whole judges them once more and
replaces both files.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from libra_guard.errors import DataError, UsageError
from libra_guard.guards.base import Guard
from libra_guard.hub import Hub, pinned
from libra_guard.io import count_rows, dumps, file_hash, list_files, read_rows
from libra_guard.predict.journal import Journal, beside, replace_both, settle
from libra_guard.predict.judging import judge_jobs, output_line
from libra_guard.predict.record import Asked, keep_record, read_record
from libra_guard.predict.rows import ADDED, Fields, Job, Reject, chunks, read_jobs, row_key
from libra_guard.predict.shards import RECORD, REJECTS, Shard, alone_in, check_folder, join_records
from libra_guard.predict.taken_up import TAKEN_UP, as_verdict, key_of, look_at, rows_taken_up
from libra_guard.records import Label, Verdict

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Settings:
    """What a run does; two runs with other settings do not share a folder."""

    data: str
    out: Path
    shard: Shard = field(default_factory=Shard)
    fields: Fields = field(default_factory=Fields)
    explain: bool = False
    encoding: str | None = None
    chunk: int = 64
    """Rows judged and written together; a kill loses at most so much work."""

    def __post_init__(self) -> None:
        if not 0 <= self.shard.rank < self.shard.count:
            raise UsageError(f"there is no shard {self.shard.rank} of {self.shard.count}; they count from 0")
        if self.chunk < 1:
            raise UsageError(f"the chunk is {self.chunk}; at least 1 row is judged at a time")

    @property
    def predictions(self) -> Path:
        """Where the verdicts go."""
        return self.out / f"{self.shard}.jsonl"

    @property
    def rejects(self) -> Path:
        """Where the rows go that cannot be judged; of several shards, each has its own file."""
        return self.out / self.shard.own(REJECTS)

    @property
    def record(self) -> Path:
        """Where it is written what ran; of several shards, each has its own file."""
        return self.out / self.shard.own(RECORD)

    @property
    def written(self) -> set[Path]:
        """All files of the folder that the run writes, its other shards' too."""
        shards = [Shard(rank, self.shard.count) for rank in range(self.shard.count)]
        own = {name for one in shards for name in (f"{one}.jsonl", one.own(REJECTS), one.own(RECORD))}
        return {self.out / name for name in (RECORD, REJECTS, *own)}


@dataclass
class Outcome:
    """What a run did."""

    judged: int = 0
    """Verdicts in the file, those of earlier runs included."""
    resumed: int = 0
    """Of them, those that stood there already."""
    taken_up: int = 0
    """Of these, those that another program wrote."""
    retried: int = 0
    """Of them, those that the model had failed on before."""
    rejected: int = 0
    failed: int = 0
    """Of them, those that the model failed on."""
    cut: int = 0
    """Of the rejected, those with which further rows may be lost; see ``BadRow.more``."""
    unreadable: int = 0
    """Verdicts whose answer could not be read; counted over this run and the ones before it."""
    flagged: int = 0


def run(
    guard: Guard,
    settings: Settings,
    *,
    command: str = "",
    asked: Asked | None = None,
    progress: Progress = lambda _: None,
    retry: bool = False,
    take_up: bool = False,
) -> Outcome:
    """Judges every row of the shard.

    Args:
        guard: Judges.
        settings: What and where.
        command: Kept in ``run.json``.
        asked: What the guard was loaded by; kept there too, without secrets, for ``libra cascade``.
        progress: Called with the number of rows that were done, chunk by chunk.
        retry: Once all rows are done, judge those again that the model failed on in earlier runs.
        take_up: Go on with predictions that stand there without a record, as the published script leaves them: they
            stay as they are, and the record tells how many there were. By default they are refused.

    Returns:
        The counts, over this run and those that it resumed.

    Raises:
        UsageError: The folder holds another run's output, another process writes to it, or it is where the data are.
        Exception: Not one row of a chunk could be judged, nor a greeting: the model or the server is gone. Resume
            later.
    """
    spare_data(settings.data, settings.out, settings.written)
    # What is recorded is what is read, whatever is pushed to a hub meanwhile.
    source = str(pinned(settings.data))
    what, how = _describe(guard, settings, source, command)
    if asked is not None:
        how["asked"] = asked.told()
    settings = replace(settings, data=source)
    outcome = Outcome()
    with ExitStack() as open_files:
        # Whoever comes second sees the record of the first, and finds its files locked.
        with alone_in(settings.out):
            check_folder(settings.out, settings.shard, what)
            if not settings.record.exists() and _size(settings.predictions):
                if not take_up:
                    raise UsageError(
                        f"{settings.predictions} is there without {settings.record.name}: choose another --out"
                    )
                how[TAKEN_UP] = look_at(settings.predictions, _shard_jobs(settings), settings.fields)
            keep_record(settings.record, what, how)
            taken_up = rows_taken_up(read_record(settings.record))
            settle(settings.predictions, settings.rejects)
            lost = None if settings.rejects.exists() else settings.rejects.name
            verdicts = open_files.enter_context(Journal(settings.predictions))
            rejects = open_files.enter_context(Journal(settings.rejects))
        # Of a retry that was killed before it was decided.
        beside(settings.predictions).unlink(missing_ok=True)
        resume = _Resume(verdicts.written(), rejects.written(), outcome, lost, taken_up)
        for chunk in chunks(_shard_jobs(settings), settings.chunk):
            if not resume.covers(chunk):
                _judge_chunk(guard, settings, chunk, resume, verdicts, rejects, outcome)
            progress(len(chunk))
        resume.finish()
        if retry and resume.failed:
            _judge_again(guard, settings, resume.failed, rejects, outcome)
    if settings.shard.count > 1:
        join_records(settings.out)
    return outcome


def spare_data(data: str, out: Path, written: Iterable[Path]) -> None:
    """Sees to it that a run does not write over what it reads.

    Args:
        data: What is read.
        out: The folder that is written to.
        written: The files that are.

    Raises:
        UsageError: The data are one of these files, or the folder itself.
    """
    if Hub.of(data):
        return
    if Path(data).is_dir() and out.resolve() == Path(data).resolve():
        raise UsageError(f"{out} is the folder of the data: choose another --out")
    there = [path for path in written if path.exists()]
    for file in list_files(data):
        if any(file.samefile(path) for path in there):
            raise UsageError(f"{file} is read, and the run would write over it: choose another --out")


class _Resume:
    """Walks the files of an earlier run in step with the input."""

    def __init__(
        self,
        verdicts: Iterator[dict[str, Any]],
        rejects: Iterator[dict[str, Any]],
        outcome: Outcome,
        lost: str | None,
        taken_up: int,
    ) -> None:
        self._verdicts = verdicts
        self._next = next(verdicts, None)
        # Row number → whether the model failed on it, and whether further rows may be lost with it.
        told = {reject.get("number"): (reject.get("failed") is True, reject.get("more") is True) for reject in rejects}
        self.rejected = told.keys()
        self.failed = {number for number, (failed, _) in told.items() if failed}
        self._lost = lost
        self._taken_up, self._place = taken_up, 0
        self._outcome = outcome
        outcome.rejected, outcome.failed = len(told), len(self.failed)
        outcome.cut = sum(more for _, more in told.values())
        self.done: set[int] = set()

    def covers(self, chunk: list[Job | Reject]) -> bool:
        """Whether the chunk is whole; ``done`` then or else holds the numbers of its rows whose verdicts stand."""
        self.done = set()
        whole = True
        for job in chunk:
            self._place += 1
            if job.number in self.rejected:
                continue
            # Another program may have judged what is a reject here.
            others = self._place <= self._taken_up
            if (isinstance(job, Reject) and not others) or self._next is None:
                whole = False
                continue
            if row_key({k: v for k, v in self._next.items() if k not in ADDED}) != key_of(job):
                raise UsageError(self._misfit(job))
            self.done.add(job.number)
            others &= "verdict" not in self._next
            _count(self._outcome, as_verdict(self._next) if others else _verdict(self._next))
            self._outcome.resumed += 1
            self._outcome.taken_up += others
            self._next = next(self._verdicts, None)
        return whole

    def _misfit(self, job: Job | Reject) -> str:
        at = job.row if isinstance(job, Job) else job
        place = f"the output so far does not fit line {at.line} of {at.file}"
        if self._lost:
            gone = f"{self._lost}, where the rows without a verdict stand, is gone"
            return f"{place}: {gone}; put it back, or choose another --out"
        why = "it was written from other data, or it or its rejects were changed"
        return f"{place}: {why}; choose another --out, or move it away"

    def finish(self) -> None:
        """Raises DataError if the output holds more than the input."""
        if self._next is not None:
            raise DataError("the output holds verdicts on rows that are not in the data: choose another --out")


def _judge_chunk(
    guard: Guard,
    settings: Settings,
    chunk: list[Job | Reject],
    resume: _Resume,
    verdicts: Journal,
    rejects: Journal,
    outcome: Outcome,
) -> None:
    valid = [job for job in chunk if isinstance(job, Job)]
    jobs = [job for job in valid if job.number not in resume.rejected]
    # A valid row that is rejected already failed the whole batch, so the others were judged one by one.
    found = _judge(guard, settings, jobs, alone=len(jobs) < len(valid))
    results = {job.number: result for job, result in zip(jobs, found, strict=True)}
    fresh: list[Reject] = []
    lines: list[dict[str, Any]] = []
    for job in chunk:
        # What stands there was judged for its neighbours' sake alone.
        if job.number in resume.rejected or job.number in resume.done:
            continue
        result = job if isinstance(job, Reject) else results[job.number]
        if isinstance(result, Reject):
            fresh.append(result)
        elif isinstance(job, Job):
            lines.append(output_line(job, result))
            _count(outcome, result)
    rejects.append(r.as_dict() for r in fresh)
    outcome.rejected += len(fresh)
    outcome.failed += sum(reject.failed is True for reject in fresh)
    outcome.cut += sum(reject.more is True for reject in fresh)
    verdicts.append(lines)


def _judge_again(guard: Guard, settings: Settings, failed: set[Any], rejects: Journal, outcome: Outcome) -> None:
    """Judges the rows that failed and rewrites both files, each verdict in its row's place.

    Only once all rows are done: the next resume finds no chunk to judge in other company than before. What was judged
    when the model goes away is kept.
    """
    rejected = {reject.get("number") for reject in rejects.written()}
    judged: set[Any] = set()
    reasons: dict[Any, str] = {}
    stopped: BaseException | None = None
    with settings.predictions.open("rb") as standing, beside(settings.predictions).open("wb") as new:
        for chunk in chunks(_shard_jobs(settings), settings.chunk):
            jobs = [job for job in chunk if isinstance(job, Job) and job.number in failed and stopped is None]
            found: list[Verdict | Reject] = []
            try:
                # Alone, as the rows of a chunk that failed are: the bytes do not depend on which of them failed.
                found = _judge(guard, settings, jobs, alone=True)
            except (Exception, KeyboardInterrupt) as error:
                stopped = error
            results = {job.number: (job, result) for job, result in zip(jobs, found, strict=False)}
            for row in chunk:
                job, result = results.get(row.number, (None, None))
                if job is not None and isinstance(result, Verdict):
                    new.write((dumps(output_line(job, result)) + "\n").encode())
                    judged.add(row.number)
                    _count(outcome, result)
                elif row.number not in rejected:
                    new.write(standing.readline())
                if isinstance(result, Reject):
                    reasons[row.number] = result.reason
        new.flush()
        os.fsync(new.fileno())
    left = (reject for reject in rejects.written() if reject.get("number") not in judged)
    lines = (dumps({**r, "reason": reasons.get(r.get("number"), r.get("reason"))}) + "\n" for r in left)
    # A second process looks for the two files before or after, not between.
    with alone_in(settings.out):
        replace_both(settings.predictions, settings.rejects, lines)
    outcome.retried = len(judged)
    outcome.rejected -= len(judged)
    outcome.failed -= len(judged)
    if stopped is not None:
        raise stopped


def _judge(guard: Guard, settings: Settings, jobs: list[Job], *, alone: bool) -> list[Verdict | Reject]:
    found = judge_jobs(guard, jobs, target=settings.fields.target, explain=settings.explain, alone=alone)
    return [job.noted(one) if isinstance(one, Verdict) else one for job, one in zip(jobs, found, strict=True)]


def _count(outcome: Outcome, verdict: Verdict) -> None:
    outcome.judged += 1
    outcome.unreadable += not verdict.valid
    outcome.flagged += verdict.label is not Label.SAFE


def _verdict(line: dict[str, Any]) -> Verdict:
    try:
        return Verdict.model_validate(line.get("verdict"))
    except ValueError:
        raise DataError("a line of the output so far has no verdict: move the file away to begin anew") from None


def _shard_jobs(settings: Settings) -> Iterator[Job | Reject]:
    rows = read_rows(settings.data, encoding=settings.encoding)
    if settings.shard.count == 1:
        return read_jobs(rows, settings.fields)
    part = settings.shard.range(count_rows(settings.data, encoding=settings.encoding))
    return read_jobs(rows, settings.fields, part)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _describe(guard: Guard, settings: Settings, source: str, command: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """For ``run.json``: what makes another run, and what does not."""
    what: dict[str, Any] = {
        "guard": guard.provenance(),
        "data": settings.data,
        "data_hash": file_hash(source),
        "shard": str(settings.shard),
        "fields": asdict(settings.fields),
        "encoding": settings.encoding,
        "explain": settings.explain,
    }
    how: dict[str, Any] = {
        "command": command,
        "libra_guard": version("libra-guard"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    (what if _sampled_together(what["guard"]) else how)["chunk"] = settings.chunk
    return what, how


def _sampled_together(guard: dict[str, Any]) -> bool:
    """Whether the texts of a chunk are drawn with one seed, so that in other chunks they would be others.

    Args:
        guard: Its provenance, with those of the guards within it.
    """
    within = (value for value in guard.values() if isinstance(value, dict))
    here = guard.get("backend") == "transformers" and guard.get("temperature", 0) > 0
    return here or any(map(_sampled_together, within))
