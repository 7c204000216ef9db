"""A run: its steps in order, each done once.

A step reads the files of those before it and writes its own whole or not at all, with a record of what it was made of.
A step whose record fits is not done again. A file that a person changed stands as it is, and what follows is made of
it.
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from libra_guard import __version__
from libra_guard.data.near_duplicates import Engine
from libra_guard.data.reasons import reason_kind
from libra_guard.errors import LibraError, StoppedError, UsageError
from libra_guard.io import bytes_hash, file_hash
from libra_guard.predict.shards import Shard
from libra_guard.synth.again import Again
from libra_guard.synth.checks import check
from libra_guard.synth.config import SynthConfig
from libra_guard.synth.folder import Folder, StepRows
from libra_guard.synth.made_of import files_of, held_out, judges_of, settings_of
from libra_guard.synth.progress import in_shares
from libra_guard.synth.records import Answered, Judged, Query
from libra_guard.synth.release import Placement, release
from libra_guard.synth.seats.budget import BudgetSettings, Usage
from libra_guard.synth.seats.cast import Cast
from libra_guard.synth.seats.store import CallStore
from libra_guard.synth.steps.annotate import annotate
from libra_guard.synth.steps.augment import augment
from libra_guard.synth.steps.dedup import dedup
from libra_guard.synth.steps.elements import Elements, ElementsRow, extend_elements
from libra_guard.synth.steps.imports import import_queries
from libra_guard.synth.steps.queries import write_queries
from libra_guard.synth.steps.respond import respond
from libra_guard.synth.work import Done, Reject, Work, pieces

Say = Callable[[str], None]
Rows = Collection[Any]


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
    streams: bool = False
    """Whether it goes through its rows without holding them."""
    once: bool = False
    """Whether each id stands in its file once."""
    records: bool = False
    """Whether it also tells what the steps before it came to."""


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
    figures: dict[str, Any]
    """What else is to be known of it; of a step in parts nothing."""
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
        tell: Told what each step came to, as soon as it is done.
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
        tell: Callable[[Outcome], None] = lambda _: None,
    ) -> None:
        self.config, self.out, self.shard, self._tell = config, out, shard or Shard(), tell
        self._folder = Folder(out)
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
            check(work, {seat for name in names for seat in STEPS[name].seats})
            for name in names:
                if self.shard.count > 1 and not STEPS[name].cut:
                    if self._stands(name, work):
                        continue
                    break
                done.append(self._step(name, work))
                self._tell(done[-1])
        return done

    def path(self, name: str, shard: Shard | None = None) -> Path:
        """The file of a step, or of a shard's part of it."""
        return self._folder.path(name, shard)

    @contextmanager
    def _working(self) -> Iterator[Work]:
        with CallStore(self._store) as store:
            extra = {"progress": self._progress} if self._progress else {}
            # Nobody sees what other shards spend: each has its share.
            cast = Cast(self.config.model_copy(update={"budget": self._share()}), store, self._beside, self._say)
            try:
                yield Work(self.config, cast, self._data, self.shard, self._engine, **extra)
            except BaseException as error:
                cast.halt.tell(error)
                raise

    def _share(self) -> BudgetSettings:
        tokens, money, count = self.config.budget.tokens, self.config.budget.money, self.shard.count
        return self.config.budget.model_copy(
            update={
                "tokens": None if tokens is None else tokens // count,
                "money": None if money is None else money / count,
            }
        )

    def _stands(self, name: str, work: Work) -> bool:
        """Whether a shard finds a step done that is none of shards."""
        record = self._folder.record(name)
        if not record or not self.path(name).exists():
            self._say(f"{name} needs all parts: once they are there, run it without --shard")
            return False
        try:
            work = self._with_records(name, work)
            fits = self._folder.edited(name, record) or record["made_of"] == self._made_of(name, Shard(), work)
        except UsageError as error:
            self._say(f"{name}: {error}")
            return False
        if not fits:
            self._say(f"{name} stands there, but of other settings or parts: do it again without --shard")
        return fits

    def _step(self, name: str, work: Work) -> Outcome:
        step = STEPS[name]
        if step.cut and self.shard.count == 1 and self._folder.is_cut(name):
            return self._joined(name, work)
        cut = self.shard if step.cut else Shard()
        if cut.count > 1:
            self._folder.check_cut(name, cut)
        for one in step.needs:
            if not self._own_part(one, step, cut):
                self._check_parts(one, work)
        work = self._with_records(name, work)
        made_of = self._made_of(name, cut, work)
        record = self._folder.record(name, cut)
        if record and self.path(name, cut).exists():
            changed = self._folder.changed(record)
            if self._folder.edited(name, record, cut):
                changed.insert(0, self.path(name, cut))
            there = all((self.out / file).exists() for file in record["files"])
            becomes = "stands as it is" if there else "is made anew, for a file beside it is missing"
            for path in changed:
                self._say(f"{name}: {path} was changed since it was written, and {becomes}")
            if there and (changed or (record["made_of"] == made_of and not record["failed"])):
                return _outcome(name, [record], skipped=True, edited=bool(changed))
        if step.records:
            # It writes more than its own file: what it leaves when it is stopped is not what the record tells of.
            self._folder.forget(name, cut)
        # What a part is made of is a part already.
        elif any(self._own_part(one, step, cut) for one in step.needs):
            work = replace(work, shard=Shard())
        return self._done(name, cut, made_of, work)

    def _done(self, name: str, cut: Shard, made_of: dict[str, Any], work: Work) -> Outcome:
        step, before, again = STEPS[name], dict(work.cast.used()), work.cast.asked_again()
        done = step.do(work, {one: self._read(one, step, cut) for one in step.needs}, self.out)
        failed, reasons = [], Counter[str]()
        for reject in done.rejects:
            reasons[reason_kind(reject.reason)] += 1
            if reject.failed:
                failed.append(reject)
        allowed = self.config.failures * (len(done.rows) + len(failed))
        if len(failed) > allowed:
            raise StoppedError(
                f"{name}: models failed on {len(failed)} rows, and {int(allowed)} may be lost (failures: "
                f"{self.config.failures}); the first: {failed[0].reason}; what was answered is kept: run again to go on"
            )
        # A part may well be empty; where all are, the next step finds nothing.
        if not done.rows and cut.count == 1 and (done.rejects or done.figures.get("lacking") or not step.cut):
            self._folder.write_rows(name, cut, (), done.rejects)
            raise LibraError(
                f"{name} made nothing{_most(reasons)}; see {self.path(name).with_suffix('.rejects.jsonl')}"
            )
        record = {
            "step": name,
            "made_of": made_of,
            "rows": len(done.rows),
            "rejects": len(done.rejects),
            "failed": len(failed),
            "reasons": dict(sorted(reasons.items())),
            "figures": {**done.figures, **_asked_again(again, work.cast)},
            "files": self._folder.hashes(done.files),
            "usage": dict(_since(before, work.cast)),
            "versions": {"libra-guard": __version__, "python": platform.python_version()},
        }
        self._folder.write_rows(name, cut, done.rows, done.rejects)
        # What was read more than once may have been two things.
        if step.streams and self._made_of(name, cut, work) != made_of:
            raise StoppedError(f"{name}: a file that it reads was changed meanwhile; run again")
        self._folder.write_record(name, cut, record)
        return _outcome(name, [record], skipped=False)

    def _joined(self, name: str, work: Work) -> Outcome:
        """What the shards came to."""
        self._check_parts(name, work)
        return _outcome(name, self._folder.records([name]), skipped=True)

    def _check_parts(self, name: str, work: Work) -> None:
        """Makes sure that the parts of a step are whole and made of these settings, and those before them too.

        Raises:
            UsageError: They are not.
        """
        for cut in self._folder.cuts(name):
            if cut.count == 1:
                return
            path, record = self.path(name, cut), self._folder.record(name, cut)
            again = f"run --shard {cut.rank}/{cut.count} again, or delete the parts of '{name}'"
            if not record:
                raise UsageError(f"{path}: was not written to its end; {again}")
            if self._folder.edited(name, record, cut):
                continue
            now = self._made_of(name, cut, work)
            if other := [key for key, value in now.items() if record["made_of"].get(key) != value]:
                raise UsageError(f"{path}: is made of other {', '.join(other)} than are there now; {again}")
        for one in STEPS[name].needs:
            self._check_parts(one, work)

    def _with_records(self, name: str, work: Work) -> Work:
        """The work with what the steps before wrote down, for a step that tells of them."""
        return replace(work, records=self._folder.records(_before(name))) if STEPS[name].records else work

    def _made_of(self, name: str, cut: Shard, work: Work) -> dict[str, Any]:
        """Everything that the rows of a step, or of a part of it, depend on; as JSON gives it back."""
        step = STEPS[name]
        inputs = {one: [file_hash(path) for path in self._files(one, step, cut)] for one in step.needs}
        found = {**settings_of(step.sections, step.seats, work), "inputs": inputs, "files": files_of(name, work)}
        if step.records:
            found["records"] = bytes_hash(json.dumps(work.records).encode())
        return dict(json.loads(json.dumps(found, default=str)))

    def _read(self, name: str, reader: Step, cut: Shard) -> Rows:
        def renamed(number: int) -> None:
            self._say(f"{name}: {number} rows have the id of another text, and are read as made of it")

        rows = StepRows(self._files(name, reader, cut), STEPS[name].row, once=STEPS[name].once, renamed=renamed)
        of_all_parts = cut.count > 1 and not self._own_part(name, reader, cut)
        if of_all_parts or (reader.streams and self._engine is Engine.RAY):
            return rows
        # Of its iterator, for a list asks what has a length for it, which is one more reading.
        return [*iter(rows)]

    def _files(self, name: str, reader: Step, cut: Shard) -> list[Path]:
        """What a step reads of another: of one that was cut as it is itself, its own part; else all.

        Raises:
            UsageError: They are not there.
        """
        cuts = [cut] if self._own_part(name, reader, cut) else self._folder.cuts(name)
        if not cuts:
            raise UsageError(f"{self.path(name)}: not there; do the step '{name}' first")
        return [self.path(name, one) for one in cuts]

    def _own_part(self, name: str, reader: Step, cut: Shard) -> bool:
        return reader.cut and cut.count > 1 and self.path(name, cut).exists()


def _before(name: str) -> list[str]:
    return list(STEPS)[: list(STEPS).index(name)]


def _outcome(name: str, records: Sequence[dict[str, Any]], *, skipped: bool, edited: bool = False) -> Outcome:
    """Of a step, or of all its parts."""
    rows, rejects, failed = (sum(record[key] for record in records) for key in ("rows", "rejects", "failed"))
    reasons = sum((Counter(record["reasons"]) for record in records), Counter[str]())
    figures = records[0]["figures"] if len(records) == 1 else {}
    return Outcome(name, rows, rejects, failed, dict(reasons), skipped, figures, edited)


def _most(reasons: Counter[str]) -> str:
    told = ", ".join(f"{count} × {reason}" for reason, count in reasons.most_common(3))
    return f", but rejects: {told}" if told else ""


def _since(before: dict[str, Usage], cast: Cast) -> Iterator[tuple[str, dict[str, int]]]:
    """Calls and tokens of each model. No money: its last digits hang on the order in which it was added up."""
    for model, usage in cast.used():
        spent = asdict(usage - before.get(model, Usage()))
        if spent["calls"]:
            yield model, {name: count for name, count in spent.items() if name != "money"}


def _asked_again(before: dict[str, Counter[str]], cast: Cast) -> dict[str, dict[str, dict[str, int]]]:
    """Who was asked again since, why, and how often; nothing where nobody was."""
    since = {name: counts - before.get(name, Counter()) for name, counts in sorted(cast.asked_again().items())}
    told = {name: dict(sorted(counts.items())) for name, counts in since.items() if counts}
    return {"asked_again": told} if told else {}


def _elements(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    return extend_elements(work)


def _queries(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    return write_queries(work, Elements.of_rows([*inputs["elements"]]))


def _augment(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    seat = work.config.seats.writer
    writer = work.cast.writer(seat) if seat in work.config.models else None
    part = work.part(inputs["queries"])
    rows: list[Query] = []
    rejects: list[Reject] = []
    with work.progress("augment", len(part)) as advance:
        for piece in pieces(part):
            found, failures = augment(piece, work.config.augment, writer, work.config.seed)
            rows += found
            rejects += [Reject.of(failure, query) for query, failure in failures]
            advance(len(piece))
    return Done(rows, rejects)


def _import(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    return import_queries(work)


def _dedup(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    against = [work.path(str(path)) for path in work.config.dedup.against]
    settings = work.config.dedup.model_copy(update={"against": ()})
    # Real queries are scarce: where one repeats another, the real one stays.
    given = [inputs["import"], inputs["augment"]]
    # To count rows that are not held is to read them once more.
    number = None if work.engine is Engine.RAY else sum(map(len, given))
    with work.progress("dedup", number) as read, work.progress("dedup: comparing", number) as told:
        banded = in_shares(told, number or 0, settings.bands[0])
        rows = Again(lambda: chain(*given))
        done = dedup(rows, settings, against, engine=work.engine, advance=read, compared=banded)
    dropped = Again(
        lambda: (Reject(one.reason, one.row.model_dump(mode="json")) for one in done.rejected), len(done.rejected)
    )
    contamination = [{**one._asdict(), **held_out(one.file)} for one in done.contamination]
    return Done(done.kept, dropped, {"contamination": contamination})


def _respond(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    return respond(work, inputs["dedup"])


def _annotate(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    done = annotate(work, inputs["respond"])
    return replace(done, figures={**done.figures, "judges": judges_of(work)})


def _split(work: Work, inputs: dict[str, Rows], out: Path) -> Done:
    return release(work, [*inputs["annotate"]], [*inputs["augment"]], out)


STEPS: dict[str, Step] = {
    "elements": Step(_elements, ElementsRow, (), ("elements", "queries"), ("writer",), once=True),
    "queries": Step(_queries, Query, ("elements",), ("queries",), ("writer",), cut=True),
    "augment": Step(_augment, Query, ("queries",), ("augment",), ("writer",), cut=True),
    "import": Step(_import, Query, (), ("imports", "translate"), ("writer",), cut=True),
    "dedup": Step(_dedup, Query, ("augment", "import"), ("dedup",), streams=True, once=True),
    "respond": Step(_respond, Answered, ("dedup",), ("respond",), ("responders",), cut=True, once=True),
    "annotate": Step(_annotate, Judged, ("respond",), ("annotate",), ("judges", "arbiter"), cut=True, once=True),
    "split": Step(_split, Placement, ("annotate", "augment"), tuple(SynthConfig.model_fields), records=True),
}
"""In order."""
