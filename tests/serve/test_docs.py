"""What docs/serving.md says of the server, held against the server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from libra_guard.serve.app import create_app
from libra_guard.serve.settings import ServerSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def shown(default: Any) -> str:
    """A default as a variable of the environment would have it."""
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


def test_the_table_has_every_setting_with_its_default() -> None:
    table = PAGE.partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0]
    rows = re.findall(r"^\| `([A-Z_]+)` \| (?:`(\S+)` )?\| \S.* \|$", table, re.MULTILINE)
    assert rows == [(name.upper(), shown(f.default)) for name, f in ServerSettings.model_fields.items()]


@pytest.mark.parametrize("page", ["docs/serving.md", "README.md", "README.zh-CN.md"])
def test_paths_and_variables_that_are_named_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = set(create_app(ServerSettings(), {}).openapi()["paths"])
    assert set(re.findall(r"`(?:[A-Z]+ )?(/v1/[\w/]+|/\w+z|/metrics)`", text)) <= paths
    variables = {name.lower() for name in re.findall(r"LIBRA_SERVE_(\w+)", text)}
    assert variables <= set(ServerSettings.model_fields)


def test_every_path_is_told() -> None:
    table = PAGE.partition("| path |")[2].partition("\n\n")[0]
    told = set(re.findall(r"(/v1/[\w/]+|/\w+z|/metrics)`", table))
    paths = {path for path in create_app(ServerSettings(), {}).openapi()["paths"] if "{" not in path}
    assert paths == told


def test_every_option_that_is_named_is_there() -> None:
    from typer.main import get_command

    from libra_guard.cli.main import app

    options = {name for parameter in get_command(app).commands["serve"].params for name in parameter.opts}  # type: ignore[attr-defined]
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) <= options
