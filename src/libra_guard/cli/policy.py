"""libra policy: the profiles that say what follows from a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from libra_guard.policy.marked import Problem
    from libra_guard.policy.profile import Policy

app = typer.Typer(help="Policy profiles: what follows from a verdict.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Profiles in YAML.")],
    as_json: JsonOption = False,
) -> None:
    """Check profiles: everything that is wrong or odd, each with its line.

    Exit status: 0 all in order, 1 in order but something is odd (a warning), 2 a profile cannot be used.
    """
    found = [_checked(file) for file in files]
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        for one in found:
            typer.echo("\n".join(_told(one)))
    worst = 2 if any(one["errors"] for one in found) else 1 if any(one["warnings"] for one in found) else 0
    raise typer.Exit(worst)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A bundled profile, or a file.")] = "default",
    as_json: JsonOption = False,
) -> None:
    """Print a profile with all that it leaves unsaid, what it extends and the bundled answers, as a profile in YAML."""
    from libra_guard.policy.reading import load_policy

    shown = _whole(load_policy(name))
    typer.echo(json.dumps(shown, ensure_ascii=False, indent=2) if as_json else _yaml(shown), nl=as_json)


@app.command("list")
def list_profiles(as_json: JsonOption = False) -> None:
    """List the bundled profiles."""
    from libra_guard.policy.reading import bundled_names, policy_file

    about = {name: _head(policy_file(name)) for name in bundled_names()}
    if as_json:
        rows = [{"name": name, "about": text} for name, text in about.items()]
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    width = max(map(len, about))
    for name, text in about.items():
        typer.echo(f"{name:{width}}  {text}")


def _checked(file: Path) -> dict[str, Any]:
    from libra_guard.policy.reading import PolicyError, read_policy

    try:
        profile = read_policy(file)
    except PolicyError as error:
        return {"file": str(file), "name": None, "errors": _rows(error.problems), "warnings": []}
    return {"file": str(file), "name": profile.policy.name, "errors": [], "warnings": _rows(profile.warnings)}


def _rows(problems: tuple[Problem, ...]) -> list[dict[str, Any]]:
    return [problem._asdict() for problem in problems]


def _told(one: dict[str, Any]) -> list[str]:
    from libra_guard.policy.marked import Problem

    lines = [f"{kind[:-1]}: {Problem(**problem)}" for kind in ("errors", "warnings") for problem in one[kind]]
    return lines or [f"{one['file']}: in order"]


def _whole(policy: Policy) -> dict[str, Any]:
    from libra_guard.policy.answers import bundled_answers

    own = {name: answer.model_dump(exclude_none=True) for name, answer in policy.answers.items()}
    answers = {name: answer.model_dump() | own.get(name, {}) for name, answer in bundled_answers().items()}
    return policy.model_dump(mode="json") | {"answers": answers}


def _yaml(shown: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(shown, allow_unicode=True, sort_keys=False, width=120)


def _head(path: Path) -> str:
    """The comment that a profile begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
