"""libra guards: which guards there are and what each needs."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from typing import Annotated

import typer

from libra_guard.backends.registry import BACKENDS
from libra_guard.guards.registry import GUARDS, GuardEntry


def guards(as_json: Annotated[bool, typer.Option("--json", help="A JSON list on stdout.")] = False) -> None:
    """List the guards, what they judge, and what each needs."""
    if as_json:
        rows = [asdict(entry) | {"ready": _ready(entry)} for entry in GUARDS.values()]
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("guard", "what", "judges", "runs on", "needs"):
        table.add_column(column, overflow="fold")
    for entry in GUARDS.values():
        name = f"{entry.name}[:MODEL]" if entry.bundled else f"{entry.name}:MODEL"
        cells = (name, entry.summary, ", ".join(entry.judges), ", ".join(entry.backends), _needs(entry))
        table.add_row(*map(escape, cells))
    console = Console()
    console.print(table)
    for entry in GUARDS.values():
        console.print(f"{entry.name}:MODEL – {entry.model}", style="dim", highlight=False, markup=False)


def _ready(entry: GuardEntry) -> bool:
    """Whether the libraries of its default backend are installed."""
    return all(find_spec(module) is not None for module in BACKENDS[entry.backends[0]].needs)


def _needs(entry: GuardEntry) -> str:
    if _ready(entry):
        return "nothing more"
    return f"pip install 'libra-guard[{entry.extra}]'"
