"""A guard over a file: sharded, resumable, every row accounted for.

The input is cut into chunks by row number. A chunk's rejects are written first, then its verdicts, each in one append
that waits for the disk. A resumed run walks input and output side by side, finds the first chunk that is not whole,
judges that whole chunk again (so every text has the same neighbours as before) and writes what is missing: the files
end up with the bytes of an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from libra_guard.errors import BackendError, DataError, UsageError
from libra_guard.guards.base import Guard
from libra_guard.guards.libra import answer_json
from libra_guard.io import count_rows, file_hash, read_rows, write_atomic
from libra_guard.predict.journal import Journal
from libra_guard.predict.rows import ADDED, Fields, Job, Reject, chunks, read_jobs, row_key
from libra_guard.predict.shards import RECORD, REJECTS, Shard, check_folder, join_records
from libra_guard.records import Conversation, Label, Target, Verdict

Progress = Callable[[int], None]
_CRITIC_SCORE = "不安全得分 {:.4f}"


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


@dataclass
class Outcome:
    """What a run did."""

    judged: int = 0
    """Verdicts in the file, those of earlier runs included."""
    resumed: int = 0
    """Of them, those that stood there already."""
    rejected: int = 0
    unreadable: int = 0
    """Verdicts whose answer could not be read; counted over this run and the ones before it."""
    flagged: int = 0


def run(guard: Guard, settings: Settings, *, command: str = "", progress: Progress = lambda _: None) -> Outcome:
    """Judges every row of the shard.

    Args:
        guard: Judges.
        settings: What and where.
        command: Kept in ``run.json``.
        progress: Called with the number of rows that were done, chunk by chunk.

    Returns:
        The counts, over this run and those that it resumed.

    Raises:
        UsageError: The folder holds another run's output, or another process writes to it.
        BackendError: Not one row of a chunk could be judged, nor a greeting: the model or the server is gone. Resume
            later.
    """
    _describe(guard, settings, command)
    outcome = Outcome()
    with Journal(settings.predictions) as verdicts, Journal(settings.rejects) as rejects:
        resume = _Resume(verdicts.written(), rejects.written(), outcome)
        for chunk in chunks(_shard_jobs(settings), settings.chunk):
            if not resume.covers(chunk):
                _judge_chunk(guard, settings, chunk, resume, verdicts, rejects, outcome)
            progress(len(chunk))
        resume.finish()
    if settings.shard.count > 1:
        join_records(settings.out)
    return outcome


class _Resume:
    """Walks the files of an earlier run in step with the input."""

    def __init__(self, verdicts: Iterator[dict[str, Any]], rejects: Iterator[dict[str, Any]], outcome: Outcome) -> None:
        self._verdicts = verdicts
        self._next = next(verdicts, None)
        self.rejected = {r.get("number") for r in rejects}
        self._outcome = outcome
        outcome.rejected = len(self.rejected)
        self.done: set[int] = set()

    def covers(self, chunk: list[Job | Reject]) -> bool:
        """Whether the chunk is whole; ``done`` then or else holds the numbers of its rows whose verdicts stand."""
        self.done = set()
        whole = True
        for job in chunk:
            if job.number in self.rejected:
                continue
            if isinstance(job, Reject) or self._next is None:
                whole = False
                continue
            if row_key({k: v for k, v in self._next.items() if k not in ADDED}) != job.key:
                raise UsageError(
                    f"the output so far does not fit line {job.row.line} of {job.row.file}: it was written from other "
                    "data, or changed; choose another --out, or move it away"
                )
            self.done.add(job.number)
            _count(self._outcome, _verdict(self._next))
            self._outcome.resumed += 1
            self._next = next(self._verdicts, None)
        return whole

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
    found = _judge(guard, jobs, settings, alone=len(jobs) < len(valid))
    results = {job.number: result for job, result in zip(jobs, found, strict=True)}
    fresh: list[Reject] = []
    lines: list[dict[str, Any]] = []
    for job in chunk:
        if job.number in resume.rejected:
            continue
        result = job if isinstance(job, Reject) else results[job.number]
        if isinstance(result, Reject):
            fresh.append(result)
        elif isinstance(job, Job) and job.number not in resume.done:
            lines.append({**job.row.data, "critic": critic(result), "verdict": result.model_dump(mode="json")})
            _count(outcome, result)
    rejects.append(r.as_dict() for r in fresh)
    outcome.rejected += len(fresh)
    verdicts.append(lines)


def _judge(guard: Guard, jobs: list[Job], settings: Settings, *, alone: bool) -> list[Verdict | Reject]:
    """Verdicts; where the whole batch failed, row by row, so that one bad row does not take the others with it."""
    if not jobs:
        return []
    if not alone:
        # What is wrong shows again row by row.
        with contextlib.suppress(BackendError, UsageError):
            return list(guard.judge([j.conversation for j in jobs], explain=settings.explain))
    results: list[Verdict | Reject] = []
    for job in jobs:
        try:
            results += guard.judge([job.conversation], explain=settings.explain)
        except (BackendError, UsageError) as error:
            results.append(job.reject(f"not judged: {error}"))
    if not any(isinstance(r, Verdict) for r in results):
        # The rows are at fault only if the model can still judge a greeting.
        answer = "你好！" if settings.fields.target is Target.RESPONSE else None
        guard.judge([Conversation.from_pair("你好", answer)], explain=settings.explain)
    return results


def critic(verdict: Verdict) -> str:
    """The model's own text, or the published JSON form where the guard has none; unreadable stays unreadable."""
    if verdict.raw is not None:
        return verdict.raw
    if verdict.label is None:
        return ""
    analysis = verdict.analysis
    if analysis is None and verdict.unsafe_score is not None:
        analysis = _CRITIC_SCORE.format(verdict.unsafe_score)
    return answer_json(verdict.label, analysis)


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


def _describe(guard: Guard, settings: Settings, command: str) -> None:
    """Writes ``run.json``, or refuses a folder whose ``run.json`` tells of another run."""
    if Path(settings.data).is_dir() and settings.out.resolve() == Path(settings.data).resolve():
        raise UsageError(f"{settings.out} is the folder of the data: choose another --out")
    check_folder(settings.out, settings.shard)
    what = {
        "guard": guard.provenance(),
        "data": settings.data,
        "data_hash": file_hash(settings.data),
        "shard": str(settings.shard),
        "fields": asdict(settings.fields),
        "encoding": settings.encoding,
        "explain": settings.explain,
        "chunk": settings.chunk,
    }
    how = {"command": command, "libra_guard": version("libra-guard"), "python": platform.python_version()}
    how |= {"machine": f"{platform.system()} {platform.machine()}"}
    path = settings.record
    if path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise UsageError(f"{path}: not JSON; choose another --out") from None
        wanted = json.loads(json.dumps(what))
        told = old if isinstance(old, dict) else {}
        other = [k for k, v in wanted.items() if k != "data" and told.get(k) != v]
        if other:
            found = f"{settings.out} holds another run (other {', '.join(other)})"
            raise UsageError(f"{found}: choose another --out, or empty the folder")
        return
    if settings.predictions.exists() and settings.predictions.stat().st_size:
        raise UsageError(f"{settings.predictions} is there without {path.name}: choose another --out")
    write_atomic(path, json.dumps({**what, **how}, ensure_ascii=False, indent=2) + "\n")
