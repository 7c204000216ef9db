"""What the rows of a step depend on, so that a step is done again when any of it has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from libra_guard.backends._options import is_secret
from libra_guard.data.registry import DATASETS, load_importer
from libra_guard.guards.registry import guard_entry
from libra_guard.hub import Hub
from libra_guard.io import file_hash, model_hash
from libra_guard.synth.config import JudgeSettings, ModelSettings
from libra_guard.synth.seats.cast import CONNECTION, identity
from libra_guard.synth.work import Work


def settings_of(sections: Iterable[str], seats: Iterable[str], work: Work) -> dict[str, Any]:
    """Sections of the settings, and who sits in the seats, with the content of every file that they name.

    It is written down: what is secret or says how a server is reached is left out.
    """
    config, seats = work.config, [*seats]
    return {
        "seed": config.seed,
        "settings": _lasting(written_down(work, include=set(sections))),
        "seats": {seat: _lasting(_seat(seat, work)) for seat in seats},
        **({"attempts": config.attempts} if seats else {}),
        "texts": _texts_hash(),
    }


def written_down(work: Work, **which: Any) -> dict[str, Any]:
    """The settings for records and cards: files that they bring along by name, for where they lie makes no difference.

    Args:
        work: The run.
        **which: See ``BaseModel.model_dump``.
    """
    config = work.config
    found = config.model_dump(mode="json", **which)
    if found.get("elements", {}).get("extra"):
        found["elements"]["extra"] = Path(str(config.elements.extra)).name
    seats = found.get("seats", {})
    for judge in (*seats.get("judges", ()), *filter(None, [seats.get("arbiter")])):
        _by_name(judge, work)
    return found


def files_of(name: str, work: Work) -> dict[str, str]:
    """The files that a step reads besides those of other steps, as the settings call them, with their content."""
    config = work.config
    if name == "elements" and config.elements.extra:
        return {config.elements.extra.name: content(work.cast.file(str(config.elements.extra)))}
    named: list[str] = []
    if name == "import":
        named = [one.path for one in config.imports]
    elif name == "dedup":
        named = [str(path) for path in config.dedup.against]
    return {path: content(work.path(path)) for path in named}


def content(path: str | Path) -> str:
    """The SHA-256 of a file, or of all files of a folder with their names; of a set on the hub its commit."""
    if Hub.of(path):
        return file_hash(path)
    digest, path = hashlib.sha256(), Path(path)
    for file in [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file()):
        with file.open("rb") as stream:
            of_it = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(path)}\0{of_it}\0".encode())
    return "sha256:" + digest.hexdigest()


def held_out(path: str) -> dict[str, str]:
    """What is known of a held-out file for the card: its content, and the version that its importer was written for.

    Which set it is of, a folder of its path tells, as ``libra data get`` names it.
    """
    sets = [] if Hub.of(path) else [part for part in Path(path).parts if part in DATASETS]
    return {"hash": content(path), "revision": load_importer(sets[-1]).info.revision if sets else ""}


def judges_of(work: Work) -> list[dict[str, Any]]:
    """Who judges, on what and how asked, for the card and beside each label: the fields of ``report.card.Sitting``."""
    last = work.config.seats.arbiter
    sitting = [("judge", one) for one in work.config.seats.judges] + ([("arbiter", last)] if last else [])
    return [{"seat": seat, "name": one.name, **_judging(one, work), **_asked(one, work)} for seat, one in sitting]


def _asked(judge: JudgeSettings, work: Work) -> dict[str, Any]:
    """The version of a judge's prompt, and its seed; of one that is asked nothing in words neither."""
    guard = work.cast.unloaded(judge)
    if guard is None:
        return {"prompt": "", "seed": 0}
    return {"prompt": f"{guard.name}@{guard.provenance()['prompt_sha256'][:8]}", "seed": guard.seed}


def _judging(judge: JudgeSettings, work: Work) -> dict[str, str]:
    guard, _, model = judge.guard.partition(":")
    if judge.model:
        behind = work.config.models[judge.model]
        backend, model, found = behind.backend, behind.model, str(identity(behind)["model"])
    else:
        backend, found = str(judge.options.get("backend", guard_entry(guard).backends[0])), _own_model(judge, work)
    # What is no file here is known by its name alone.
    known = found.startswith("sha256:")
    return {
        "guard": guard,
        "backend": backend,
        "model": Path(model).name if known else model,
        "hash": found if known else "",
    }


def _lasting(settings: Any) -> Any:
    if isinstance(settings, dict):
        left_out = CONNECTION | {"endpoints"}
        kept = (key for key in settings if key not in left_out and not is_secret(str(key)))
        return {key: _lasting(settings[key]) for key in kept}
    return [_lasting(one) for one in settings] if isinstance(settings, (list, tuple)) else settings


def _seat(seat: str, work: Work) -> list[Any]:
    found = getattr(work.config.seats, seat)
    return [_sitting(one, work) for one in (found if isinstance(found, tuple) else (found,)) if one is not None]


def _sitting(one: str | JudgeSettings, work: Work) -> Any:
    models = work.config.models
    if isinstance(one, str):
        return [one, *_model(models[one], work)] if one in models else one
    behind = _model(models[one.model], work) if one.model else [_own_model(one, work)]
    told = one.model_dump(mode="json")
    _by_name(told, work)
    return [told, *behind, _named(one.options, work), _asked(one, work)]


def _model(settings: ModelSettings, work: Work) -> list[Any]:
    return [identity(settings), settings.temperature, _named(settings.options, work)]


def _by_name(judge: dict[str, Any], work: Work) -> None:
    """Of the files that a judge's dumped settings name, the names alone stay; of what they hold ``_sitting`` tells."""
    guard, _, file = str(judge["guard"]).partition(":")
    if file and Path(work.cast.file(file)).exists():
        judge["guard"] = f"{guard}:{Path(file).name}"
    if options := judge.get("options"):
        judge["options"] = options | {key: Path(str(options[key])).name for key in _named(options, work)}


def _own_model(judge: JudgeSettings, work: Work) -> str:
    """What stands behind a guard that runs on no model of the run: a file, a folder, or what the package brings."""
    name, _, file = judge.guard.partition(":")
    bundled = guard_entry(name).bundled
    path = Path(work.cast.file(file)) if file else Path(str(files("libra_guard") / "assets" / str(bundled)))
    return _content_of_model(path) if path.exists() else file


def _named(options: Mapping[str, Any], work: Work) -> dict[str, str]:
    """The options that name a file or a folder, with its content."""
    texts = {key: Path(work.cast.file(value)) for key, value in options.items() if value and isinstance(value, str)}
    return {key: _content_of_model(path) for key, path in texts.items() if path.exists()}


def _content_of_model(path: Path) -> str:
    return model_hash(path) if path.is_dir() else content(path)


@cache
def _texts_hash() -> str:
    """The package's own texts that go into the data: prompts, elements, grammar."""
    digest = hashlib.sha256()
    for folder in ("elements", "grammar", "templates"):
        for file in sorted((files("libra_guard.synth") / "texts" / folder).iterdir(), key=lambda one: one.name):
            digest.update(f"{folder}/{file.name}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
