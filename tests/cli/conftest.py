"""The command as a person runs it, in a process of its own, and inside this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from libra_guard.cli.main import app

Libra = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="session")
def libra() -> Libra:
    """Runs ``libra`` without a terminal; ``stdin`` is bytes, by default nothing at all."""

    def run(*arguments: str | bytes, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        plain = {k: v for k, v in os.environ.items() if k not in {"FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"}}
        command = [sys.executable, "-m", "libra_guard.cli.main", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, cwd=cwd, env=plain, timeout=60, check=False)

    return run


@pytest.fixture
def call() -> Callable[..., Result]:
    """Runs the command inside this process: quicker, but errors for people reach the test as exceptions."""

    def run(*arguments: str, stdin: bytes | str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin)

    return run
