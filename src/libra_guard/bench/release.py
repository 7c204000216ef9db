"""A benchmark's release: the samples as JSON and Parquet, the rules, a card, and the hash of every file."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from libra_guard.bench.agreement import ALL, figure
from libra_guard.bench.labels import Labelled, moved
from libra_guard.bench.leakage import Leak, find_leaks
from libra_guard.bench.outcome import read_outcome
from libra_guard.bench.provenance import model_hash, model_name
from libra_guard.bench.rounds import ADJUDICATOR, Round
from libra_guard.bench.rows import BenchRow, as_lines
from libra_guard.errors import UsageError
from libra_guard.io import bytes_hash, file_hash, remove_stale, temporary_of, write_atomic
from libra_guard.plaintext import plain_text
from libra_guard.records import Label, Sample

SUMS = "SHA256SUMS"
LEAKS = "leaks.jsonl"
"""In the round's folder, not in the release: it quotes training data."""


@dataclass(frozen=True)
class Released:
    """What was released, and what was not."""

    samples: list[Sample]
    open: int
    """Rows that have no label; what leaks is not among them."""
    leaks: list[Leak]

    @property
    def unexplained(self) -> int:
        """Samples without a reason: their ``analyze`` is empty."""
        return sum(not sample.analyze for sample in self.samples)


def release(one: Round, out: Path, *, against: Sequence[str] = (), licence: str | None = None) -> Released:
    """Writes the release folder, whole or not at all.

    ``data/test.json`` has the eight fields of Libra-Test, in the order in which the rows were selected; ``analyze`` is
    the reasons of the people who gave the label. Rows that are open, or whose question stands in training data, are
    left out.

    Args:
        one: The round, agreed.
        out: A folder that is not there yet, or is empty.
        against: Training data to check against.
        licence: Of the release, for its card.

    Raises:
        UsageError: The folder holds something, the round is not agreed, its rules were changed, or nothing is left.
        DataError: A file to check against has no questions.
        MissingExtraError: A library for near-duplicates is not installed.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds something already: choose another --out")
    labelled, report = read_outcome(one)
    rules = _rules(one)
    rows = {row.id: row for row in one.rows}
    leaks = find_leaks(one.rows, against)
    leaked = {leak.row for leak in leaks}
    samples = [_sample(rows[found.row], found) for found in labelled if found.row not in leaked]
    write_atomic(one.folder / LEAKS, as_lines(asdict(leak) for leak in leaks))
    if not samples:
        places = f"{', '.join(dict.fromkeys(leak.file for leak in leaks))}; {one.folder / LEAKS} says where"
        why = f"all {len(labelled)} leak into {places}" if labelled else "none has a label"
        raise UsageError(f"{one.folder}: no labelled row is left to release: {why}")
    made = Released(samples, len(one.rows) - len(leaked | {found.row for found in labelled}), leaks)
    remove_stale(out)
    partial = temporary_of(out)
    # In a container that was started again the process has the number that it had before.
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(partial, one, made, rules, report, against, licence)
        out.mkdir(parents=True, exist_ok=True)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return made


def _rules(one: Round) -> dict[str, str]:
    """The rules that the annotators had.

    Raises:
        UsageError: They are not those that the round was made with.
    """
    found: dict[str, str] = {}
    for slug, wanted in one.record.rules.items():
        path = one.folder / "rules" / f"{slug}.md"
        found[slug] = path.read_text(encoding="utf-8") if path.exists() else ""
        if bytes_hash(found[slug].encode()) != wanted:
            raise UsageError(f"{path}: not the rules that this round was made with")
    return found


def _sample(row: BenchRow, found: Labelled) -> Sample:
    reasons = "\n".join(dict.fromkeys(found.reasons))
    return Sample(**moved(row, found.sub_category).model_dump(), label=Label(found.label), analyze=reasons)


def _write(
    folder: Path,
    one: Round,
    made: Released,
    rules: Mapping[str, str],
    report: Mapping[str, Any],
    against: Sequence[str],
    licence: str | None,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{field: getattr(sample, field) for field in Sample.model_fields} for sample in made.samples]
    write_atomic(folder / "data" / "test.json", json.dumps(records, ensure_ascii=False, indent=2) + "\n")
    pq.write_table(pa.Table.from_pylist(records), folder / "data" / "test.parquet")
    for slug, text in rules.items():
        write_atomic(folder / "rules" / f"{slug}.md", text)
    checked = [{"name": Path(path).name, "sha256": file_hash(path)} for path in against]
    write_atomic(folder / "README.md", _card(one, made, report, checked, licence))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}" for path in files)
    write_atomic(folder / SUMS, "\n".join(sums) + "\n")


def _card(
    one: Round, made: Released, report: Mapping[str, Any], checked: Sequence[Mapping[str, str]], licence: str | None
) -> str:
    pairs = Counter((sample.category_name, sample.label.value) for sample in made.samples)
    sources = Counter((sample.source or "(none)", sample.label.value) for sample in made.samples)
    selection = one.selection()
    template = plain_text("bench").get_template("card.md.j2")
    return template.render(
        record=one.record,
        licence=licence,
        samples=len(made.samples),
        unexplained=made.unexplained,
        selection=selection,
        agreed=sum(sample.id in set(selection["agreed"]) for sample in made.samples) if selection else 0,
        model=model_name,
        hash=model_hash,
        figure=figure,
        all=ALL,
        counts=[
            (title, [(name, of[name, Label.SAFE], of[name, Label.UNSAFE]) for name in sorted({n for n, _ in of})])
            for title, of in (("source", sources), ("scenario", pairs))
        ],
        report=report,
        adjudicator=ADJUDICATOR,
        leaks=len(made.leaks),
        open=made.open,
        checked=checked,
    )
