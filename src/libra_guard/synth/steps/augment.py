"""Augmentation: the same aim in other words, in another structure, or in the ways that guards are got around.

A model rewrites, by one prompt for each method; where there is none, frames of a grammar carry the query. Ways of
evasion go by rule either way. What a query gets hangs on the seed and its id alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.resources import files
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import yaml
from pydantic import AfterValidator, Field

from libra_guard.configuration import Probability, Strict
from libra_guard.synth.language.evasion import METHODS
from libra_guard.synth.language.grammar import topic
from libra_guard.synth.language.prompts import render
from libra_guard.synth.language.reading import unquoted, writable
from libra_guard.synth.language.rewritten import rewrite_fault
from libra_guard.synth.records import Intent, MadeBy, Query
from libra_guard.synth.seats.failure import Failure, UnreadableError

if TYPE_CHECKING:
    from libra_guard.synth.seats.writer import Writer

STEP = "augment"
COAXING = ("role_play", "hypothetical", "step_by_step", "instruction_hijack")
"""Methods of red-teaming that a model writes, or a frame carries."""
BEGINS = "改写："
"""What a rewritten query stands behind."""

_MAX_TOKENS = 512
_BEHIND = re.compile(r"^\W*(?:改写(?:后|结果)?[\s*]*[:：][\s*]*)+(?P<text>.*)$", re.MULTILINE)
# A point before a digit belongs to the number: 3.5万元.
_NUMBER = re.compile(r"^\s*(?:[-*•]\s+|\d{1,3}\s*(?:\.(?!\d)|[、)）])\s*|[(（]\d{1,3}[)）]\s*|[①-⑳]\s*)")
# Where something else than the query begins, and what a model adds behind a query on how it wrote it.
_ELSE = re.compile(
    r"^\W*(?:原句|改写|任务|要求|示例|说明|解释|注|备注|分析|理由|回答|答案|助手)[^，。]{0,6}[:：]|^\s*(?:```|---|#)"
)
_REMARK = re.compile(r"\s*[（(](?:更|较|比较|改写|注[:：]|说明|换|版本|语气|保留|保持)[^（）()]*[）)]\s*$")
_POINTS = " \t\r\n。.？?！!，,；;：:~～…"


def _known(name: str) -> str:
    if name not in (known := (*COAXING, *METHODS)):
        raise ValueError(f"no method is called '{name}'; there are {', '.join(known)}")
    return name


class AugmentSettings(Strict):
    """How much is added, and how."""

    rewrite: Probability = 0.2
    """Share of the queries that get a child in other words."""
    paraphrase: Probability = 0.2
    """Share of the queries that get a child of another structure."""
    red_team: Probability = 0.5
    """Share of the queries that get a child by one of ``methods``."""
    methods: Annotated[tuple[Annotated[str, AfterValidator(_known)], ...], Field(min_length=1)] = (*COAXING, *METHODS)
    """Names of ``COAXING`` and of ``evasion.METHODS``; a name that stands twice is drawn twice as often."""
    harmless: bool = True
    """Also augment borderline and benign queries: the evasion of a harmless text stays harmless."""


class _Task(NamedTuple):
    place: int
    """Of the query among all."""
    query: Query
    method: str
    random: Random


def augment(
    queries: Sequence[Query], settings: AugmentSettings, writer: Writer | None, seed: int
) -> tuple[list[Query], list[tuple[Query, Failure]]]:
    """Adds to the queries what is made of them.

    Args:
        queries: Any.
        settings: How much, and how.
        writer: None: frames of a grammar take the place of its prompts.
        seed: Of the run.

    Returns:
        Each query with its children behind it; and the queries that lack one, with the reason and the method. A part
        of the queries gives that part of both.

    Raises:
        BudgetSpentError: The writer's budget is spent.
        EndpointsLostError: The writer is gone.
    """
    tasks = [task for place, query in enumerate(queries) for task in _tasks(place, query, settings, seed)]
    asked = [i for i, task in enumerate(tasks) if writer and task.method not in METHODS]
    written = _by_model(writer, [tasks[i] for i in asked]) if writer else []
    found = dict(zip(asked, written, strict=True))
    families = [[query] for query in queries]
    rejects = []
    for i, task in enumerate(tasks):
        text, made = found[i] if i in found else (_by_rule(task), _by_hand(task.method, seed))
        if isinstance(text, Failure):
            rejects.append((task.query, replace(text, reason=f"{text.reason}: {task.method}")))
            continue
        families[task.place].append(_child(task, text, made))
    return [row for family in families for row in family], rejects


def read_rewrite(text: str, original: str, method: str = "", prompt: str = "") -> str:
    """The query of a model's answer: what stands behind ``改写：``, else the first paragraph that is no announcement.

    A paragraph ends at a blank line, where another list item begins, and where the model speaks of something else.

    Args:
        text: The answer.
        original: The query that was to be written otherwise.
        method: How; in other words or in another structure, it keeps something of the original.
        prompt: What was asked, without the original: nothing of it is a query.

    Raises:
        UnreadableError: There is none, or it has a ``rewrite_fault``.
    """
    text = writable(text)
    found = _BEHIND.search(text)
    lines = [line.strip() for line in (found["text"] + text[found.end() :] if found else text).splitlines()]
    if not found and len(full := [line for line in lines if _holds(line)]) > 1 and full[0].endswith(("：", ":")):
        lines = lines[lines.index(full[0]) + 1 :]
    query = unquoted(_REMARK.sub("", _paragraph(lines).replace("**", "")).strip("*` "))
    if reason := rewrite_fault(query, original, method, prompt):
        raise UnreadableError(reason)
    return query


def _holds(line: str) -> bool:
    return bool(line.strip(_POINTS + '*#`-“”"'))


def _paragraph(lines: Sequence[str]) -> str:
    """The first paragraph, without its number."""
    first = next((number for number, line in enumerate(lines) if _holds(line)), len(lines))
    found = [_NUMBER.sub("", line) for line in lines[first : first + 1]]
    for line in lines[first + 1 :]:
        if not _holds(line) or _ELSE.match(line) or _NUMBER.match(line):
            break
        found.append(line)
    return "\n".join(found)


def _tasks(place: int, query: Query, settings: AugmentSettings, seed: int) -> list[_Task]:
    if query.intent is not Intent.HARMFUL and not settings.harmless:
        return []
    draw = Random(f"{seed}:{STEP}:{query.id}")
    shares = {"rewrite": settings.rewrite, "paraphrase": settings.paraphrase, "red_team": settings.red_team}
    # All are drawn, so that one share more or less changes nothing of the others.
    wanted = [name for name, share in shares.items() if draw.random() < share]
    tasks = []
    for name in wanted:
        random = Random(f"{seed}:{STEP}:{query.id}:{name}")
        method = _method(query, settings.methods, random) if name == "red_team" else name
        tasks.append(_Task(place, query, method, random))
    return tasks


def _method(query: Query, methods: Sequence[str], random: Random) -> str:
    """One that applies, where any does."""
    for name in (drawn := random.sample(methods, len(methods))):
        # Whether a way applies does not hang on chance.
        if name not in METHODS or METHODS[name].apply(query.question, Random(0), topic(query.elements)) is not None:
            return name
    return drawn[0]


def _by_rule(task: _Task) -> str | Failure:
    question = task.query.question
    if task.method in METHODS:
        about = topic(task.query.elements)
        return METHODS[task.method].apply(question, task.random, about) or Failure("cannot be applied")
    frame = task.random.choice(_frames()[task.method])
    return frame.replace("{question}", question.strip().rstrip(_POINTS) or question)


def _by_model(writer: Writer, tasks: Sequence[_Task]) -> list[tuple[str | Failure, MadeBy]]:
    if not tasks:
        return []
    prompts = [render(_template(task.method), question=" ".join(task.query.question.split())) for task in tasks]
    readers: list[Callable[[str], str]] = [
        partial(
            read_rewrite,
            original=task.query.question,
            method=task.method,
            prompt=render(_template(task.method), question=""),
        )
        for task in tasks
    ]
    found = writer.write(prompts, parse=readers, begins=BEGINS, max_tokens=_MAX_TOKENS)
    return [
        (text, writer.made(STEP, _template(task.method), seed=seed, method=task.method))
        for task, (text, seed) in zip(tasks, found, strict=True)
    ]


def _child(task: _Task, text: str, made: MadeBy) -> Query:
    query = task.query
    fields = query.model_dump(exclude={"id", "question", "parent", "made_by"})
    return Query.make(text, **fields, parent=query.id, made_by=(*query.made_by, made))


def _by_hand(method: str, seed: int) -> MadeBy:
    return MadeBy(step=STEP, model="rules" if method in METHODS else "grammar", seed=seed, method=method)


def _template(method: str) -> str:
    return f"augment_{method}.j2"


@cache
def _frames() -> dict[str, list[str]]:
    text = (files("libra_guard.synth") / "texts" / "grammar" / "wrappers.yaml").read_text(encoding="utf-8")
    frames: dict[str, Any] = yaml.safe_load(text)
    return frames
