"""Puts what a training made where an earlier one's may stand; what a person put beside that is not lost."""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from libra_guard.io import ADAPTER, CALIBRATION, adapter_settings

CARD = "README.md"
"""A card changes nothing of what a guard says."""
Report = Callable[[str], None]


def names_of(made: Path) -> list[str]:
    """What a training writes into a folder, its card with it; for ``train.json``, where ``written`` finds it again."""
    return sorted({CARD, *(path.name for path in made.iterdir())})


def written(out: Path, folder: str, *, record: str = "train.json") -> Collection[str]:
    """What the training that a record tells of wrote into one of its folders; nothing where that is not told.

    Args:
        out: Of that training.
        folder: Its name in there.
        record: File in ``out`` with the names under ``files``.
    """
    try:
        return list(json.loads((out / record).read_text(encoding="utf-8"))["files"][folder])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def put_in_place(made: Path, place: Path, *, own: Collection[str], report: Report) -> None:
    """Puts a new folder in the place of an earlier one.

    Where both are the same to the byte, cards apart and an adapter's name for its base, all that lies beside it stays:
    a calibration still holds.

    Args:
        made: The new one, on the same disk.
        place: Where it is to stand.
        own: Names that the earlier training wrote there. All other files are moved; see ``clear``.
        report: Told what was moved, and where.
    """
    names = [path.relative_to(made) for path in made.rglob("*") if path.is_file() and path != made / CARD]
    if all((place / name).is_file() and _same(made / name, place / name) for name in names):
        for name in (CARD, ADAPTER):
            if (made / name).exists():
                (made / name).replace(place / name)
        shutil.rmtree(made)
        return
    clear(place, own={*own, *names_of(made)}, report=report)
    made.rename(place)


def clear(place: Path, *, own: Collection[str], report: Report) -> None:
    """Removes what a training wrote; all else goes to a new folder beside it.

    Args:
        place: Folder of a guard; it may be missing.
        own: Names that a training wrote there.
        report: Told what was moved, and where.
    """
    others = sorted(path for path in place.iterdir() if path.name not in own) if place.is_dir() else []
    if others:
        aside = _free(place)
        names = [path.name for path in others]
        fit = "; a calibration serves only the guard that it was fitted on" if CALIBRATION in names else ""
        report(f"{place} held another guard; what lay beside it is in {aside} now: {', '.join(names)}{fit}")
        aside.mkdir()
        for path in others:
            path.rename(aside / path.name)
    shutil.rmtree(place, ignore_errors=True)


def _same(one: Path, other: Path) -> bool:
    if one.name == ADAPTER:
        return adapter_settings(one) == adapter_settings(other)
    return filecmp.cmp(one, other, shallow=False)


def _free(place: Path) -> Path:
    """``guard.old``, or the first of ``guard.old-2`` and so on that is not there."""
    aside, number = place.with_name(f"{place.name}.old"), 1
    while aside.exists():
        number += 1
        aside = place.with_name(f"{place.name}.old-{number}")
    return aside
