"""The data card of a run: its figures as ``card.json``, and ``README.md`` with the head that a data hub reads."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from libra_guard import __version__
from libra_guard.backends._options import is_secret
from libra_guard.configuration import Strict
from libra_guard.data.base import SPLITS, split_of
from libra_guard.data.reasons import reason_kind
from libra_guard.io import write_atomic
from libra_guard.plaintext import plain_text
from libra_guard.records import Label, Sample, Vote
from libra_guard.synth.config import GRAMMAR, SynthConfig
from libra_guard.synth.report.agreement import Agreement, Judgement, agreement
from libra_guard.synth.report.diversity import Diversity, diversity
from libra_guard.synth.seats.budget import Usage
from libra_guard.synth.steps.respond import STEP as RESPOND
from libra_guard.taxonomy import SCENARIOS, SUB_CATEGORIES

STARVED = 0.5
"""A sub-category is starved with less than this part of an equal share of the rows."""
NONE = "(none)"
"""Stands for an empty field in counts."""
Counts = dict[str, dict[str, int]]
"""Value of a field → label → rows."""
_ADDRESSES = ("endpoints", "base_url")
_LABELS = (Label.SAFE.value, Label.UNSAFE.value)
_WAY = "made_by.method"
"""In which way the grammar answered."""
_COUNTED = {
    "scenario": "category_name",
    "sub_category": "sub_category_name",
    "intent": "intent",
    "origin": "origin",
    "set": "set",
    "responder": "responder",
    "answer": _WAY,
    "label_by": "label_by",
}
_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))


class LeftOut(NamedTuple):
    """A judged pair that went into neither stage."""

    sample: Sample
    """Its label counts for nothing."""
    reason: str


class Lengths(Strict):
    """In characters."""

    median: float
    p95: int
    """By nearest rank."""
    longest: int


class StageFigures(Strict):
    """One of the two data sets."""

    rows: int
    questions: int
    """Different ones."""
    labels: dict[str, int]
    unsafe_share: float | None
    splits: dict[str, int]
    counts: dict[str, Counts]
    """Field → its values, each with the rows of either label."""
    lengths: dict[str, Lengths]


class Answers(Strict):
    """Of one responder, over all judged pairs."""

    answers: int
    refused: int
    cut: int
    """Answers that ended at the limit of tokens."""


class Imported(Strict):
    """A public set that questions came from."""

    set: str
    file: str
    """Its name without its folder."""
    licence: str
    address: str
    revision: str
    """The version that the importer was written for; empty where its publisher names none."""
    repeated: int
    """Rows whose question an earlier row had."""


class HeldOut(Strict):
    """A benchmark or another held-out file that the queries were compared with."""

    file: str
    """Its name without its folder."""
    rows: int
    unread: int
    """Rows without a question that can be read."""
    hits: int
    """Queries that are near one of its questions."""
    hash: str = ""
    """Of its content; of a set on the hub its address with the commit."""
    revision: str = ""
    """As in ``Imported``, where its folder is called as a set; else empty."""


class Sitting(Strict):
    """Who judged, and on what."""

    seat: str
    """``judge`` or ``arbiter``."""
    name: str
    """What the votes are signed with."""
    guard: str
    backend: str
    """What its model runs on; ``none``: it has none."""
    model: str
    """A server's or the hub's name for it, a folder's or a file's own; empty of the bundled one."""
    hash: str
    """Of the model's files; empty where they are not here."""
    prompt: str = ""
    """The guard's name and the beginning of the hash of what it asks, ``name@0123abcd``; empty of one without a prompt.
    """
    seed: int = 0
    """For what it writes; 0 of one without a prompt."""


class CardFigures(Strict):
    """All that the card says."""

    name: str
    licence: str
    version: str
    """Of libra-guard."""
    seed: int
    offline: bool
    """Whether it is for trying the pipeline alone."""
    writer: str
    responders: list[str]
    few_responders: str
    """What is to be said of their number; empty where they are enough."""
    judges: list[str]
    arbiter: str | None
    sitting: list[Sitting]
    """All of them; empty where their record does not tell."""
    edited: list[str]
    """Steps whose files a person changed before what follows was made of them."""
    stages: dict[str, StageFigures]
    left_out: dict[str, int]
    """Reason → judged pairs in neither stage."""
    wanted: list[str]
    """Sub-categories that were asked for."""
    starved: dict[str, int]
    """Sub-category → rows of both stages, where they are few."""
    one_sided: list[str]
    """Sub-categories that have rows, all of one label."""
    evenness: float | None
    """Entropy of the wanted sub-categories' rows by that of equal shares (Pielou's J), in [0, 1]."""
    agreement: Agreement
    responses: dict[str, Answers]
    diversity: dict[str, Diversity]
    """Of the different questions, and of all answers, of both stages."""
    rejects: Counts
    """Step → kind of reason → rows."""
    asked_again: Counts
    """Model or judge → kind of reason → answers."""
    lacking: dict[str, int]
    """Sub-category and intent → queries that the writer did not bring."""
    sets: list[Imported]
    """What was imported, under whose terms."""
    contamination: list[HeldOut]
    """How near the queries came to each held-out file; those that did were dropped."""
    usage: dict[str, Usage]
    config: dict[str, Any]
    """Settings that differ from the defaults, without secrets and addresses of servers."""


def figures(
    stage1: Sequence[Sample],
    stage2: Sequence[Sample],
    left_out: Sequence[LeftOut],
    rejects: Mapping[str, Mapping[str, int]],
    usage: Mapping[str, Usage],
    settings: SynthConfig,
    *,
    lacking: Mapping[str, int] | None = None,
    asked_again: Mapping[str, Mapping[str, int]] | None = None,
    config: Mapping[str, Any] | None = None,
    contamination: Sequence[Mapping[str, Any]] = (),
    sets: Sequence[Mapping[str, Any]] = (),
    sitting: Sequence[Mapping[str, Any]] = (),
    edited: Sequence[str] = (),
) -> CardFigures:
    """Counts and measures what a run made; the order of the rows does not matter.

    Args:
        stage1: Samples that the judges agree on.
        stage2: Hard samples.
        left_out: The other judged pairs.
        rejects: Step → reason → rows that it did not let pass.
        usage: Model → what was asked of it.
        settings: The run's.
        config: The settings as they are to be shown; by default all that are no defaults.
        asked_again: Model or judge → reason → answers that were asked for again.
        lacking: Sub-category and intent → queries that it came short of.
        contamination: Fields of ``HeldOut``, the file with its folder.
        sets: Fields of ``Imported``.
        sitting: Fields of ``Sitting``.
        edited: Steps whose files a person changed, each part for itself.
    """
    rows, judged = [*stage1, *stage2], [*stage1, *stage2, *(one.sample for one in left_out)]
    # What several responders say is judged once.
    different = {(one.question, one.response): one for one in judged}.values()
    per_sub = _counts(rows, "sub_category_name")
    wanted = {name: sum(per_sub.get(name, {}).values()) for name in settings.queries.sub_categories}
    arbiter = settings.seats.arbiter
    return CardFigures(
        name=settings.name,
        licence=settings.licence,
        seed=settings.seed,
        offline=settings.offline,
        writer=settings.seats.writer,
        responders=list(settings.seats.responders),
        few_responders=settings.few_responders,
        judges=[judge.name for judge in settings.seats.judges],
        arbiter=arbiter.name if arbiter else None,
        stages={"stage1": _stage(stage1), "stage2": _stage(stage2)},
        left_out=_tally(one.reason for one in left_out),
        wanted=list(wanted),
        starved=_starved(wanted),
        one_sided=[name for name in wanted if wanted[name] in per_sub.get(name, {}).values()],
        evenness=_evenness(list(wanted.values())),
        agreement=agreement([_judgement(row) for row in different]),
        responses=_responses(judged),
        diversity={
            "questions": diversity(list({row.question for row in rows}), settings.seed),
            "responses": diversity([row.response for row in rows], settings.seed),
        },
        lacking=dict(lacking or {}),
        contamination=[HeldOut.model_validate({**one, "file": Path(one["file"]).name}) for one in contamination],
        sets=[Imported.model_validate(one) for one in sets],
        sitting=[Sitting.model_validate(one) for one in sitting],
        edited=list(dict.fromkeys(edited)),
        version=__version__,
        asked_again={name: _kinds(reasons) for name, reasons in (asked_again or {}).items()},
        rejects={step: _kinds(reasons) for step, reasons in rejects.items() if reasons},
        # Money added up in another order differs in its last digits.
        usage={model: replace(spent, money=round(spent.money, 6)) for model, spent in sorted(usage.items())},
        config=_told(config or settings.model_dump(mode="json", exclude_defaults=True)),
    )


def render(found: CardFigures) -> str:
    """The card in Markdown: the same bytes for the same figures."""
    environment = plain_text("synth", "texts/cards")
    environment.filters |= {"cell": _cell, "figure": _figure, "percent": _percent}
    rows = sum(stage.rows for stage in found.stages.values())
    return environment.get_template("card.md.j2").render(
        found=found,
        rows=rows,
        size=next((name for name, limit in _SIZES if rows < limit), "n>10M"),
        labels=_LABELS,
        grammar=GRAMMAR,
        sub_categories=[sub.name for sub in SUB_CATEGORIES],
        shown={*found.wanted, *(name for stage in found.stages.values() for name in stage.counts["sub_category"])},
        config=json.dumps(found.config, ensure_ascii=False, indent=2, sort_keys=True),
    )


def write_card(folder: Path, found: CardFigures) -> None:
    """Writes ``card.json`` and ``README.md`` into the folder in which ``stage1/`` and ``stage2/`` stand."""
    text = json.dumps(found.model_dump(mode="json"), ensure_ascii=False, indent=2, sort_keys=True)
    write_atomic(folder / "card.json", text + "\n")
    write_atomic(folder / "README.md", render(found))


def _stage(rows: Sequence[Sample]) -> StageFigures:
    labels = Counter(row.label.value for row in rows)
    splits = Counter(split_of(str(_extra(row, "root_question") or row.question)) for row in rows)
    return StageFigures(
        rows=len(rows),
        questions=len({row.question for row in rows}),
        labels={label: labels[label] for label in _LABELS},
        unsafe_share=round(labels[Label.UNSAFE.value] / len(rows), 4) if rows else None,
        splits={split: splits[split] for split in SPLITS if splits[split]},
        counts={name: _counts(rows, field) for name, field in _COUNTED.items()},
        lengths={
            name: _lengths([len(getattr(row, name)) for row in rows]) for name in ("question", "response") if rows
        },
    )


def _counts(rows: Sequence[Sample], field: str) -> Counts:
    """In the taxonomy's order where its names are counted, else by name."""
    names = [*(one.name for one in SCENARIOS), *(one.name for one in SUB_CATEGORIES)]
    known = {name: place for place, name in enumerate(names)}
    found = Counter((str(_extra(row, field) or NONE), row.label.value) for row in rows)
    there = sorted({name for name, _ in found}, key=lambda name: (known.get(name, len(known)), name))
    return {name: {label: found[name, label] for label in _LABELS} for name in there}


def _extra(row: Sample, field: str) -> Any:
    if field == _WAY:
        made_by = getattr(row, "made_by", None) or ()
        return next((made["method"] for made in made_by if made["step"] == RESPOND), None)
    return getattr(row, field, None)


def _lengths(lengths: list[int]) -> Lengths:
    lengths.sort()
    p95 = lengths[math.ceil(0.95 * len(lengths)) - 1]
    return Lengths(median=statistics.median(lengths), p95=p95, longest=lengths[-1])


def _starved(wanted: Mapping[str, int]) -> dict[str, int]:
    least = STARVED * sum(wanted.values()) / len(wanted)
    return {name: rows for name, rows in wanted.items() if not rows or rows < least}


def _evenness(rows: Sequence[int]) -> float | None:
    total = sum(rows)
    if not total or len(rows) < 2:
        return None
    shares = (count / total for count in rows if count)
    return round(-sum(share * math.log(share) for share in shares) / math.log(len(rows)), 4)


def _judgement(row: Sample) -> Judgement:
    votes, arbiter = _extra(row, "votes") or (), _extra(row, "arbiter")
    return Judgement(
        tuple(Vote.model_validate(vote) for vote in votes), Vote.model_validate(arbiter) if arbiter else None
    )


def _responses(rows: Sequence[Sample]) -> dict[str, Answers]:
    by: dict[str, list[Sample]] = {}
    for row in rows:
        by.setdefault(str(_extra(row, "responder") or NONE), []).append(row)
    found = {}
    for name in sorted(by):
        refused, cut = (sum(bool(_extra(row, field)) for row in by[name]) for field in ("refused", "cut"))
        found[name] = Answers(answers=len(by[name]), refused=refused, cut=cut)
    return found


def _tally(reasons: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(reasons).items()))


def _kinds(reasons: Mapping[str, int]) -> dict[str, int]:
    kinds = Counter[str]()
    for reason, count in reasons.items():
        kinds[reason_kind(reason)] += count
    return dict(sorted(kinds.items()))


def _told(settings: Any) -> Any:
    """What a card may tell: it is made to be published."""
    if isinstance(settings, dict):
        kept = (key for key in settings if key not in _ADDRESSES and not is_secret(key))
        return {key: _told(settings[key]) for key in kept}
    if isinstance(settings, str) and Path(settings).is_absolute():
        return Path(settings).name
    return [_told(one) for one in settings] if isinstance(settings, list) else settings


def _cell(text: str) -> str:
    """A name that cannot break out of its cell of a table, nor become a tag."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"
