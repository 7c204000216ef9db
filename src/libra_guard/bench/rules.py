"""The safety rules that annotators follow, in Chinese: a common part, and one page a scenario."""

from __future__ import annotations

from importlib.resources import files

from libra_guard.io import bytes_hash
from libra_guard.taxonomy import scenario, sub_category


def rules_of(name: str) -> str:
    """The rules of a scenario, in Markdown: what holds for all, then its own page.

    Args:
        name: Any name of the scenario.

    Raises:
        UsageError: There is no such scenario.
    """
    return _page("common") + "\n" + _page(scenario(name).slug)


def rules_hash(name: str) -> str:
    """SHA-256 of a scenario's rules, as ``sha256:…``: labels given under other rules are not the same labels.

    Raises:
        UsageError: There is no such scenario.
    """
    return bytes_hash(rules_of(name).encode())


def rules_html(name: str, sub: str = "") -> str:
    """The rules as HTML, for a page on which people label a row: its scenario's first, then what holds for all.

    Args:
        name: Any name of the scenario.
        sub: Any name of the row's sub-category: what is said of the others is left out. By default nothing is.

    Raises:
        UsageError: There is no such scenario or sub-category.
    """
    from markdown_it import MarkdownIt

    head, *sections = _page(scenario(name).slug).split("\n## ")
    others = {
        f"{one.name_zh}（{one.name}）" for one in scenario(name).sub_categories if sub and one != sub_category(sub)
    }
    own = [section for section in sections if section.partition("\n")[0] not in others]
    text = "\n## ".join([head, *own]) + "\n" + _page("common")
    return str(MarkdownIt("commonmark").enable("table").render(text))


def _page(name: str) -> str:
    return (files(__package__) / "rules" / f"{name}.md").read_text(encoding="utf-8")
