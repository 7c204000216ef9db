"""The safety rules that annotators follow, in Chinese: a common part, and one page a scenario."""

from __future__ import annotations

from importlib.resources import files

from libra_guard.io import bytes_hash
from libra_guard.taxonomy import scenario, sub_category

COMMON = "common"
"""The page of what holds for all scenarios."""
_TABLE = "类别一览"


def rules_of(name: str) -> str:
    """The rules of a scenario, in Markdown: what holds for all, then its own page.

    Args:
        name: Any name of the scenario.

    Raises:
        UsageError: There is no such scenario.
    """
    return rules_page(COMMON) + "\n" + rules_page(scenario(name).slug)


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
    head, own, _ = _parts(name, sub)
    return as_html("\n## ".join([head, *own]) + "\n" + rules_page(COMMON))


def task_html(name: str, sub: str) -> str:
    """``rules_html`` for a task: folded at its end is what a better sub-category is chosen by.

    That is what the page says of the scenario's other sub-categories, and the definitions of all.

    Args:
        name: Any name of the scenario.
        sub: Any name of the row's sub-category; empty where it has none.

    Raises:
        UsageError: There is no such scenario or sub-category.
    """
    head, own, others = _parts(name, sub)
    common, _, table = rules_page(COMMON).partition(f"\n## {_TABLE}\n")
    folded = {"本场景的其他类别": "".join(f"## {section}\n" for section in others), _TABLE: table}
    shown = as_html("\n## ".join([head, *own]) + "\n" + common)
    return shown + "".join(fold(title, text) for title, text in folded.items() if text)


def fold(title: str, text: str) -> str:
    """HTML that shows a title, and opens to show a text in Markdown."""
    return f"<details>\n<summary>{title}</summary>\n{as_html(text)}</details>\n"


def as_html(text: str) -> str:
    """The HTML of Markdown with tables."""
    from markdown_it import MarkdownIt

    return str(MarkdownIt("commonmark").enable("table").render(text))


def rules_page(name: str) -> str:
    """One page of the rules in Markdown, by the slug of a scenario or ``COMMON``."""
    return (files(__package__) / "rules" / f"{name}.md").read_text(encoding="utf-8")


def _parts(name: str, sub: str) -> tuple[str, list[str], list[str]]:
    """The head of a scenario's page, its sections without those of other sub-categories, and these."""
    head, *sections = rules_page(scenario(name).slug).split("\n## ")
    others = {
        f"{one.name_zh}（{one.name}）" for one in scenario(name).sub_categories if sub and one != sub_category(sub)
    }
    own, other = list[str](), list[str]()
    for section in sections:
        (other if section.partition("\n")[0] in others else own).append(section)
    return head, own, other
