"""What the package shows, and what it does not drag in."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import libra_guard
from libra_guard.backends.registry import BACKENDS

SOURCE = Path(libra_guard.__file__).parent
LEAVES = (
    *("records", "messages", "errors", "io", "hub", "textfile", "jsonlist"),
    *("configuration", "plaintext", "taxonomy"),
)

HEAVY = {
    *(
        "torch",
        "transformers",
        "sklearn",
        "scipy",
        "pyarrow",
        "datasets",
        "pandas",
        "onnx",
        "onnxruntime",
        "tokenizers",
    ),
    *("openai", "anthropic", "matplotlib"),
}
LIGHT = (
    "libra_guard",
    "libra_guard.records",
    "libra_guard.errors",
    "libra_guard.io",
    "libra_guard.taxonomy",
    "libra_guard.backends.base",
    "libra_guard.backends.registry",
    "libra_guard.backends.ngrams",
    "libra_guard.backends.scripted",
    "libra_guard.guards.base",
    "libra_guard.guards.registry",
    "libra_guard.guards.classifier",
    "libra_guard.guards.libra",
    "libra_guard.guards.cascade",
    "libra_guard.guards.ensemble",
    "libra_guard.policy",
    "libra_guard.predict.runner",
    "libra_guard.data.registry",
    "libra_guard.train.recipe",
    "libra_guard.train.mixture",
    "libra_guard.train.card",
    "libra_guard.cli.main",
)


def test_public_names() -> None:
    assert {"UsageError", "BackendError", "MissingExtraError", "DataError", "Method"} <= set(libra_guard.__all__)
    assert list(libra_guard.__all__) == sorted(libra_guard.__all__)
    for name in libra_guard.__all__:
        assert getattr(libra_guard, name).__module__.startswith("libra_guard")
    namespace: dict[str, object] = {}
    exec("from libra_guard import *", namespace)
    assert set(libra_guard.__all__) <= set(namespace)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_are_light(module: str) -> None:
    program = f"import sys, {module}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & HEAVY


def imported(file: Path) -> set[str]:
    """The parts of the package that a file imports."""
    found = set[str]()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "libra_guard":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("libra_guard."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("libra_guard.")}
    return found


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_leaf_imports_leaves_alone(leaf: str) -> None:
    files = list((SOURCE / leaf).glob("*.py")) or [SOURCE / f"{leaf}.py"]
    assert set[str]().union(*map(imported, files)) <= set(LEAVES)


@pytest.mark.parametrize(
    ("files", "most"),
    [
        (list(SOURCE.rglob("*.py")), 500),
        (list((SOURCE / "cli").glob("*.py")), 180),
        ([SOURCE / "backends" / f"{name}.py" for name in BACKENDS], 250),
    ],
    ids=["all", "cli", "backends"],
)
def test_no_file_is_longer_than_its_kind_may_be(files: list[Path], most: int) -> None:
    lines = {file.name: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {name: count for name, count in lines.items() if count > most} == {}
