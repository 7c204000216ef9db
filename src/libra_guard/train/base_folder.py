"""What can be said of a base model before it is loaded, and in words after it could not be."""

from __future__ import annotations

import json
from pathlib import Path

from libra_guard.backends._pretrained import check_folder
from libra_guard.backends._running import first_line
from libra_guard.errors import UsageError
from libra_guard.io import ADAPTER


def check_base(base: str) -> None:
    """Refuses what can be no pretrained model.

    Args:
        base: Folder or hub name.

    Raises:
        UsageError: It is a folder that is not there or holds no model, or an adapter.
    """
    try:
        about = json.loads((Path(base) / ADAPTER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        check_folder(base)
        return
    named = about.get("base_model_name_or_path") if isinstance(about, dict) else None
    raise UsageError(
        f"'{base}' is an adapter, and training starts from a whole model: give its base"
        f"{f', {named},' if named else ''} or merge the two first"
    )


def unusable(base: str, what: str, error: Exception) -> UsageError:
    """The error for a base that could not be loaded.

    Args:
        base: Folder or hub name.
        what: What it is not, or lacks.
        error: What the libraries say.
    """
    if not Path(base).is_dir():
        what = f"there is no such folder, and the model hub gave nothing under this name; {what}"
    return UsageError(f"{base}: {what}: {first_line(error)}")
