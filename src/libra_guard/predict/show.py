"""What people see of a run: a progress bar and a summary, both on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from libra_guard.hub import Hub
from libra_guard.io import count_rows, unread
from libra_guard.predict.runner import Outcome, Progress, Settings

_COUNTED_BYTES = 200_000_000
"""Files up to this size are counted first, so that the bar knows its end."""


def bars() -> Bar:
    """Bars of tasks with rate and remaining time; silent where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
    return Bar(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)


def tell(bar: Bar, text: str) -> None:
    """Writes lines to stderr, above the bars, which draw over what click writes; the terminal wraps them."""
    bar.console.print(Text.from_ansi(text), soft_wrap=True, highlight=False)


@contextmanager
def progress_bar(settings: Settings) -> Iterator[Progress]:
    """A bar of the rows that are judged."""
    with bars() as bar:
        task = bar.add_task("judging", total=None if bar.disable else _total(settings))
        yield partial(_advance, bar, task)


def summary(outcome: Outcome, settings: Settings) -> str:
    """One paragraph: what was judged, what was not, and where both are."""
    if not outcome.judged and not outcome.rejected:
        nothing = f"no rows in {settings.data}" + (f", part {settings.shard}" if settings.shard.count > 1 else "")
        return "\n".join([nothing, *unread(settings.data)])
    lines = [f"{outcome.judged} judged ({outcome.flagged} flagged) → {settings.predictions}"]
    if outcome.resumed:
        lines.append(f"{outcome.resumed} of them stood there already")
    if outcome.taken_up:
        lines.append(f"{outcome.taken_up} of these another program wrote: nothing tells which model")
    if outcome.retried:
        lines.append(f"{outcome.retried} of them were tried again: the model had failed on them")
    if outcome.unreadable:
        lines.append(f"{outcome.unreadable} verdicts could not be read; they count as flagged")
    if outcome.rejected:
        lines.append(f"{outcome.rejected} rows could not be judged → {settings.rejects}")
    if outcome.cut:
        lines.append(
            f"{outcome.cut} of them are no single rows: how many rows are lost there is not known; see the reasons"
        )
    if outcome.failed:
        lines.append(f"{outcome.failed} rows the model failed on: run again with --retry")
    return "\n".join([*lines, *unread(settings.data)])


class _Rate(ProgressColumn):
    """Rows a second, once there is a rate."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} rows/s" if task.speed else "", style="progress.data.speed")


def _advance(bar: Bar, task: TaskID, rows: int) -> None:
    bar.advance(task, rows)


def _total(settings: Settings) -> int | None:
    path = Path(settings.data)
    if Hub.of(settings.data) or not path.is_file() or path.stat().st_size > _COUNTED_BYTES:
        return None
    return len(settings.shard.range(count_rows(path, encoding=settings.encoding)))
