"""``run.json``: what a folder's run is, and what another one would do otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from libra_guard.backends._options import is_secret
from libra_guard.errors import UsageError
from libra_guard.io import dumps, write_atomic

_SHOWN = 28
"""Of a long value, so many characters of its beginning and of its end are shown."""
_ABSENT = "(none)"
_DECIDES = ("guard", "data_hash", "fields", "encoding", "explain")
"""What the shards of one run have in common."""
_PLACE = frozenset({"device", "base_url", "torch", "transformers", "onnxruntime", "openai", "anthropic"})
"""Of what a guard is, what may be another on each machine."""


class Asked(NamedTuple):
    """What a guard was loaded by, as ``load_guard`` takes it."""

    guard: str
    """``NAME`` or ``NAME:MODEL``."""
    backend: str | None = None
    options: Mapping[str, Any] = {}
    """By name."""

    def told(self) -> dict[str, Any]:
        """For ``run.json``: what is a secret is left out, and its name kept under ``left_out``."""
        secret = [name for name in self.options if is_secret(name)]
        told = {"guard": self.guard, "backend": self.backend}
        options = {name: value for name, value in self.options.items() if name not in secret}
        return {**told, "options": options, **({"left_out": secret} if secret else {})}


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
        # Of the options some may be paths, or what else JSON does not know.
        write_atomic(path, json.dumps({**what, **how}, ensure_ascii=False, indent=2, default=str) + "\n")
        return
    told = read_record(path)
    wanted = json.loads(json.dumps(what))
    if other := [d for key in wanted if key != "data" for d in _differences(key, told.get(key), wanted[key])]:
        found = f"{path.parent} holds another run ({', '.join(other)})"
        raise UsageError(f"{found}: choose another --out, or empty the folder")


def read_record(path: Path) -> dict[str, Any]:
    """What stands in a ``run.json``.

    Raises:
        UsageError: Nothing that tells of a run.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UsageError(f"{path}: not JSON; choose another --out") from None
    if not isinstance(told, dict) or not told:
        raise UsageError(f"{path}: tells of no run; choose another --out")
    return told


def judged_otherwise(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """What keeps two records from being shards of one run: guard, threshold, model, data or settings, old and new.

    The machine, the versions of libraries, a server's address and the place of a model whose hash is known may differ.
    """
    old, new = ({key: _anywhere(record.get(key)) for key in _DECIDES} for record in (first, second))
    return [difference for key in _DECIDES for difference in _differences(key, old[key], new[key])]


def _anywhere(value: Any) -> Any:
    """A record's value without what belongs to the machine."""
    if isinstance(value, list):
        return [_anywhere(v) for v in value]
    if not isinstance(value, dict):
        return value
    # A folder lies elsewhere on each machine; its hash tells what is in it.
    place = _PLACE | {name for name in ("model", "base", "adapter") if value.get(f"{name}_hash")}
    return {k: _anywhere(v) for k, v in value.items() if k not in place}


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
