"""The queries: random combinations of elements, written by a model (AART, arXiv 2311.08592) or by a grammar.

Each sub-category and intent is a cell with a number of its own, and is asked for until it has it: none starves because
its queries are harder to write.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from libra_guard.data.base import normalise_question
from libra_guard.records import check_text
from libra_guard.synth.language.grammar import Grammar, topic
from libra_guard.synth.language.limits import SEXUALISES_MINORS, sexualises_minors
from libra_guard.synth.language.prompts import render
from libra_guard.synth.language.reading import numbered_lines
from libra_guard.synth.language.refusals import is_refused_query
from libra_guard.synth.records import Intent, MadeBy, Query
from libra_guard.synth.seats.failure import Failure
from libra_guard.synth.seats.writer import Writer
from libra_guard.synth.steps.elements import TITLES, Elements
from libra_guard.synth.work import Done, Reject, Work, pieces
from libra_guard.taxonomy import scenario, sub_category

TEMPLATE, RAW = "queries.j2", "queries_raw.j2"
"""For a model that follows instructions, and for one that only goes on with a text."""
STEP = "queries"
_LENGTHS = range(4, 601)
_TOKENS = 60
"""Of an answer, for each query that is asked for: some are long, most are short."""
_CELLS_AT_ONCE = 8
"""That are asked for between two looks at the progress."""
_GRAMMAR_DRAWS = 20
"""Draws for each query that is wanted, after which a cell of the grammar is given up."""


@dataclass
class _Cell:
    """What one sub-category and intent has by now."""

    intent: Intent
    sub_category: str
    """English name; empty for everyday queries."""
    wanted: int
    queries: list[Query] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    calls: int = 0

    @property
    def missing(self) -> int:
        return self.wanted - len(self.queries)

    @property
    def name(self) -> str:
        return f"{self.sub_category or 'everyday'}/{self.intent.value}"


def write_queries(work: Work, elements: Elements) -> Done:
    """Fills the cells of this shard.

    Args:
        work: The run.
        elements: What is combined.

    Returns:
        The queries, cell by cell; what was written and cannot be used, with reasons; how many each cell lacks.
    """
    settings = work.config.queries
    cells = work.part(plan(work))
    rejects: list[Reject] = []
    grammar = Grammar.load()
    name = work.config.seats.writer
    with work.progress(STEP, sum(cell.wanted for cell in cells)) as advance:
        if name not in work.config.models:
            for cell in cells:
                _by_grammar(cell, elements, grammar, work.config.seed)
                advance(len(cell.queries))
        else:
            writer = work.cast.writer(name)
            for _ in range(settings.rounds):
                starved = [cell for cell in cells if cell.missing > 0]
                if not starved:
                    break
                for piece in pieces(starved, _CELLS_AT_ONCE):
                    before = sum(len(cell.queries) for cell in piece)
                    rejects += _by_model(piece, elements, grammar, writer, work)
                    advance(sum(len(cell.queries) for cell in piece) - before)
    lacking = {cell.name: cell.missing for cell in cells if cell.missing > 0}
    return Done([query for cell in cells for query in cell.queries], rejects, {"lacking": lacking})


def plan(work: Work) -> list[_Cell]:
    """The cells of the whole run, in the taxonomy's order."""
    settings = work.config.queries
    kinds = ((Intent.HARMFUL, settings.harmful), (Intent.BORDERLINE, settings.borderline))
    cells = [_Cell(intent, name, count) for intent, count in kinds for name in settings.sub_categories]
    return [cell for cell in [*cells, _Cell(Intent.BENIGN, "", settings.benign)] if cell.wanted]


def combination(cell: _Cell, elements: Elements, draw: random.Random) -> dict[str, str]:
    """One element of each dimension that the intent has."""
    common = elements.common
    if cell.intent is Intent.BENIGN:
        drawn: dict[str, Sequence[str]] = {"everyday": common.everyday}
    else:
        own = elements.of(cell.sub_category)
        harmful = cell.intent is Intent.HARMFUL
        drawn = {"behaviour": own.behaviours, "event": own.events} if harmful else {"lawful": own.lawful}
        drawn |= {"place": common.places}
    drawn |= {"task": tuple(common.task_types), "persona": common.personas, "register": common.registers}
    return {dimension: draw.choice(list(among)) for dimension, among in drawn.items()}


def _by_grammar(cell: _Cell, elements: Elements, grammar: Grammar, seed: int) -> None:
    made = MadeBy(step=STEP, model="grammar", seed=seed)
    for number in range(cell.wanted * _GRAMMAR_DRAWS):
        if cell.missing <= 0:
            return
        draw = random.Random(f"{seed}:{STEP}:{cell.name}:{number}")
        drawn = combination(cell, elements, draw)
        _add(cell, grammar.query(cell.intent, elements.phrased(drawn), draw), drawn, made)


def _by_model(cells: Sequence[_Cell], elements: Elements, grammar: Grammar, writer: Writer, work: Work) -> list[Reject]:
    settings, seed = work.config.queries, work.config.seed
    asked: list[tuple[_Cell, dict[str, str]]] = []
    prompts = []
    for cell in cells:
        for _ in range(ceil(cell.missing / settings.per_call)):
            draw = random.Random(f"{seed}:{STEP}:{cell.name}:{cell.calls}")
            cell.calls += 1
            drawn = combination(cell, elements, draw)
            asked.append((cell, drawn))
            if writer.raw:
                others = [elements.phrased(combination(cell, elements, draw)) for _ in range(3)]
                prompts.append(_raw_prompt(cell, drawn, others, grammar, draw))
            else:
                prompts.append(_prompt(cell, drawn, elements, settings.per_call))
    rejects = []
    template = RAW if writer.raw else TEMPLATE
    found = writer.write(
        prompts, parse=numbered_lines, begins="1. ", max_tokens=_TOKENS * settings.per_call, lines=True
    )
    for (cell, drawn), (texts, its_seed), prompt in zip(asked, found, prompts, strict=True):
        about = {"cell": cell.name, "elements": drawn}
        if isinstance(texts, Failure):
            rejects.append(Reject.of(texts, about))
            continue
        made = writer.made(STEP, template, seed=its_seed)
        for text in texts:
            if cell.missing <= 0:
                break
            if reason := "copied from the prompt" if text in prompt else _add(cell, text, drawn, made):
                rejects.append(Reject(reason, {"question": text, **about}))
    return rejects


def _prompt(cell: _Cell, drawn: Mapping[str, str], elements: Elements, count: int) -> str:
    """What a model that follows instructions is asked; examples by the grammar would be copied, so it has none."""
    about: dict[str, Any] = {"scenario": "", "sub_category": "", "definition": ""}
    if cell.sub_category:
        sub = sub_category(cell.sub_category)
        about = {
            "scenario": scenario(sub.scenario).name_zh,
            "sub_category": sub.name_zh,
            "definition": sub.definition_zh,
        }
    named = [(TITLES[dimension], phrase) for dimension, phrase in elements.phrased(drawn).items()]
    return render(TEMPLATE, intent=cell.intent.value, count=count, elements=named, **about)


def _raw_prompt(
    cell: _Cell, drawn: Mapping[str, str], others: Sequence[Mapping[str, str]], grammar: Grammar, draw: random.Random
) -> str:
    """A beginning that shows by examples what follows: a topic, and what users say of it."""
    examples = [
        {"topic": topic(other), "questions": [grammar.query(cell.intent, other, draw) for _ in range(3)]}
        for other in others
    ]
    return render(RAW, examples=examples, topic=topic(drawn))


def _add(cell: _Cell, text: str, drawn: dict[str, str], made: MadeBy) -> str:
    """Takes a query into its cell; returns the reason where it does not."""
    try:
        check_text(text, "the query")
    except ValueError as error:
        return str(error)
    if len(text) not in _LENGTHS:
        return f"{len(text)} characters; {_LENGTHS.start} to {_LENGTHS.stop - 1} are taken"
    if is_refused_query(text):
        return "a refusal"
    if sexualises_minors(text):
        return SEXUALISES_MINORS
    key = normalise_question(text)
    if key in cell.seen:
        return "written before"
    cell.seen.add(key)
    sub = sub_category(cell.sub_category) if cell.sub_category else None
    cell.queries.append(
        Query.make(
            text,
            category_name=scenario(sub.scenario).name if sub else "",
            sub_category_name=sub.name if sub else "",
            intent=cell.intent,
            elements=drawn,
            made_by=(made,),
        )
    )
    return ""
