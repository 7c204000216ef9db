"""What the package shows, and what it does not drag in."""

from __future__ import annotations

import subprocess
import sys

import pytest

import libra_guard

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
