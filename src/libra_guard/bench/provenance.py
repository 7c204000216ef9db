"""How rows were selected, for the benchmark's card: by which judges, out of what, with which quotas."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import libra_guard
from libra_guard.bench.select import Selection
from libra_guard.configuration import read_object
from libra_guard.evaluate.runs import read_run
from libra_guard.io import bytes_hash, file_hash

_SUFFIX = ".select.json"
_CARD = "card.json"
# Of what a guard is, what makes no other judge of it: where it decides, how its score is mapped, and what runs it.
_SAME = frozenset(
    {"threshold", "question_threshold", "language", "calibration", "device", "base_url", "backend"}
    | {"torch", "transformers", "onnxruntime", "openai", "anthropic"}
)


def selection_path(rows: Path) -> Path:
    """Where it stands: beside the rows, their stem with ``.select.json``."""
    return rows.with_name(f"{rows.stem}{_SUFFIX}")


def judges_of(chosen: Selection, folders: Sequence[Path], data: str) -> list[dict[str, Any]]:
    """The judges: ``name``, and ``guard``, what the run's record tells of it (None where there is none).

    Args:
        chosen: Rows with their votes.
        folders: Of the judges' runs; without any, the votes stood in the rows.
        data: What the rows were chosen from. Where that is ``data/`` of a pipeline's run, or lies in it, its card tells
            of the judges.
    """
    if folders:
        return [{"name": folder.resolve().name, "guard": read_run(folder).guard} for folder in folders]
    names = dict.fromkeys(vote.judge for candidate in chosen.rows for vote in candidate.votes)
    sitting = _sitting(data)
    return [{"name": name, "guard": sitting.get(name)} for name in names]


def _sitting(data: str) -> dict[str, dict[str, Any]]:
    """Judge → what the card of a pipeline's run tells of it; nothing where there is no such card."""
    path = Path(data).resolve()
    card = next((card for folder in (path, *path.parents[:2]) if (card := folder / _CARD).is_file()), None)
    told = read_object(card).get("sitting", ()) if card else ()
    judges = (one for one in told if one["seat"] == "judge")
    return {one["name"]: {key: one[key] for key in one if key not in ("seat", "name")} for one in judges}


def model_hash(guard: dict[str, Any]) -> str:
    """Of the model that a judge ran on, as its run or a pipeline's card tells it; empty where it was no file there."""
    return str(guard.get("model_hash") or guard.get("hash") or "")


def model_name(guard: dict[str, Any]) -> str:
    """The model for people elsewhere: where a file lay, or a folder, is nothing to them, and its hash tells it."""
    name = str(guard.get("model") or "")
    return Path(name).name if model_hash(guard) else name


def one_guard_twice(judges: Sequence[dict[str, Any]]) -> list[str]:
    """What is to be said of judges that are one guard: rows on which they differ are near a threshold, not hard."""
    known = [(judge["name"], judge["guard"]) for judge in judges if judge["guard"]]
    return [
        f"{first} and {second} are one guard ({_called(one)})"
        + (": the same judge twice" if one == other else ": another threshold, scale or machine is no other judge")
        for (first, one), (second, other) in combinations(known, 2)
        if _model(one) == _model(other)
    ]


def describe(
    chosen: Selection,
    data: str,
    judges: list[dict[str, Any]],
    config: dict[str, Any],
    against: Sequence[str],
    *,
    rows_hash: str,
    command: str,
) -> str:
    """The file's text, JSON.

    Args:
        chosen: The selection.
        data: What it was chosen from.
        judges: See ``judges_of``.
        config: The quotas.
        against: Training data that it was checked against.
        rows_hash: Of the file of the rows selected, to which this belongs.
        command: That made it.
    """
    told = {
        "rows_sha256": rows_hash,
        "rows": len(chosen.rows),
        "agreed": [candidate.row.id for candidate in chosen.rows if not candidate.hard],
        "judges": judges,
        "data": _named(data),
        "against": [_named(path) for path in against],
        "settings": config,
        "filled": [{"scenario": f.scenario, "source": f.source, "wanted": f.wanted, "hard": f.hard, "agreed": f.agreed}
                   for f in chosen.filled],
        "command": command,
        "libra_guard": libra_guard.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
    return json.dumps(told, ensure_ascii=False, indent=2, default=str) + "\n"


def read_selection(rows: Path) -> tuple[str | None, str]:
    """The text of the file that belongs to some rows, and what is wrong.

    Args:
        rows: File of the rows.

    Returns:
        None and nothing where there is no such file; None and why where it is of other rows.
    """
    path = selection_path(rows)
    if not path.is_file() or not rows.is_file():
        return None, ""
    if read_object(path).get("rows_sha256") != bytes_hash(rows.read_bytes()):
        return None, f"{path}: of other rows than {rows} has now; the card cannot say how they were selected"
    return path.read_text(encoding="utf-8"), ""


def _named(path: str) -> dict[str, str]:
    return {"name": Path(path).name, "sha256": file_hash(path)}


def _model(guard: dict[str, Any]) -> dict[str, Any]:
    # A folder lies elsewhere on each machine; its hash tells what is in it.
    return {key: value for key, value in guard.items() if key not in _SAME and f"{key}_hash" not in guard}


def _called(guard: dict[str, Any]) -> str:
    return " ".join(str(guard[key]) for key in ("guard", "model") if guard.get(key))
