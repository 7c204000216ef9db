"""A full disk in words, whichever library meets it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from libra_guard.errors import BackendError

# Or a quota; torch, safetensors and tokenizers say it in texts of their own.
_FULL = re.compile(r"\[Errno (28|122)\]|os error (28|122)\)|iostream error|inline_container|PytorchStreamWriter failed")


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Tells of a full disk what to do.

    Args:
        folder: What is written to.

    Raises:
        BackendError: The disk is full, or the quota used up.
    """
    try:
        yield
    # Tokenizers raise nothing more special.
    except Exception as error:
        if not _FULL.search(str(error)):
            raise
        raise BackendError(
            f"{folder}: the disk is full; make room and run the same again: it goes on from what was written whole"
        ) from error
