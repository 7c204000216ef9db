"""A run: its steps in order, each done once.

A step reads the files of those before it and writes its own whole or not at all, with a record of what it was made of.
A step whose record fits is not done again. A file that a person changed stands as it is, and what follows is made of
it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from libra_guard.data.near_duplicates import Engine
from libra_guard.data.reasons import reason_kind
from libra_guard.errors import DataError, LibraError, UsageError
from libra_guard.io import BadRow, Hub, atomic, dumps, file_hash, list_files, read_rows, write_atomic
from libra_guard.predict.shards import Shard
from libra_guard.synth.config import SynthConfig
from libra_guard.synth.records import Answered, Judged, Query
from libra_guard.synth.release import Placement, release
from libra_guard.synth.seats.budget import Usage
from libra_guard.synth.seats.cast import Cast, identity
from libra_guard.synth.seats.store import CallStore
from libra_guard.synth.steps.annotate import annotate
from libra_guard.synth.steps.augment import augment
from libra_guard.synth.steps.dedup import dedup
from libra_guard.synth.steps.elements import Elements, ElementsRow, extend_elements
from libra_guard.synth.steps.imports import import_queries
from libra_guard.synth.steps.queries import write_queries
from libra_guard.synth.steps.respond import respond
from libra_guard.synth.work import Done, Reject, Work

Say = Callable[[str], None]
Rows = Sequence[Any]


@dataclass(frozen=True)
class Step:
    """One step."""

    do: Callable[[Work, dict[str, Rows], Path], Done]
    row: type[BaseModel]
    """What its file holds."""
    needs: tuple[str, ...] = ()
    """Steps whose files it reads."""
    sections: tuple[str, ...] = ()
    """Sections of the settings that it depends on."""
    seats: tuple[str, ...] = ()
    cut: bool = False
    """Whether shards can do it, each its own part."""


class Outcome(NamedTuple):
    """What a step came to."""

    step: str
    rows: int
    rejects: int
    failed: int
    """Rejects that a model failed on; the next run tries them again."""
    reasons: dict[str, int]
    skipped: bool
    """Whether it stood there already."""
    edited: bool = False
    """Whether a person changed its file since."""


class Run:
    """Does the steps of one folder.

    Args:
        config: The settings.
        out: The folder: ``steps/`` with a file each, ``data/`` with what comes out, and the store of calls.
        data: Folder that the paths of public sets are relative to.
        beside: Folder that files named by the settings are looked for in where they are not there as written.
        store: File of the calls; by default ``calls.sqlite`` in the folder, for each shard its own.
        shard: Which part of the steps that can be cut.
        engine: Where the steps run that are heavy on data.
        progress: See ``Work.progress``.
        say: Told what happens, for people.
    """

    def __init__(
        self,
        config: SynthConfig,
        out: Path,
        *,
        data: Path | None = None,
        beside: Path | None = None,
        store: Path | None = None,
        shard: Shard | None = None,
        engine: Engine = Engine.LOCAL,
        progress: Any = None,
        say: Say = lambda _: None,
    ) -> None:
        self.config, self.out, self.shard = config, out, shard or Shard()
        self._beside = beside or Path(".")
        self._data, self._engine, self._progress, self._say = data or Path("."), engine, progress, say
        self._store = store or out / self.shard.own("calls.sqlite")

    def go(self) -> list[Outcome]:
        """All steps; of a shard those that can be cut, up to the first that needs the others.

        Raises:
            LibraError: A step cannot be done, or lost too many rows; what was answered is kept.
        """
        return self.do(*STEPS)

    def do(self, *names: str) -> list[Outcome]:
        """These steps, in order. Those before them must have been done.

        Raises:
            LibraError: As for ``go``.
        """
        done = []
        with self._working() as work:
            self._check(work)
            for name in names:
                if self.shard.count > 1 and not STEPS[name].cut:
                    if self._whole(name):
                        continue
                    self._say(f"{name} needs all parts: once they are there, run it without --shard")
                    break
                done.append(self._step(name, work))
        return done

    def path(self, name: str, shard: Shard | None = None) -> Path:
        """The file of a step, or of a shard's part of it."""
        return self.out / "steps" / (shard or Shard()).own(f"{name}.jsonl")

    @contextmanager
    def _working(self) -> Iterator[Work]:
        with CallStore(self._store) as store:
            extra = {"progress": self._progress} if self._progress else {}
            cast = Cast(self.config, store, self._beside)
            yield Work(self.config, cast, self._data, self.shard, self._engine, **extra)

    def _check(self, work: Work) -> None:
        """Finds what is missing before hours are spent."""
        work.cast.check()
        for path in (*self.config.dedup.against, *(one.path for one in self.config.imports)):
            if not Hub.of(path):
                list_files(work.path(str(path)))

    def _step(self, name: str, work: Work) -> Outcome:
        step = STEPS[name]
        cut = self.shard if step.cut else Shard()
        inputs: dict[str, Rows] = {one: self._read(one, step) for one in step.needs}
        made_of = self._made_of(name, step, work)
        path, record_path = self.path(name, cut), self.path(name, cut).with_suffix(".json")
        record = _record(record_path)
        if path.exists() and record:
            edited = record.get("output") != file_hash(path)
            same = record.get("made_of") == json.loads(json.dumps(made_of, default=str))
            if edited or (same and not record.get("failed")):
                if edited:
                    self._say(f"{name}: {path} was changed since it was written, and stands as it is")
                return _outcome(name, record, skipped=True, edited=edited)
        before = dict(work.cast.used())
        # What a part is made of is a part already.
        cut_before = any(self._own_part(one, step) for one in step.needs)
        done = step.do(replace(work, shard=Shard()) if cut_before else work, inputs, self.out)
        failed = [reject for reject in done.rejects if reject.failed]
        allowed = self.config.failures * (len(done.rows) + len(failed))
        if len(failed) > allowed:
            raise LibraError(
                f"{name}: models failed on {len(failed)} rows, and {int(allowed)} may be lost (failures: "
                f"{self.config.failures}); the first: {failed[0].reason}; what was answered is kept: run again to go on"
            )
        _write(path, (row.model_dump(mode="json") for row in done.rows))
        _write(path.with_suffix(".rejects.jsonl"), (reject._asdict() for reject in done.rejects))
        record = {
            "step": name,
            "made_of": made_of,
            "output": file_hash(path),
            "rows": len(done.rows),
            "rejects": len(done.rejects),
            "failed": len(failed),
            "reasons": dict(sorted(Counter(reason_kind(reject.reason) for reject in done.rejects).items())),
            "figures": done.figures,
            "usage": {model: asdict(usage) for model, usage in _since(before, work.cast)},
        }
        write_atomic(record_path, json.dumps(record, ensure_ascii=False, indent=2, default=str) + "\n")
        return _outcome(name, record, skipped=False)

    def _made_of(self, name: str, step: Step, work: Work) -> dict[str, Any]:
        """Everything that the step's rows depend on."""
        settings = self.config.model_dump(mode="json", include=set(step.sections))
        against = [work.path(str(path)) for path in self.config.dedup.against] if name == "dedup" else []
        sets = [work.path(one.path) for one in self.config.imports] if name == "import" else []
        return {
            "seed": self.config.seed,
            "settings": settings,
            "seats": {seat: self._seat(seat) for seat in step.seats},
            "inputs": {one: [file_hash(path) for path in self._files(one, step)] for one in step.needs},
            "files": {path: file_hash(path) for path in [*against, *sets]},
            "texts": _texts_hash(),
        }

    def _seat(self, seat: str) -> Any:
        found = getattr(self.config.seats, seat)
        names = [found] if not isinstance(found, tuple) else list(found)
        return [self._sitting(one) for one in names if one is not None]

    def _sitting(self, one: Any) -> Any:
        models = self.config.models
        if isinstance(one, str):
            return [one, identity(models[one]), models[one].temperature] if one in models else one
        return [one.model_dump(mode="json"), identity(models[one.model]) if one.model else None]

    def _read(self, name: str, reader: Step) -> list[Any]:
        return [row for path in self._files(name, reader) for row in _rows(path, STEPS[name].row)]

    def _files(self, name: str, reader: Step) -> list[Path]:
        """What a step reads of another: of one that was cut as it is itself, its own part; else all."""
        return [self.path(name, self.shard)] if self._own_part(name, reader) else self._parts(name)

    def _own_part(self, name: str, reader: Step) -> bool:
        return reader.cut and self.shard.count > 1 and self.path(name, self.shard).exists()

    def _parts(self, name: str) -> list[Path]:
        """The files of a step: the whole one, or those of all shards.

        Raises:
            UsageError: They are not there.
        """
        whole = self.path(name)
        if whole.exists():
            return [whole]
        counts = {int(path.stem.rpartition("-")[2]) for path in whole.parent.glob(f"{name}-*-of-*.jsonl")
                  if not path.name.endswith(".rejects.jsonl")}  # fmt: skip
        if not counts:
            raise UsageError(f"{whole}: not there; do the step '{name}' first")
        if len(counts) > 1:
            raise UsageError(f"{whole.parent}: '{name}' is cut in {' and in '.join(map(str, sorted(counts)))} parts")
        count = counts.pop()
        parts = [self.path(name, Shard(rank, count)) for rank in range(count)]
        if missing := [path.name for path in parts if not path.exists()]:
            raise UsageError(f"{whole.parent}: parts of '{name}' are missing: {', '.join(missing)}")
        return parts

    def _whole(self, name: str) -> bool:
        return self.path(name).exists()


def _rows(path: Path, row: type[BaseModel]) -> Iterator[BaseModel]:
    for found in read_rows(path):
        if isinstance(found, BadRow):
            raise DataError(f"{found.file}:{found.line}: {found.reason}")
        try:
            yield row.model_validate(found.data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise DataError(f"{found.file}:{found.line}: {place}: {first['msg']}") from None


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with atomic(path) as stream:
        stream.writelines(dumps(row) + "\n" for row in rows)


def _record(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _outcome(name: str, record: dict[str, Any], *, skipped: bool, edited: bool = False) -> Outcome:
    counts = (record["rows"], record["rejects"], record["failed"], record["reasons"])
    return Outcome(name, *counts, skipped=skipped, edited=edited)


def _since(before: dict[str, Usage], cast: Cast) -> Iterator[tuple[str, Usage]]:
    for model, usage in cast.used():
        then = before.get(model, Usage())
        pairs = zip(vars(usage).values(), vars(then).values(), strict=True)
        spent = Usage(*(now - was for now, was in pairs))
        if spent.calls:
            yield model, spent


def _texts_hash() -> str:
    """The package's own texts that go into the data: prompts, elements, grammar."""
    digest = hashlib.sha256()
    for folder in ("elements", "grammar", "templates"):
        for file in sorted((files("libra_guard.synth") / "texts" / folder).iterdir(), key=lambda one: one.name):
            digest.update(f"{folder}/{file.name}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _elements(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    return extend_elements(work)


def _queries(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    return write_queries(work, Elements.of_rows(inputs["elements"]))


def _augment(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    seat = work.config.seats.writer
    writer = work.cast.writer(seat) if seat in work.config.models else None
    rows, failures = augment(work.part(inputs["queries"]), work.config.augment, writer, work.config.seed)
    return Done(rows, [Reject.of(failure, query) for query, failure in failures])


def _import(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    return import_queries(work)


def _dedup(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    held_out = [work.path(str(path)) for path in work.config.dedup.against]
    settings = work.config.dedup.model_copy(update={"against": ()})
    done = dedup([*inputs["augment"], *inputs["import"]], settings, held_out, engine=work.engine)
    dropped = [Reject(one.reason, one.row.model_dump(mode="json")) for one in done.rejected]
    return Done(done.kept, dropped, {"contamination": [one._asdict() for one in done.contamination]})


def _respond(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    return respond(work, inputs["dedup"])


def _annotate(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    return annotate(work, inputs["respond"])


def _split(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    return release(work, inputs["annotate"], inputs["augment"], out)


STEPS: dict[str, Step] = {
    "elements": Step(_elements, ElementsRow, (), ("elements", "queries"), ("writer",)),
    "queries": Step(_queries, Query, ("elements",), ("queries",), ("writer",), cut=True),
    "augment": Step(_augment, Query, ("queries",), ("augment",), ("writer",), cut=True),
    "import": Step(_import, Query, (), ("imports", "translate"), ("writer",), cut=True),
    "dedup": Step(_dedup, Query, ("augment", "import"), ("dedup",)),
    "respond": Step(_respond, Answered, ("dedup",), ("respond",), ("responders",), cut=True),
    "annotate": Step(_annotate, Judged, ("respond",), ("annotate",), ("judges", "arbiter"), cut=True),
    "split": Step(_split, Placement, ("annotate", "augment"), ("split", "name", "licence")),
}
"""In order."""
