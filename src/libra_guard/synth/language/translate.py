"""English sets into Chinese, by a model: what is not language stays as it was, and the way back shows what got lost.

A translation that lost a mark of ``placeholders``, has one twice or invented one is asked for again. Then each
translation is translated back, and its words are compared with the original's. What ``limits`` leaves out is neither
asked about nor given back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import Field

from libra_guard.configuration import Probability, Strict
from libra_guard.records import Origin, Question, Sample
from libra_guard.synth.language.limits import SEXUALISES_MINORS, sexualises_minors
from libra_guard.synth.language.placeholders import Masked, mask, unmask, without_marks
from libra_guard.synth.language.prompts import render
from libra_guard.synth.language.reading import is_chinese, writable
from libra_guard.synth.language.refusals import is_refusal
from libra_guard.synth.seats.failure import Failure, UnreadableError

if TYPE_CHECKING:
    from libra_guard.synth.seats.writer import Writer

STEP = "translate"
TEMPLATE = "translate.j2"
BACK = "back_translate.j2"

_BEGINS = {TEMPLATE: "译文：", BACK: "Translation:"}
_BEHIND = re.compile(r"^\W*(?:(?:译文|Translation)[\s*]*[:：][\s*]*)+(?P<text>.*)", re.MULTILINE | re.DOTALL)
# Where a base model begins with the next example, unless the text itself has such a line.
_NEXT = re.compile(r"\n\s*(?:原文|译文|(?:Original|Source)(?:\s+text)?|Text|Translation)\s*[:：]", re.IGNORECASE)
_LEAST_LENGTH = 0.6
"""Of the tokens of an original that has ``_LONG`` of them, that come back at least: token F1 lets half a text pass."""
_LONG = 12
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[\u3400-\u9fff]")
_ARTICLES = frozenset({"a", "an", "the"})
_LETTER = re.compile(r"[^\W\d_]")

Row = TypeVar("Row", Question, Sample)


class TranslateSettings(Strict):
    """How translations are made and checked."""

    least_overlap: Probability = 0.4
    """``overlap`` of an original with what its translation becomes on the way back, under which a row is left out."""
    max_tokens: int = Field(default=2048, ge=1)
    """Of one translation."""


class _Told(NamedTuple):
    """A text in Chinese."""

    text: str
    overlap: float
    seeds: tuple[int, ...] = ()
    """Of the way forth and the way back; none where nothing was asked."""


def translate(
    rows: Sequence[Row], settings: TranslateSettings, writer: Writer
) -> tuple[list[Row], list[tuple[Row, Failure]]]:
    """Translates questions and, of samples, answers, where they are not Chinese already.

    Args:
        rows: In English, or some of them in Chinese.
        settings: How.
        writer: The model that translates both ways.

    Returns:
        The rows in Chinese, with what they were in ``original``, the ``overlap`` of each text, ``origin`` and
        ``made_by``, and those that were Chinese as they are; and the rows of which a text could not be translated, or
        that sexualise minors before or after, with the reason. Of a sample's ``analyze`` nothing but the original is
        left.

    Raises:
        BudgetSpentError: The writer's budget is spent.
        EndpointsLostError: The writer is gone.
        MissingExtraError: The library opencc is not installed.
    """
    left_out = [_left_out(row) for row in rows]
    asked = [row for row, out in zip(rows, left_out, strict=True) if not out]
    texts = iter(_translated([getattr(row, field) for row in asked for field in _fields(row)], settings, writer))
    found = iter([_row(row, {field: next(texts) for field in _fields(row)}, writer) for row in asked])
    done: list[Row] = []
    rejects: list[tuple[Row, Failure]] = []
    for row, out in zip(rows, left_out, strict=True):
        one = Failure(SEXUALISES_MINORS) if out else next(found)
        if isinstance(one, Failure):
            rejects.append((row, one))
        else:
            done.append(one)
    return done, rejects


def overlap(original: str, returned: str) -> float:
    """Token F1 in [0, 1], as SQuAD counts it (arXiv 1606.05250): case, punctuation and articles do not count.

    2·common / (tokens of both), each token as often as it stands in both. Tokens are words, and single Han characters;
    marks are left out. Two texts without tokens are alike.
    """
    one, other = (Counter(_tokens(text)) for text in (original, returned))
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def read_translation(answer: str, original: Masked) -> str:
    """The translation of a model's answer, with its marks.

    Raises:
        UnreadableError: It is empty, a refusal where the original is none, not Chinese, or cannot be written; or its
            marks are not those of the original.
    """
    found = writable(_behind(answer, original.text))
    bare = without_marks(found)
    if is_refusal(bare) and not is_refusal(without_marks(original.text)):
        raise UnreadableError("a refusal")
    if not is_chinese(bare):
        raise UnreadableError("not Chinese")
    unmask(found, original.kept)
    return found


def read_back(answer: str, original: str) -> str:
    """The English of a model's answer to a Chinese text.

    Raises:
        UnreadableError: It is empty, or not English.
    """
    found = _behind(answer, original)
    if is_chinese(found):
        raise UnreadableError("not English")
    return found


def _translated(texts: Sequence[str], settings: TranslateSettings, writer: Writer) -> list[_Told | Failure]:
    masked = [mask(text) for text in texts]
    # What is Chinese, or holds nothing but marks, stays as it is.
    found: dict[int, _Told | Failure] = {i: _Told(text, 1.0) for i, text in enumerate(texts)}
    bare = [without_marks(one.text) for one in masked]
    asked = [i for i, text in enumerate(bare) if _LETTER.search(text) and not is_chinese(text)]
    readers = [partial(read_translation, original=masked[i]) for i in asked]
    forth = _ask(writer, TEMPLATE, [masked[i].text for i in asked], readers, settings)
    found |= {i: one for i, (one, _) in zip(asked, forth, strict=True) if isinstance(one, Failure)}
    told = {i: (one, seed) for i, (one, seed) in zip(asked, forth, strict=True) if not isinstance(one, Failure)}
    texts_back = [text for text, _ in told.values()]
    back = _ask(writer, BACK, texts_back, [partial(read_back, original=text) for text in texts_back], settings)
    for (i, (text, seed)), (returned, seed_back) in zip(told.items(), back, strict=True):
        one = _checked(masked[i], text, returned, settings.least_overlap)
        found[i] = one if isinstance(one, Failure) else one._replace(seeds=(seed, seed_back))
    return [found[i] for i in range(len(texts))]


def _checked(original: Masked, text: str, returned: str | Failure, least: float) -> _Told | Failure:
    if isinstance(returned, Failure):
        return Failure(f"the way back: {returned.reason}", returned.text, returned.model)
    alike = overlap(original.text, returned)
    if alike < least:
        return Failure("another meaning on the way back", f"{text}\n{returned}")
    if (tokens := len(_tokens(original.text))) >= _LONG and len(_tokens(returned)) < _LEAST_LENGTH * tokens:
        return Failure("a part is lost on the way back", f"{text}\n{returned}")
    return _Told(unmask(text, original.kept), round(alike, 4))


def _ask(
    writer: Writer,
    template: str,
    texts: Sequence[str],
    readers: Sequence[Callable[[str], str]],
    settings: TranslateSettings,
) -> list[tuple[str | Failure, int]]:
    prompts = [render(template, text=text) for text in texts]
    if not prompts:
        return []
    return writer.write(prompts, parse=readers, begins=_BEGINS[template], max_tokens=settings.max_tokens)


def _left_out(row: Question | Sample) -> bool:
    return sexualises_minors("\n".join(getattr(row, field) for field in _fields(row)))


def _row(row: Row, texts: dict[str, _Told | Failure], writer: Writer) -> Row | Failure:
    told: dict[str, _Told] = {}
    for field, one in texts.items():
        if isinstance(one, Failure):
            return one
        told[field] = one
    if not any(one.seeds for one in told.values()):
        return row
    original = {field: getattr(row, field) for field in told}
    new: dict[str, Any] = {field: one.text for field, one in told.items()}
    if isinstance(row, Sample) and row.analyze:
        original["analyze"], new["analyze"] = row.analyze, ""
    steps = dict.fromkeys(step for one in told.values() for step in zip((TEMPLATE, BACK), one.seeds, strict=False))
    made = [writer.made(STEP, template, seed=seed).model_dump(mode="json") for template, seed in steps]
    about = {"overlap": {field: one.overlap for field, one in told.items()}, "origin": Origin.TRANSLATED.value}
    fields = {**row.model_dump(), **new, **about, "original": original, "made_by": made}
    found = type(row).model_validate(fields)
    return Failure(SEXUALISES_MINORS) if _left_out(found) else found


def _fields(row: Question | Sample) -> tuple[str, ...]:
    return ("question", "response") if isinstance(row, Sample) else ("question",)


def _behind(answer: str, original: str) -> str:
    match = _BEHIND.search(answer)
    found = (match["text"] if match else answer).strip()
    if not _NEXT.search(f"\n{original}"):
        found = _NEXT.split(found)[0].strip()
    if not found:
        raise UnreadableError("an empty answer")
    return found


def _tokens(text: str) -> list[str]:
    words = _WORD.findall(without_marks(text).casefold().replace("’", "'"))
    return [word for word in words if word not in _ARTICLES]
