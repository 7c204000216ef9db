"""Runs a model's batches for the transformers backend: smaller where memory does not suffice, errors in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

from libra_guard.errors import BackendError

# What a CPU's allocator and the libraries of GPUs say, which raise no type of their own.
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


@contextmanager
def failures(model: str, device: torch.device) -> Iterator[None]:
    """Turns what a model's call raises into a ``BackendError``.

    Args:
        model: Its name, for the message.
        device: Where it runs.
    """
    try:
        yield
    except (RuntimeError, ValueError, IndexError, MemoryError) as error:
        if _no_memory(error):
            hint = "use dtype=bfloat16, a smaller context or a larger device"
            raise BackendError(f"the model '{model}' has no memory left on '{device}': {hint}") from error
        raise BackendError(f"the model '{model}' failed: {type(error).__name__}: {first_line(error)}") from error


def run_batches(batches: Iterable[list[int]], run: Callable[[list[int]], None]) -> None:
    """Runs each batch; one that memory does not suffice for in halves, down to one row.

    Args:
        batches: Numbers of rows.
        run: Keeps its results only at its end, so that it can be called again for a part.
    """
    for batch in batches:
        waiting = [batch]
        while waiting:
            rows = waiting.pop()
            if not _fits(rows, run):
                # Behind the handler, which held on to the tensors of the failed call.
                torch.cuda.empty_cache()
                middle = -(-len(rows) // 2)
                waiting += [rows[middle:], rows[:middle]]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """A seed for what runs inside; the caller's random state is as it was afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def first_line(error: Exception) -> str:
    """An error's first words."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _fits(rows: list[int], run: Callable[[list[int]], None]) -> bool:
    try:
        run(rows)
    except (RuntimeError, MemoryError) as error:
        if len(rows) == 1 or not _no_memory(error):
            raise
        return False
    return True


def _no_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)
