"""What a training run stands on."""

from __future__ import annotations

import platform
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


class AnyRecipe(Protocol):
    """What both kinds of recipe have."""

    @property
    def fitted_on(self) -> list[Source]:
        """Everything trained or calibrated on."""

    @property
    def test(self) -> list[Source]:
        """Everything tested on."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """All settings."""


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
        "recipe": recipe.model_dump(mode="json"),
        **({"base": model_hash(base) if Path(base).is_dir() else base} if base else {}),
        "data": {s.path: file_hash(Path(data) / s.path) for s in [*recipe.fitted_on, *recipe.test]},
        "versions": {**_versions(), "python": platform.python_version()},
        "machine": f"{platform.system()} {platform.machine()}",
        **({"command": command} if command else {}),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
