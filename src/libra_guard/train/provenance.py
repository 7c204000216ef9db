"""What a training run stands on."""

from __future__ import annotations

import json
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from libra_guard.io import file_hash, model_hash
from libra_guard.train.recipe import Source

_LIBRARIES = (
    "libra-guard",
    "numpy",
    "scikit-learn",
    "onnxruntime",
    "onnx",
    "torch",
    "transformers",
    "tokenizers",
    "trl",
    "peft",
    "accelerate",
)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


class AnyRecipe(Protocol):
    """What both kinds of recipe have."""

    @property
    def base(self) -> str | None:
        """The pretrained model that is started from, if any."""

    @property
    def fitted_on(self) -> list[Source]:
        """Everything trained or calibrated on."""

    @property
    def test(self) -> list[Source]:
        """Everything tested on."""

    @property
    def settings(self) -> dict[str, Any]:
        """All of them, as JSON has them."""


def provenance_of(recipe: AnyRecipe, data: str | Path, base: str | None, command: str | None = None) -> dict[str, Any]:
    """Recipe, hashes of the data and of a local base, versions, machine, command.

    Args:
        recipe: What is done.
        data: Folder that the sources' paths are relative to.
        base: The pretrained model that is started from, if any. A local folder's name tells nobody anything, so its
            content stands for it.
        command: What was typed, if anything was.
    """
    return {
        "recipe": recipe.settings,
        **({"base": model_hash(base) if Path(base).is_dir() else base} if base else {}),
        "data": {s.path: file_hash(Path(data) / s.path) for s in [*recipe.fitted_on, *recipe.test]},
        "versions": {**_versions(), "python": platform.python_version()},
        "machine": f"{platform.system()} {platform.machine()}",
        **({"command": command} if command else {}),
    }


def hub_name(base: str) -> str | None:
    """The name on the model hub of a pretrained model; None of a folder, whose name another model may have there."""
    return base if not Path(base).is_dir() and _HUB_NAME.fullmatch(base) else None


def named_base(base: str) -> str:
    """What people are told that a pretrained model is: its hub name, or its folder's own without where that lies."""
    return Path(base).resolve().name if Path(base).is_dir() else base


def finished(folder: Path, recipe: AnyRecipe, data: str | Path, base: str | None) -> dict[str, Any] | None:
    """What ``train.json`` in a folder tells, where it is that of a training of the same; see ``provenance_of``.

    None where there is no such file, or no guard beside it.

    Args:
        folder: Of the training.
        recipe: What is asked for.
        data: Folder that the sources' paths are relative to.
        base: Overrides the recipe's base.
    """
    if not (folder / "guard").is_dir():
        return None
    try:
        found: dict[str, Any] = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    base = (base or recipe.base) if recipe.base else None
    # The same run may be asked for in other words.
    told = {key: value for key, value in (found.get("provenance") or {}).items() if key != "command"}
    return found if told == provenance_of(recipe, data, base) else None


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
