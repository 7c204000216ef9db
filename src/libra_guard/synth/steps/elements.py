"""What queries are combined of: lists of elements, this project's own or a user's, which the writer may add to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator

from libra_guard.configuration import Strict, read_yaml
from libra_guard.data.base import normalise_question
from libra_guard.errors import UsageError
from libra_guard.synth.steps.extension import Growing, extend, seen_in
from libra_guard.synth.work import Done, Work
from libra_guard.taxonomy import SUB_CATEGORIES, scenario, sub_category

STEP = "elements"
COMMON = "common"
TITLES = {
    "behaviour": "不当目的",
    "event": "情境",
    "lawful": "话题",
    "everyday": "话题",
    "place": "地点",
    "task": "想要得到的东西",
    "persona": "提问的人",
    "register": "语气",
}
"""Dimension of a combination → what it is called in a prompt."""


def _each_once(values: Iterable[str]) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for value in values:
        found.setdefault(normalise_question(value), value)
    return tuple(found.values())


class SubElements(Strict):
    """The lists of one sub-category."""

    behaviours: tuple[str, ...] = ()
    """Harmful aims: verb phrases without a subject."""
    events: tuple[str, ...] = ()
    """Situations: noun phrases."""
    lawful: tuple[str, ...] = ()
    """Grave and lawful subjects: noun phrases."""

    @field_validator("*")
    @classmethod
    def _texts(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if any(not normalise_question(value) for value in values):
            raise ValueError("an element has no letter or digit")
        return _each_once(values)

    def with_more(self, other: SubElements) -> SubElements:
        """Both, the other's behind."""
        return SubElements(**{name: (*mine, *getattr(other, name)) for name, mine in self})


class Common(Strict):
    """The lists that all sub-categories share."""

    task_types: dict[str, str] = Field(default_factory=dict)
    """Key → what is asked for, as a noun phrase."""
    places: tuple[str, ...] = ()
    personas: tuple[str, ...] = ()
    registers: tuple[str, ...] = ()
    everyday: tuple[str, ...] = ()
    """Everyday subjects, those among them that sound grave and are not."""
    areas: tuple[str, ...] = ()
    """Areas of everyday life; a writer adds subjects to each."""

    def with_more(self, other: Common) -> Common:
        """Both, the other's behind."""
        tasks = self.task_types | other.task_types
        lists = {name: _each_once((*mine, *getattr(other, name))) for name, mine in self if name != "task_types"}
        return Common(task_types=tasks, **lists)


class ElementsRow(Strict):
    """The lists of one sub-category, or those that all share, as the step writes them."""

    name: str
    """Slug of the sub-category, or ``common``."""
    own: SubElements = SubElements()
    common: Common = Common()


class Elements:
    """All lists of a run.

    Args:
        subs: Slug of a sub-category → its lists.
        common: Those that all share.
    """

    def __init__(self, subs: Mapping[str, SubElements], common: Common) -> None:
        self.subs, self.common = dict(subs), common

    @classmethod
    def load(cls, extra: Path | None = None) -> Self:
        """The package's own lists, with a user's behind.

        Args:
            extra: A folder of files in the form of the package's own: sub-category slug → lists; ``common`` → lists.

        Raises:
            UsageError: A file is of another form; the message names it.
        """
        elements = cls({}, Common())
        for folder in filter(None, (Path(str(files("libra_guard.synth") / "texts" / "elements")), extra)):
            found = sorted(folder.glob("*.yaml"))
            if not found:
                raise UsageError(f"{folder}: there is no .yaml file of elements")
            for file in found:
                elements._add(file)
        for sub in SUB_CATEGORIES:
            own = elements.subs.get(sub.slug, SubElements())
            if missing := [name for name, values in own if not values]:
                raise UsageError(f"the sub-category '{sub.slug}' has no {' and no '.join(missing)}")
        return elements

    @classmethod
    def of_rows(cls, rows: Sequence[ElementsRow]) -> Self:
        """The lists that the step wrote."""
        common = next((row.common for row in rows if row.name == COMMON), Common())
        return cls({row.name: row.own for row in rows if row.name != COMMON}, common)

    def rows(self) -> list[ElementsRow]:
        """What the step writes."""
        subs = [ElementsRow(name=sub.slug, own=self.subs[sub.slug]) for sub in SUB_CATEGORIES]
        return [ElementsRow(name=COMMON, common=self.common), *subs]

    def of(self, sub_category_name: str) -> SubElements:
        """The lists of a sub-category, by any of its names."""
        return self.subs[sub_category(sub_category_name).slug]

    def phrased(self, drawn: Mapping[str, str]) -> dict[str, str]:
        """A combination as a sentence takes it: the task as its noun phrase."""
        return {name: self.common.task_types.get(one, one) if name == "task" else one for name, one in drawn.items()}

    def _add(self, file: Path) -> None:
        found = read_yaml(file)
        if not isinstance(found, dict):
            raise UsageError(f"{file}: a mapping from sub-categories to their lists is needed")
        for name, lists in found.items():
            try:
                if name == COMMON:
                    self.common = self.common.with_more(Common.model_validate(lists))
                else:
                    slug = sub_category(str(name)).slug
                    more = SubElements.model_validate(lists)
                    self.subs[slug] = self.subs.get(slug, SubElements()).with_more(more)
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, (name, *first["loc"])))
                raise UsageError(f"{file}: {place}: {first['msg'].removeprefix('Value error, ')}") from None
            except UsageError as error:
                raise UsageError(f"{file}: {error}") from None


def extend_elements(work: Work) -> Done:
    """The lists of the run; where asked for, the writer adds to those that the run's queries are combined of."""
    extra = work.config.elements.extra
    elements = Elements.load(Path(work.cast.file(str(extra))) if extra else None)
    name = work.config.seats.writer
    if not work.config.elements.extend or name not in work.config.models:
        return Done(elements.rows())
    growing = [*_of_sub_categories(elements, work), *_of_all(elements, work)]
    with work.progress(STEP, sum(one.wanted for _, _, one in growing)) as advance:
        lists = [one for _, _, one in growing]
        rejects = extend(lists, work.cast.writer(name), work.config.queries.rounds, advance)
    for slug, dimension, one in growing:
        if slug == COMMON:
            added: Any = {line: line for line in one.added} if dimension == "task_types" else tuple(one.added)
            elements.common = elements.common.with_more(Common(**{dimension: added}))
        else:
            more = SubElements(**{dimension: tuple(one.added)})
            elements.subs[slug] = elements.subs[slug].with_more(more)
    lacking = {f"elements/{one.name}": one.missing for one in lists if one.missing > 0}
    return Done(elements.rows(), rejects, {"lacking": lacking})


_Named = tuple[str, str, Growing]
"""Slug of a sub-category or ``common``, name of its list, and what is to be added."""


def _of_sub_categories(elements: Elements, work: Work) -> Iterator[_Named]:
    queries, count = work.config.queries, work.config.elements.extend
    dimensions = [*(("behaviours", "events") if queries.harmful else ()), *(("lawful",) if queries.borderline else ())]
    for sub in SUB_CATEGORIES:
        if sub.name not in queries.sub_categories:
            continue
        about = {"scenario": scenario(sub.scenario).name_zh, "sub_category": sub.name_zh}
        for dimension in dimensions:
            known = getattr(elements.subs[sub.slug], dimension)
            told = {"dimension": dimension, "definition": sub.definition_zh, **about}
            yield sub.slug, dimension, Growing(f"{sub.slug}/{dimension}", told, known, count, seen_in(known))


def _of_all(elements: Elements, work: Work) -> Iterator[_Named]:
    """Places and tasks; and everyday topics, which all benign queries share, so many of each area of life."""
    common, count = elements.common, work.config.elements.extend
    for dimension, known in (("places", common.places), ("task_types", tuple(common.task_types.values()))):
        yield COMMON, dimension, Growing(dimension, {"dimension": dimension}, known, count, seen_in(known))
    seen = seen_in(common.everyday)
    for area in common.areas if work.config.queries.benign else ():
        about = {"dimension": "everyday", "area": area}
        yield COMMON, "everyday", Growing(f"everyday/{area}", about, common.everyday, count, seen)
