"""The files of a run's steps: where they are, what is written of each, and how they are read back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from libra_guard.errors import DataError, UsageError
from libra_guard.io import BadRow, atomic, dumps, file_hash, read_rows, write_atomic
from libra_guard.predict.shards import Shard
from libra_guard.synth.again import Again
from libra_guard.synth.made_of import content
from libra_guard.synth.records import Answered, Query, text_id
from libra_guard.synth.work import Reject

_KEYS = {"step", "made_of", "output", "rows", "rejects", "failed", "reasons", "figures", "files", "usage"}
_PART = re.compile(r"-(\d+)-of-(\d+)\.jsonl")


class Folder:
    """``steps/`` of a run.

    Args:
        out: The run's folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._steps = out / "steps"

    def path(self, name: str, cut: Shard | None = None) -> Path:
        """The file of a step, or of a shard's part of it."""
        return self._steps / (cut or Shard()).own(f"{name}.jsonl")

    def cuts(self, name: str) -> list[Shard]:
        """What there is of a step: the whole alone, or all parts of one number; nothing where there is neither.

        Raises:
            UsageError: There are both, parts of several numbers, or not all parts.
        """
        whole, parts = self.path(name).exists(), self._parts(name)
        if not parts:
            return [Shard()] if whole else []
        counts = sorted({part.count for part in parts})
        if whole:
            raise UsageError(f"{self._steps}: '{name}' stands there whole and in parts; {_delete(name)}")
        if len(counts) > 1:
            raise UsageError(f"{self._steps}: '{name}' is cut in {' and in '.join(map(str, counts))} parts")
        every = [Shard(rank, counts[0]) for rank in range(counts[0])]
        if missing := [self.path(name, part).name for part in every if part not in parts]:
            raise UsageError(f"{self._steps}: parts of '{name}' are missing: {', '.join(missing)}")
        return every

    def check_cut(self, name: str, cut: Shard) -> None:
        """Makes sure that nothing stands there that a part would not fit to.

        Raises:
            UsageError: The whole stands there, or parts of another number.
        """
        if self.path(name).exists():
            raise UsageError(f"{self._steps}: '{name}' stands there whole: go on without --shard; or {_delete(name)}")
        if other := {part.count for part in self._parts(name)} - {cut.count}:
            raise UsageError(f"{self._steps}: '{name}' is cut in {min(other)} parts, not {cut.count}; {_delete(name)}")

    def is_cut(self, name: str) -> bool:
        """Whether there are parts of a step."""
        return bool(self._parts(name))

    def record(self, name: str, cut: Shard | None = None) -> dict[str, Any] | None:
        """What was written down when the file was made; None where it was not made to the end."""
        try:
            found = json.loads(self._record(name, cut).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        known = isinstance(found, dict) and found.keys() >= _KEYS and found["step"] == name
        return found if known and isinstance(found["files"], dict) else None

    def records(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Those of these steps that stand there, of all parts of each; and whether a person changed the file since."""
        return [
            {**record, "edited": self.edited(name, record, cut)}
            for name in names
            for cut in self.cuts(name)
            if (record := self.record(name, cut))
        ]

    def edited(self, name: str, record: dict[str, Any], cut: Shard | None = None) -> bool:
        """Whether a person changed the file since its record was written."""
        return bool(record.get("output") != file_hash(self.path(name, cut)))

    def changed(self, record: dict[str, Any]) -> list[Path]:
        """Which of the files that a step wrote besides its own are there and were changed since."""
        files = {self.out / name: known for name, known in record["files"].items()}
        return [path for path, known in files.items() if path.exists() and content(path) != known]

    def hashes(self, files: Iterable[str]) -> dict[str, str]:
        """Of files that a step wrote besides its own, for its record."""
        return {name: content(self.out / name) for name in files}

    def forget(self, name: str, cut: Shard | None = None) -> None:
        """Takes the record away: what has none is made again; beside an old one, new rows look changed by hand."""
        self._record(name, cut).unlink(missing_ok=True)

    def write_rows(self, name: str, cut: Shard, rows: Iterable[BaseModel], rejects: Iterable[Reject]) -> None:
        """Writes the file and what did not pass, in place of what stood there, without a record yet."""
        self.forget(name, cut)
        path = self.path(name, cut)
        _write(path, (row.model_dump(mode="json") for row in rows))
        _write(path.with_suffix(".rejects.jsonl"), (reject._asdict() for reject in rejects))

    def write_record(self, name: str, cut: Shard, record: dict[str, Any]) -> None:
        """Writes down what the file that stands there now was made of."""
        record = {**record, "output": file_hash(self.path(name, cut))}
        write_atomic(self._record(name, cut), json.dumps(record, ensure_ascii=False, indent=2, default=str) + "\n")

    def _record(self, name: str, cut: Shard | None) -> Path:
        return self.path(name, cut).with_suffix(".json")

    def _parts(self, name: str) -> list[Shard]:
        names = (path.name.removeprefix(name) for path in self._steps.glob(f"{name}-*.jsonl"))
        return [Shard(int(match[1]), int(match[2])) for one in names if (match := _PART.fullmatch(one))]


class StepRows(Again[Any]):
    """The rows of a step's files, each query and pair under the id that its text gives it; read when gone through.

    A text that was changed by hand is another one: it is made of the one whose id it carries.

    Going through them raises DataError where a line is no such row, or an id stands there twice.

    Args:
        paths: The files, of which a person may have changed each.
        row: What they hold.
        once: Whether each id is to stand there once.
        renamed: Told, at the end of the first reading, how many rows carried the id of another text.
    """

    def __init__(
        self, paths: Iterable[Path], row: type[BaseModel], *, once: bool, renamed: Callable[[int], None] | None = None
    ) -> None:
        super().__init__(self._read)
        self._paths, self._row, self._once, self._renamed = [*paths], row, once, renamed

    def _read(self) -> Iterator[Any]:
        places: dict[str, str] = {}
        renamed = 0
        for place, found in (pair for path in self._paths for pair in _rows(path, self._row)):
            one = _under_its_id(found) if isinstance(found, Query) else found
            renamed += one is not found
            if self._once and (name := _name(one)):
                if name in places:
                    raise DataError(f"{place}: '{name}' stands at {places[name]} already; delete one of them")
                places[name] = place
            yield one
        if renamed and self._renamed:
            self._renamed(renamed)
            self._renamed = None


def _name(row: BaseModel) -> str:
    return str(getattr(row, "id", "") or getattr(row, "name", ""))


def _under_its_id(row: Query) -> Query:
    query = text_id("q", row.question)
    if isinstance(row, Answered):
        said = row.query
        right = {"id": text_id("p", query, row.responder, row.response), "query": query}
    else:
        said, right = row.id, {"id": query}
    if all(getattr(row, name) == value for name, value in right.items()):
        return row
    if said != query and not row.parent:
        right["parent"] = said
    return row.model_copy(update=right)


def _rows(path: Path, row: type[BaseModel]) -> Iterator[tuple[str, BaseModel]]:
    for found in read_rows(path):
        if isinstance(found, BadRow):
            raise DataError(f"{found.file}:{found.line}: {found.reason}")
        try:
            yield f"{found.file}:{found.line}", row.model_validate(found.data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise DataError(f"{found.file}:{found.line}: {place}: {first['msg']}") from None


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with atomic(path) as stream:
        stream.writelines(dumps(row) + "\n" for row in rows)


def _delete(name: str) -> str:
    return f"delete what is not to count, {name}.json* or {name}-*-of-*"
