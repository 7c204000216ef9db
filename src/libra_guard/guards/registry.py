"""The guards by name. A guard's module is imported when the guard is first asked for."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from libra_guard.backends._options import checked, option_names, unknown_option
from libra_guard.backends.registry import backend_class, load_backend
from libra_guard.errors import UsageError
from libra_guard.guards.base import Guard


@dataclass(frozen=True)
class GuardEntry:
    """What can be said of a guard without loading it."""

    name: str
    summary: str
    factory: str
    """``module:Class``, the class taking a backend and its own options."""
    judges: tuple[str, ...]
    languages: tuple[str, ...]
    backends: tuple[str, ...]
    """Those it can run on, the default first."""
    model: str
    """What ``NAME:MODEL`` names, in words."""
    extra: str | None = None
    """The extra of this package that its default backend needs."""
    bundled: str | None = None
    """Folder under ``assets/`` of the weights that ship inside; where there are any, MODEL can be left out."""


GUARDS: dict[str, GuardEntry] = {
    entry.name: entry
    for entry in (
        GuardEntry(
            name="mini",
            summary="Libra-Guard-Mini: the bundled classifier; unsafe score, seven scenarios, evidence",
            factory="libra_guard.guards.classifier:MiniGuard",
            judges=("prompt", "response"),
            languages=("zh",),
            backends=("onnx",),
            model="a folder that `libra train classifier` wrote; the bundled guard where it is left out",
            bundled="mini",
        ),
        GuardEntry(
            name="libra",
            summary="Libra-Guard: any causal language model with the Libra prompt, judged in one forward pass",
            factory="libra_guard.guards.libra:LibraGuard",
            judges=("response",),
            languages=("zh",),
            backends=("transformers", "openai", "anthropic", "scripted"),
            model="a folder or hub name, or the model's name at the server",
            extra="hf",
        ),
        GuardEntry(
            name="ngram",
            summary="baseline: logistic regression over hashed character n-grams",
            factory="libra_guard.guards.classifier:NgramGuard",
            judges=("prompt", "response"),
            languages=("zh",),
            backends=("onnx",),
            model="a folder that `libra train classifier` wrote",
        ),
    )
}

RESERVED = {
    "model": "a model is named behind the guard, as NAME:MODEL",
    "name": "the guard is named as NAME or NAME:MODEL",
    "backend": "it has an option of its own, --backend",
}
"""What looks like an option of a guard or backend, and where it is given instead."""


def load_guard(spec: str, /, *, backend: str | None = None, **options: Any) -> Guard:
    """Loads a guard.

    Args:
        spec: ``NAME`` or ``NAME:MODEL``.
        backend: Name of a backend the guard can run on; by default the entry's first.
        **options: The guard's own options by name; all others go to the backend.

    Raises:
        TypeError: ``spec`` is no text.
        UsageError: An unknown guard, backend or option, an option of a wrong type or an impossible value, or a model
            that is missing or not wanted.
        MissingExtraError: A library is missing.
        BackendError: The model cannot be loaded.
    """
    if not isinstance(spec, str):
        raise TypeError(f"a guard is named by a text, NAME or NAME:MODEL, not by a {type(spec).__name__}")
    name, _, model = spec.partition(":")
    entry = guard_entry(name)
    if not model and entry.bundled is None:
        raise UsageError(f"'{name}' needs a model: {name}:MODEL, where MODEL is {entry.model}")
    folder = model or str(files("libra_guard") / "assets" / str(entry.bundled))
    chosen = backend or entry.backends[0]
    if chosen not in entry.backends:
        raise UsageError(f"'{name}' runs on {', '.join(entry.backends)}, not on '{chosen}'")
    module, _, attribute = entry.factory.partition(":")
    guard_class = getattr(importlib.import_module(module), attribute)
    own, further = option_names(guard_class), option_names(backend_class(chosen))
    for option in options:
        if option in RESERVED:
            raise UsageError(f"'{option}' cannot be set as an option: {RESERVED[option]}")
        if option not in (*own, *further):
            raise unknown_option(option, {f"the guard '{name}'": own, f"the backend '{chosen}'": further})
    # The guard's first: a wrong one is told of before a model is loaded.
    asked = checked(guard_class, {k: v for k, v in options.items() if k in own})
    runtime = load_backend(chosen, folder, **{k: v for k, v in options.items() if k not in own})
    guard: Guard = guard_class(runtime, **asked)
    return guard


def guard_entry(name: str) -> GuardEntry:
    """The entry of a guard.

    Raises:
        UsageError: There is none; the message names the nearest.
    """
    if name in GUARDS:
        return GUARDS[name]
    near = difflib.get_close_matches(name, GUARDS, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"no guard is called '{name}'; known are {', '.join(GUARDS)}{hint}")
