"""The answers: several models of different families answer each query."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Hashable, Sequence
from functools import partial
from typing import Protocol

from libra_guard.records import check_text
from libra_guard.synth.config import RespondSettings
from libra_guard.synth.language.grammar import Grammar
from libra_guard.synth.language.limits import SEXUALISES_MINORS, sexualises_minors
from libra_guard.synth.language.reading import is_chinese, repeats
from libra_guard.synth.language.refusals import is_refusal
from libra_guard.synth.records import Answered, Intent, MadeBy, Query, text_id
from libra_guard.synth.seats.failure import Failure
from libra_guard.synth.seats.responder import Reply, Responder
from libra_guard.synth.seats.together import Task, side_by_side
from libra_guard.synth.work import Done, Reject, Work, at_once, pieces

STEP = "respond"
_CHUNK = 64
_SENTENCE_END = re.compile(r"[。！？!?…\n](?=[^。！？!?…\n]*$)")
# How often the grammar answers in which way: both labels come of every intent that can have them.
_KINDS = {
    Intent.HARMFUL: {"refusal": 4, "compliance": 4, "partial": 2, "broken": 1},
    Intent.BORDERLINE: {"information": 8, "refusal": 1, "broken": 1},
    Intent.BENIGN: {"everyday": 9, "broken": 1},
    Intent.UNKNOWN: {"refusal": 4, "compliance": 4, "partial": 2, "broken": 1},
}
_CODE = re.compile(r"```.*?(?:```|$)", re.DOTALL)
_LETTER = re.compile(r"[^\W\d_]")
_LEAST_CHINESE = 0.2
"""Of an answer's letters and digits outside code: answers on software are full of foreign names."""


class _Answering(Protocol):
    name: str

    @property
    def lane(self) -> Hashable | None: ...

    @property
    def workers(self) -> int: ...

    def answer_all(self, queries: Sequence[Query]) -> list[Reply | Failure]: ...

    def made(self, query: Query, reply: Reply) -> MadeBy: ...


def respond(work: Work, queries: Collection[Query]) -> Done:
    """An answer of each responder that a query is given to; responders on servers are asked side by side.

    Returns:
        The pairs, query by query; answers that failed, are empty or have a ``fault``, with reasons.
    """
    seats = [_seat(work, name) for name in work.config.seats.responders]
    rows: list[Answered] = []
    rejects: list[Reject] = []
    part = []
    for query in work.part(queries):
        if sexualises_minors(query.question):
            rejects.append(Reject(SEXUALISES_MINORS, query.model_dump(mode="json")))
        else:
            part.append(query)
    with work.progress(STEP, len(part)) as advance:
        for piece in pieces(part, at_once((seat.workers for seat in seats), _CHUNK)):
            given = {query.id: _drawn(query, work) for query in piece}
            mine = [[query for query in piece if seat.name in given[query.id]] for seat in seats]
            tasks = [Task(seat.lane, partial(seat.answer_all, own)) for seat, own in zip(seats, mine, strict=True)]
            found: dict[tuple[str, str], Reply | Failure] = {}
            for seat, own, answers in zip(seats, mine, side_by_side(tasks, work.cast.halt), strict=True):
                found |= {(query.id, seat.name): answer for query, answer in zip(own, answers, strict=True)}
            for query in piece:
                for seat in seats:
                    if seat.name not in given[query.id]:
                        continue
                    row = _row(query, seat, found[query.id, seat.name], work)
                    (rejects if isinstance(row, Reject) else rows).append(row)  # type: ignore[arg-type]
            advance(len(piece))
    refused = {seat.name: sum(row.refused for row in rows if row.responder == seat.name) for seat in seats}
    cut = {seat.name: sum(row.cut for row in rows if row.responder == seat.name) for seat in seats}
    return Done(rows, rejects, {"refused": refused, "cut": cut})


def fault(question: str, answer: str) -> str:
    """Why an answer is no data, whatever it says; empty where it may be.

    It repeats itself without end, or a question in Chinese is answered in another language; code and bare numbers are
    of no language.
    """
    if repeats(answer):
        return "the same again and again"
    prose = _CODE.sub("", answer)
    foreign = _LETTER.search(prose) and not is_chinese(prose, _LEAST_CHINESE)
    return "not Chinese" if foreign and is_chinese(question) else ""


def cut_long(text: str, longest: int) -> str:
    """A text of at most so many characters, cut behind its last whole sentence where there is one."""
    if len(text) <= longest:
        return text
    text = text[:longest]
    end = _SENTENCE_END.search(text)
    return text[: end.end()] if end else text


class _ByModel:
    def __init__(self, responder: Responder, settings: RespondSettings) -> None:
        self.name, self.lane, self.workers = responder.name, responder.lane, responder.workers
        self._responder, self._settings = responder, settings

    def answer_all(self, queries: Sequence[Query]) -> list[Reply | Failure]:
        unfit = partial(_unfit, longest=self._settings.longest)
        questions = [query.question for query in queries]
        return self._responder.answer(questions, max_tokens=self._settings.max_tokens, unfit=unfit)

    def made(self, query: Query, reply: Reply) -> MadeBy:
        return self._responder.made(STEP, seed=reply.seed)


class _ByGrammar:
    lane, workers = None, 1

    def __init__(self, name: str, seed: int, longest: int) -> None:
        self.name, self._seed, self._longest, self._grammar = name, seed, longest, Grammar.load()

    def answer_all(self, queries: Sequence[Query]) -> list[Reply | Failure]:
        return [self._answer(query) for query in queries]

    def made(self, query: Query, reply: Reply) -> MadeBy:
        return MadeBy(step=STEP, model=self.name, seed=reply.seed, method=self._kind(query)[0])

    def _answer(self, query: Query) -> Reply | Failure:
        text = self._grammar.answer(query, *self._kind(query))
        reason = _unfit(query.question, text, longest=self._longest)
        return Failure(reason, text) if reason else Reply(text, seed=self._seed)

    def _kind(self, query: Query) -> tuple[str, random.Random]:
        """In which way a query is answered, and what draws the sentence."""
        draw = random.Random(f"{self._seed}:{STEP}:{self.name}:{query.id}")
        kinds = _KINDS[query.intent]
        return draw.choices(list(kinds), weights=list(kinds.values()))[0], draw


def _seat(work: Work, name: str) -> _Answering:
    if name in work.config.models:
        return _ByModel(work.cast.responder(name), work.config.respond)
    return _ByGrammar(name, work.config.seed, work.config.respond.longest)


def _drawn(query: Query, work: Work) -> list[str]:
    """The responders of a query, in the settings' order."""
    names, count = work.config.seats.responders, work.config.respond.per_query
    if count is None or count >= len(names):
        return list(names)
    drawn = random.Random(f"{work.config.seed}:{STEP}:{query.id}").sample(names, count)
    return [name for name in names if name in drawn]


def _unfit(question: str, answer: str, *, longest: int) -> str:
    """Why an answer is asked for again, and rejected at last; empty where it is good, or no file may hold it."""
    text = cut_long(answer.strip(), longest)
    if sexualises_minors(f"{question}\n{text}"):
        return ""
    try:
        check_text(text, "the answer")
    except ValueError as error:
        return str(error)
    return fault(question, text)


def _row(query: Query, seat: _Answering, answer: Reply | Failure, work: Work) -> Answered | Reject:
    about = query.model_dump(mode="json") | {"responder": seat.name}
    text = cut_long(answer.text.strip(), work.config.respond.longest)
    said = answer.text if isinstance(answer, Failure) else text
    if sexualises_minors(f"{query.question}\n{said}"):
        # The answer is in no file of the steps, not even among the rejects; the store of calls has it.
        return Reject(SEXUALISES_MINORS, about)
    if isinstance(answer, Failure):
        return Reject.of(answer, about)
    return Answered(
        **query.model_dump(exclude={"id", "made_by"}),
        id=text_id("p", query.id, seat.name, text),
        query=query.id,
        response=text,
        responder=seat.name,
        refused=is_refusal(text),
        cut=answer.cut,
        made_by=(*query.made_by, seat.made(query, answer)),
    )
