"""The guards by name. A guard's module is imported when the guard is first asked for."""

from __future__ import annotations

import difflib
import importlib
import inspect
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from libra_guard.backends.registry import load_backend
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


def load_guard(spec: str, *, backend: str | None = None, **options: Any) -> Guard:
    """Loads a guard.

    Args:
        spec: ``NAME`` or ``NAME:MODEL``.
        backend: Name of a backend the guard can run on; by default the entry's first.
        **options: The guard's own options by name; all others go to the backend.

    Raises:
        UsageError: An unknown guard, backend or option, or a model that is missing or not wanted.
        MissingExtraError: A library is missing.
    """
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
    own = set(inspect.signature(guard_class).parameters) - {"backend"}
    runtime = load_backend(chosen, folder, **{k: v for k, v in options.items() if k not in own})
    guard: Guard = guard_class(runtime, **_checked(guard_class, {k: v for k, v in options.items() if k in own}))
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


def _checked(guard_class: type[Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options as the class's own annotations want them: a wrong type is found here, not while judging."""
    hints = get_type_hints(guard_class.__init__)
    checked = {}
    for name, value in options.items():
        try:
            checked[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            raise UsageError(f"{name}={value}: {error.errors()[0]['msg']}") from None
    return checked
