"""``run.json``: what a folder's run is, and what another one would do otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from libra_guard.backends._options import is_secret
from libra_guard.errors import UsageError
from libra_guard.io import dumps, write_atomic
from libra_guard.predict.redaction import redacted

_SHOWN = 28
"""Of a long value, so many characters of its beginning and of its end are shown."""
_ABSENT = "(none)"
_OWN = frozenset(
    {"data", "shard", "chunk", "asked", "command", "libra_guard", "python", "machine", "generations", "taken_up"}
)
"""What each shard of a run has for itself; all else they have in common."""
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
        """For ``run.json``: without secrets; the options that are one or hold one are named under ``left_out``."""
        kept = {name: redacted(value) for name, value in self.options.items() if not is_secret(name)}
        secret = [name for name, value in self.options.items() if name not in kept or kept[name] != value]
        told = {"guard": self.guard, "backend": self.backend, "options": kept}
        return {**told, **({"left_out": secret} if secret else {})}


def keep_record(path: Path, what: dict[str, Any], how: dict[str, Any]) -> None:
    """Writes ``run.json``, without secrets, or refuses a folder whose ``run.json`` tells of another run.

    Args:
        path: Of the record.
        what: What makes a run another one. The name of the data does not; their hash does.
        how: Kept beside it.

    Raises:
        UsageError: The folder holds another run; the message names what differs, old and new.
    """
    if not path.exists():
        write_atomic(path, json.dumps(as_kept({**what, **how}), ensure_ascii=False, indent=2) + "\n")
        return
    told, wanted = read_record(path), as_kept(what)
    if other := [d for key in wanted if key != "data" for d in _differences(key, told.get(key), wanted[key])]:
        found = f"{path.parent} holds another run ({', '.join(other)})"
        raise UsageError(f"{found}: choose another --out, or empty the folder")


def as_kept(record: dict[str, Any]) -> dict[str, Any]:
    """A record as it is read back."""
    # Of the options some may be paths, or what else JSON does not know.
    kept: dict[str, Any] = redacted(json.loads(json.dumps(record, default=str)))
    return kept


def read_record(path: Path) -> dict[str, Any]:
    """What stands in a ``run.json``; secrets that an older one may hold are left out.

    Raises:
        UsageError: Nothing that tells of a run.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UsageError(f"{path}: not JSON; choose another --out") from None
    if not isinstance(told, dict) or not told:
        raise UsageError(f"{path}: tells of no run; choose another --out")
    return as_kept(told)


def judged_otherwise(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """What keeps two records from being shards of one run: guard, threshold, model, data or settings, old and new.

    The machine, the versions of libraries, a server's address and the place of a model whose hash is known may differ.
    """
    common = [key for key in dict.fromkeys([*first, *second]) if key not in _OWN]
    pairs = ((key, _anywhere(first.get(key)), _anywhere(second.get(key))) for key in common)
    return [difference for pair in pairs for difference in _differences(*pair)]


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
            if not _untold(key, old, new):
                yield from _differences(f"{name}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield f"{name} {_shown(old)} → {_shown(new)}"


def _untold(key: str, *guards: dict[str, Any]) -> bool:
    """Whether this is the options of a backend in a record from before they were told: they may be the same."""
    return key == "options" and all("backend" in guard for guard in guards) and any(key not in g for g in guards)


def _shown(value: Any) -> str:
    if value is None:
        return _ABSENT
    text = value if isinstance(value, str) else dumps(value)
    return text if len(text) <= 2 * _SHOWN + 1 else f"{text[:_SHOWN]}…{text[-_SHOWN:]}"
