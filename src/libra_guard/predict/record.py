"""``run.json``: what a folder's run is, and what another one would do otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libra_guard.errors import UsageError
from libra_guard.io import dumps, write_atomic

_SHOWN = 28
"""Of a long value, so many characters of its beginning and of its end are shown."""
_ABSENT = "(none)"


def keep_record(path: Path, what: dict[str, Any], how: dict[str, Any]) -> None:
    """Writes ``run.json``, or refuses a folder whose ``run.json`` tells of another run.

    Args:
        path: Of the record.
        what: What makes a run another one. The name of the data does not; their hash does.
        how: Kept beside it.

    Raises:
        UsageError: The folder holds another run; the message names what differs, old and new.
    """
    if not path.exists():
        write_atomic(path, json.dumps({**what, **how}, ensure_ascii=False, indent=2) + "\n")
        return
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UsageError(f"{path}: not JSON; choose another --out") from None
    if not isinstance(told, dict) or not told:
        raise UsageError(f"{path}: tells of no run; choose another --out")
    wanted = json.loads(json.dumps(what))
    if other := [d for key in wanted if key != "data" for d in _differences(key, told.get(key), wanted[key])]:
        found = f"{path.parent} holds another run ({', '.join(other)})"
        raise UsageError(f"{found}: choose another --out, or empty the folder")


def _differences(name: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(f"{name}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield f"{name} {_shown(old)} → {_shown(new)}"


def _shown(value: Any) -> str:
    if value is None:
        return _ABSENT
    text = value if isinstance(value, str) else dumps(value)
    return text if len(text) <= 2 * _SHOWN + 1 else f"{text[:_SHOWN]}…{text[-_SHOWN:]}"
