"""Real queries from public sets; those that are not Chinese are translated.

What a set calls harmful or harmless is so here; where it does not say, the intent is unknown.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from libra_guard.data.base import POST_REQUEST, normalise_question
from libra_guard.data.registry import load_dataset_rows, load_importer
from libra_guard.errors import UsageError
from libra_guard.io import BadRow
from libra_guard.records import Question, Sample
from libra_guard.synth.config import ImportSettings
from libra_guard.synth.language.limits import SEXUALISES_MINORS, sexualises_minors
from libra_guard.synth.language.translate import translate
from libra_guard.synth.records import Intent, Query
from libra_guard.synth.seats.failure import Failure
from libra_guard.synth.work import Done, Reject, Work, pieces

STEP = "import"
Row = Question | Sample
_INTENTS = {True: Intent.HARMFUL, False: Intent.BORDERLINE, None: Intent.UNKNOWN}


def import_queries(work: Work) -> Done:
    """The queries of all sets that the settings name, each question once.

    Returns:
        This shard's queries, set by set; rows that hold none, and what could not be translated.

    Raises:
        UsageError: A set is unknown or holds posts, or a grammar would have to translate.
    """
    queries: list[Query] = []
    rejects: list[Reject] = []
    repeated = Counter[str]()
    read = [(row, settings) for settings in work.config.imports for row in _rows(settings, work, rejects, repeated)]
    part = work.part(read)
    if work.shard.rank:
        # What cannot be read, the first shard tells.
        rejects.clear()
    with work.progress(STEP, len(part)) as advance:
        for settings in work.config.imports:
            mine = [row for row, of in part if of is settings]
            for piece in pieces(mine):
                queries += [
                    _query(row, settings, work.config.seed) for row in _in_chinese(piece, settings, work, rejects)
                ]
                advance(len(piece))
    sets = [_about(one) | {"repeated": repeated[one.path]} for one in work.config.imports]
    return Done(queries, rejects, {"sets": sets})


def is_translated(settings: ImportSettings, work: Work) -> bool:
    """Whether rows of a set are English.

    Raises:
        UsageError: They are, and no model sits as the writer to translate them; or there is no set of that name.
    """
    english = load_importer(settings.set).info.language != "zh"
    if english and work.config.seats.writer not in work.config.models:
        raise UsageError(
            f"imports: '{settings.set}' has English rows, and no model sits as the writer to translate them"
        )
    return english


def check_asks(row: Row, settings: ImportSettings) -> None:
    """Makes sure that a row of a set is a question.

    Raises:
        UsageError: It is a post.
    """
    if row.question == POST_REQUEST:
        raise UsageError(f"imports: '{settings.set}' ({settings.path}) holds posts, which ask nothing of anybody")


def not_translated(name: str, row: Row, failure: Failure) -> Reject:
    """A row of a set that ``translate`` did not let pass; of one that sexualises minors no text is told."""
    if failure.reason == SEXUALISES_MINORS:
        return Reject(SEXUALISES_MINORS, {"set": name, "id": row.id})
    return Reject.of(failure, row)


def _about(settings: ImportSettings) -> dict[str, Any]:
    """What the card is to know of a set: its name, file, licence, address and the version that the importer knows."""
    info = load_importer(settings.set).info
    about = {"set": info.name, "file": Path(settings.path).name, "licence": info.licence}
    return about | {"address": info.address, "revision": info.revision}


def _rows(settings: ImportSettings, work: Work, rejects: list[Reject], repeated: Counter[str]) -> list[Row]:
    found: dict[str, Row] = {}
    for row in load_dataset_rows(settings.set, work.path(settings.path)):
        if isinstance(row, BadRow):
            rejects.append(Reject(f"{row.reason} ({row.file}:{row.line})", {"text": row.text}))
            continue
        check_asks(row, settings)
        if sexualises_minors(row.question):
            rejects.append(Reject(SEXUALISES_MINORS, {"set": settings.set, "id": row.id}))
        elif found.setdefault(normalise_question(row.question), row) is not row:
            repeated[settings.path] += 1
    rows = list(found.values())
    if settings.sample is None or settings.sample >= len(rows):
        return rows
    draw = random.Random(f"{work.config.seed}:{STEP}:{settings.set}:{settings.path}")
    kept = set(draw.sample(range(len(rows)), settings.sample))
    return [row for number, row in enumerate(rows) if number in kept]


def _in_chinese(rows: Sequence[Row], settings: ImportSettings, work: Work, rejects: list[Reject]) -> Iterator[Question]:
    asked = [_question(row) for row in rows]
    if not is_translated(settings, work):
        yield from asked
        return
    done, failed = translate(asked, work.config.translate, work.cast.writer(work.config.seats.writer))
    rejects += [not_translated(settings.set, row, failure) for row, failure in failed]
    yield from done


def _question(row: Row) -> Question:
    return Question(
        source=row.source,
        question=row.question,
        category_name=row.category_name,
        sub_category_name=row.sub_category_name,
        # Of a sample only its answer is labelled: what the question alone is worth, nobody said.
        harmful=row.harmful if isinstance(row, Question) else None,
        id=row.id,
    )


def _query(row: Question, settings: ImportSettings, seed: int) -> Query:
    translation = row.model_extra or {}
    steps = [{"step": STEP, "model": settings.set, "seed": seed}, *translation.get("made_by", ())]
    return Query.make(
        row.question,
        category_name=row.category_name,
        sub_category_name=row.sub_category_name,
        intent=_INTENTS[row.harmful],
        origin=translation.get("origin", settings.origin),
        source=settings.set,
        source_id=str(row.id),
        original=translation.get("original"),
        overlap=translation.get("overlap"),
        made_by=steps,
    )
