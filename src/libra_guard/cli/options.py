"""Options that several commands share."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from libra_guard.backends._options import SECRET
from libra_guard.errors import UsageError
from libra_guard.guards.base import Guard

if TYPE_CHECKING:
    from libra_guard.predict.shards import Shard

GuardOption = Annotated[str, typer.Option("--guard", "-g", metavar="NAME[:MODEL]", help="See `libra guards`.")]
BackendOption = Annotated[str | None, typer.Option(help="How the model is run; by default the guard's first.")]
ThresholdOption = Annotated[float | None, typer.Option(min=0, max=1, help="Unsafe from this score on.")]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Option of the guard or backend, e.g. dtype=bfloat16. Repeatable."),
]

_SECRET = re.compile(rf"((?:^|=)\w*{SECRET}=).+", re.IGNORECASE | re.DOTALL)
_MAPPING = re.compile(r"(?P<name>^(?:--set=)?\w+=)(?P<value>[{\[].+)", re.DOTALL)


def command_line(arguments: Sequence[str]) -> str:
    """The command as it would be typed, for records and messages: what ``--set`` gives a key or token is left out."""
    return shlex.join(without_secret(argument) for argument in arguments)


def this_command() -> str:
    """What was typed, for records."""
    return command_line(["libra", *sys.argv[1:]])


def without_secret(argument: str) -> str:
    """``api_key=...`` in place of the key itself, and so within a mapping, e.g. ``extra_body={"api_key": "..."}``."""
    return _MAPPING.sub(_without_secrets, _SECRET.sub(r"\1...", argument))


def _without_secrets(found: re.Match[str]) -> str:
    from libra_guard.predict.redaction import redacted

    try:
        value = yaml.safe_load(found["value"])
    except yaml.YAMLError:
        return found[0]
    # As it was typed, where there is nothing to hide.
    hidden = redacted(value)
    return found[0] if hidden == value else found["name"] + json.dumps(hidden, ensure_ascii=False, default=str)


def given_options(threshold: float | None, settings: list[str] | None) -> dict[str, Any]:
    """The options of a guard and its backend by name, as ``load_guard`` takes them.

    Raises:
        UsageError: One is not of the form KEY=VALUE, or has an option of its own.
    """
    from libra_guard.guards.registry import RESERVED

    options = dict(_pair(s) for s in settings or ())
    for key in options:
        if key in RESERVED:
            raise UsageError(f"'{key}' cannot be given with --set: {RESERVED[key]}")
    # A threshold goes before one that is set.
    return options if threshold is None else options | {"threshold": threshold}


def open_guard(name: str, backend: str | None, threshold: float | None, settings: list[str] | None) -> Guard:
    """Loads a guard from a command's options.

    Raises:
        UsageError: An option is not of the form KEY=VALUE, is unknown or has an impossible value, or the guard
            cannot be had.
        MissingExtraError: A library is missing.
        BackendError: The model cannot be loaded.
    """
    from libra_guard.guards.registry import load_guard

    options = given_options(threshold, settings)
    try:
        return load_guard(name, backend=backend, **options)
    except (TypeError, ValueError) as error:
        if not settings:
            raise
        # Types are checked before; this is a value that a library refuses in words of its own.
        raise UsageError(f"--set {' '.join(map(without_secret, settings))}: {error}") from error


def _pair(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.isidentifier():
        raise UsageError(f"--set {without_secret(text)}: write KEY=VALUE")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        return key, value


def with_settings(path: Path, texts: Sequence[str] | None) -> str:
    """A file and what ``--set`` says of it, for messages."""
    return " with --set ".join([str(path), *(texts or ())])


def setting(text: str) -> tuple[str, Any]:
    """What ``KEY=VALUE`` of a settings file's ``--set`` says: a dotted path and its value, which is YAML.

    Raises:
        UsageError: It is not of that form.
    """
    key, sign, value = text.partition("=")
    if not sign:
        raise UsageError(f"--set {text}: write KEY=VALUE, a key of mappings with points between")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {text}: the value is no YAML: {' '.join(str(error).split())}") from None


def part_of(text: str) -> Shard:
    """The shard that ``R/N`` names.

    Raises:
        UsageError: It names none.
    """
    from libra_guard.predict.shards import Shard

    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise UsageError(f"--shard {text}: write R/N with 0 ≤ R < N, e.g. 0/4")
    return Shard(int(match[1]), int(match[2]))


def spare_inputs(outputs: Iterable[Path], inputs: Iterable[str | Path]) -> None:
    """Sees to it that nothing that is read is written over.

    Raises:
        UsageError: A file to be written is one of the inputs, or lies in a folder that is one.
    """
    read = [path for path in map(Path, inputs) if path.exists()]
    files = [file for path in read for file in (path.iterdir() if path.is_dir() else [path])]
    for out in (out for out in outputs if out.exists()):
        if any(file.samefile(out) for file in files):
            raise UsageError(f"{out} is read, and would be written over: choose another --out")
