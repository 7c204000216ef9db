"""libra guards: which guards there are and what each needs."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from libra_guard.backends.registry import BACKENDS
from libra_guard.guards.registry import GUARDS, GuardEntry


def guards(as_json: Annotated[bool, typer.Option("--json", help="A JSON list on stdout.")] = False) -> None:
    """List the guards, what they judge, the backends that can run them, and what each of those needs."""
    if as_json:
        typer.echo(json.dumps([_row(entry) for entry in GUARDS.values()], ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("guard", no_wrap=True)
    for column in ("judges", "runs on", "languages"):
        table.add_column(column, overflow="fold")
    for entry in GUARDS.values():
        backends = ", ".join(_backend(entry, name) for name in entry.backends)
        table.add_row(*map(escape, (_spec(entry), " ".join(entry.judges), backends, "/".join(entry.languages))))
    console = Console()
    console.print(table)
    for entry in GUARDS.values():
        console.print(f"\n{_spec(entry)}", style="bold", highlight=False, markup=False)
        told = {"MODEL": entry.model, "hub": ", ".join(entry.hub), "size": entry.size, "licence": entry.licence}
        lines = (entry.summary, *(f"{name}: {text}" for name, text in told.items() if text))
        for line in lines:
            console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
    missing = {e for entry in GUARDS.values() for b in entry.backends if (e := BACKENDS[b].extra) and not _ready(b)}
    for extra in sorted(missing):
        console.print(f"\n* needs: pip install 'libra-guard[{extra}]'", style="dim", highlight=False, markup=False)


def _spec(entry: GuardEntry) -> str:
    return f"{entry.name}[:MODEL]" if entry.bundled else f"{entry.name}:MODEL"


def _backend(entry: GuardEntry, name: str) -> str:
    """A backend's name, what it lacks, and whether a guard that ships inside needs a MODEL there."""
    alone = entry.bundled is None or name in entry.bundled_on
    return f"{name}{'' if _ready(name) else '*'}{'' if alone else ' with MODEL'}"


def _row(entry: GuardEntry) -> dict[str, Any]:
    """An entry for programs; ``ready`` is of the default backend, ``runs_on`` tells of each."""
    runs_on = {
        name: {"extra": BACKENDS[name].extra, "ready": _ready(name), "needs_model": name not in entry.bundled_on}
        for name in entry.backends
    }
    return asdict(entry) | {"ready": _ready(entry.backends[0]), "runs_on": runs_on}


def _ready(backend: str) -> bool:
    """Whether the libraries of a backend are installed."""
    return all(find_spec(module) is not None for module in BACKENDS[backend].needs)
