"""The file of a fitted cascade: the guards as their runs name them, the limits, and where it all comes from."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import yaml

import libra_guard
from libra_guard.errors import UsageError
from libra_guard.evaluate.cascade import CascadeGoal, Fit, Runs
from libra_guard.evaluate.runs import Run
from libra_guard.evaluate.significance import Comparison
from libra_guard.guards.cascade import CascadeFile, FittedOn
from libra_guard.guards.combined import PATHS, MemberSpec
from libra_guard.io import file_hash
from libra_guard.predict.shards import RECORD, common_and_own
from libra_guard.records import Target

_ELSEWHERE = set(Comparison.model_fields) - {"only_first_right", "only_second_right", "p_accuracy"}
"""Of the comparison, what the figures tell, or was not asked for."""
_HASHED = {"adapter": "adapter_hash", "calibration": "calibration"}
"""Options that were paths where the run's provenance has this."""


class Written(NamedTuple):
    """A cascade's file."""

    text: str
    complaints: list[str]
    """What is to be filled in by hand, in words."""


class _Member(NamedTuple):
    spec: MemberSpec
    complaints: list[str]


def cascade_file(
    runs: Runs,
    found: Fit,
    goal: CascadeGoal,
    *,
    out: Path,
    fast: str | None = None,
    strong: str | None = None,
    command: str = "",
) -> Written:
    """The YAML that ``cascade:FILE`` reads.

    Limits of questions stand beside those of the answers: they come into the file that is there, which is kept
    otherwise. Limits of answers make a new file, with those of the questions in the one that is there.

    Args:
        runs: What the limits were fitted on.
        found: The limits and their figures.
        goal: What they were fitted to.
        out: Where the file will stand; paths in it are relative to its folder.
        fast: ``NAME`` or ``NAME:MODEL`` of the fast guard, in place of that of its run.
        strong: Of the strong guard, likewise.
        command: Kept in the file.

    Raises:
        UsageError: A run does not tell its guard, or was made with another one than was named; a model is not where
            the run found it; the questions were judged, and there is no file with the answers' limits; or the file
            that is there is no cascade, or has limits of other guards.
    """
    target = runs.fast.fields.target or Target.RESPONSE
    about = {target.value: _about(runs, found, goal, command)}
    fitted_on = FittedOn(fast=runs.fast.guard or {}, strong=runs.strong.guard or {})
    present = CascadeFile.read(out) if out.exists() else None
    if present is not None and (target is Target.PROMPT or present.prompt is not None):
        _check_guards(present, runs, fitted_on, out)
    if target is Target.PROMPT:
        if present is None:
            why = "the questions were judged, and their limits stand beside those of the answers"
            raise UsageError(f"{out}: {why}: fit those first, with the same --out")
        if fast or strong:
            raise UsageError(f"{out} names the guards: leave out --fast-guard and --strong-guard")
        added = {"prompt": found.limits, "fitted_on": present.fitted_on or fitted_on}
        return Written(_text(present.model_copy(update={**added, "provenance": present.provenance | about})), [])
    members = _member("fast", runs.fast, fast, out.parent), _member("strong", runs.strong, strong, out.parent)
    prompt = present and present.prompt
    file = CascadeFile(
        fast=members[0].spec,
        strong=members[1].spec,
        **found.limits.model_dump(),
        prompt=prompt,
        fitted_on=fitted_on,
        provenance=(present.provenance if present and prompt else {}) | about,
    )
    return Written(_text(file), [words for member in members for words in member.complaints])


def _text(file: CascadeFile) -> str:
    """The YAML, with no more in it than has to be told."""
    told = file.model_dump(exclude_defaults=True)
    settings = {"fast": _plain(told.pop("fast")), "strong": _plain(told.pop("strong")), **told}
    return yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)


def _about(runs: Runs, found: Fit, goal: CascadeGoal, command: str) -> dict[str, Any]:
    """How the limits were come by."""
    return {
        "command": command,
        "goal": {"calls": goal.calls, "lose": goal.lose},
        "labels": {"path": str(runs.labels), "sha256": file_hash(runs.labels)},
        "predictions": {
            name: {"path": str(run.path), "sha256": file_hash(run.path)}
            for name, run in {"fast": runs.fast, "strong": runs.strong}.items()
        },
        **found.model_dump(mode="json", exclude={"limits": True, "comparison": _ELSEWHERE}),
        "versions": {
            "libra-guard": libra_guard.__version__,
            "python": platform.python_version(),
            "numpy": version("numpy"),
        },
    }


def _check_guards(present: CascadeFile, runs: Runs, fitted_on: FittedOn, out: Path) -> None:
    """Sees to it that limits of one guard do not come to stand beside those of another."""
    try:
        for run, spec in ((runs.fast, present.fast), (runs.strong, present.strong)):
            _check_name(run, spec.guard.partition(":")[0])
        if present.fitted_on is not None:
            present.fitted_on.check(fitted_on.fast, fitted_on.strong)
    except UsageError as error:
        raise UsageError(f"{out} is there, with limits of other guards: {error}: choose another --out") from None


def _check_name(run: Run, name: str) -> None:
    made = (run.guard or {}).get("guard", name)
    if made != name:
        raise UsageError(f"{run.path}: was made with the guard '{made}', not with '{name}'")


def _member(side: str, run: Run, given: str | None, folder: Path) -> _Member:
    """A guard for the file: as its run was asked for it, by another name where one is given."""
    asked, complaints = _asked(side, run, given)
    name, _, model = asked.guard.partition(":")
    _check_name(run, name)
    told = run.guard or {}
    guard = asked.guard
    if model:
        lost = f"run it where 'libra infer' ran, or name it with --{side}-guard" if "model_hash" in told else None
        guard = f"{name}:{_from(folder, model, run, lost)}"
    options = dict(asked.options)
    for key in options.keys() & set(PATHS):
        lost = "run it where 'libra infer' ran" if _HASHED.get(key) in told else None
        options[key] = _from(folder, options[key], run, lost)
    if not told:
        complaints = [*complaints, f"{side}: no {RECORD} tells its model, so it is not checked when the file is loaded"]
    return _Member(MemberSpec(guard=guard, backend=asked.backend, options=options), complaints)


def _asked(side: str, run: Run, given: str | None) -> _Member:
    """What a run's guard was loaded by, as ``infer`` kept it; paths as they were given there.

    The shards have one guard, but each may run on a machine of its own: options that differ are left out.
    """
    flag = f"name it with --{side}-guard"
    found = [asked for asked in (part.get("asked") for part in run.parts) if _is_asked(asked)]
    if given is None and not found:
        raise UsageError(f"{run.path}: no {RECORD} here tells what its guard was loaded by: {flag}")
    guards = list(dict.fromkeys(asked["guard"] for asked in found))
    if given is None and len(guards) > 1:
        raise UsageError(f"{run.path}: its guard is {' in one shard, in another '.join(guards)}: {flag}")
    if not found:
        unknown = f"{side}: nothing tells its backend and options; fill in by hand what is not as usual"
        return _Member(MemberSpec(guard=str(given)), [unknown])
    options, own = common_and_own([asked["options"] for asked in found])
    left = sorted({name for asked in found for name in asked.get("left_out", ())})
    other = sorted({name for options in own for name in options})
    complaints = []
    if left:
        complaints.append(f"{side}: {', '.join(left)}: in no record; fill in by hand, or by the environment")
    if other:
        complaints.append(f"{side}: {', '.join(other)}: not the same in all shards; fill in by hand")
    return _Member(MemberSpec(guard=given or guards[0], backend=found[0].get("backend"), options=options), complaints)


def _is_asked(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and isinstance(value.get("guard"), str) and isinstance(value.get("options"), dict)


def _from(folder: Path, value: Any, run: Run, lost: str | None) -> Any:
    """The way from the file's folder to what is there under that name; else the value as it is.

    Raises:
        UsageError: Nothing is there, and ``lost`` says what to do then.
    """
    try:
        found = Path(value).expanduser()
        there = found.exists()
    except (TypeError, ValueError, OSError, RuntimeError):
        return value
    if not there and lost:
        raise UsageError(f"{run.path}: there is no '{value}' here: {lost}")
    return os.path.relpath(found.resolve(), folder.resolve()) if there else value


def _plain(told: dict[str, Any]) -> str | dict[str, Any]:
    """A guard as a file names it: by its name alone, where that tells it all."""
    return str(told["guard"]) if told.keys() == {"guard"} else told
