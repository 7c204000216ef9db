"""No model: for guards that work by rules of their own, which stand in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from libra_guard.backends.base import Backend
from libra_guard.errors import UsageError
from libra_guard.io import bytes_hash
from libra_guard.records import Method


class NoModel(Backend):
    """Names the file, and runs nothing.

    Args:
        model: The file.

    Raises:
        UsageError: There is no such file.
    """

    name = "none"
    capabilities: frozenset[Method] = frozenset()

    def __init__(self, model: str | Path) -> None:
        self.model = Path(model).expanduser()
        if not self.model.is_file():
            raise UsageError(f"{self.model}: there is no such file")

    def provenance(self) -> dict[str, Any]:
        """See the base class."""
        digest = bytes_hash(self.model.read_bytes())
        return {"backend": self.name, "model": str(self.model), "model_hash": digest}
