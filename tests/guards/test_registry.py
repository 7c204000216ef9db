from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from libra_guard.backends.registry import BACKENDS
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import BackendError, UsageError
from libra_guard.guards.base import Guard
from libra_guard.guards.classifier import MiniGuard, NgramGuard
from libra_guard.guards.libra import LibraGuard
from libra_guard.guards.registry import GUARDS, guard_entry, load_guard
from libra_guard.records import Conversation, Label, Method, Target


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"choose": {"": [0.2, 0.8]}, "generate": {"": "x"}}), encoding="utf-8")
    return str(path)


# Wrong names


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("minni", "did you mean 'mini'"),
        ("Libra:m", "did you mean 'libra'"),
        ("ngrams:m", "did you mean 'ngram'"),
        ("xyz", "no guard is called 'xyz'; known are mini"),
        ("", "no guard is called ''"),
        (":model", "no guard is called ''"),
        ("libra", "'libra' needs a model: libra:MODEL, where MODEL is a folder or hub name"),
        ("ngram:", "'ngram' needs a model"),
    ],
)
def test_wrong_names(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_guard(spec)


def test_no_guess_where_nothing_is_near() -> None:
    with pytest.raises(UsageError) as caught:
        guard_entry("qqqqqqqq")
    assert "did you mean" not in str(caught.value)


def test_wrong_backend(script: str) -> None:
    with pytest.raises(UsageError, match="'mini' runs on onnx, transformers, not on 'openai'"):
        load_guard("mini", backend="openai")


@pytest.mark.parametrize("name", ["colour", "language", "threads", "self", "spec"])
def test_a_misspelt_option_is_told_all_names(script: str, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_guard(f"libra:{script}", backend="scripted", **{name: 1})
    told = str(caught.value)
    assert told.startswith(f"there is no option '{name}': the guard 'libra' has threshold, examples, few_shot, ")
    assert told.endswith("; the backend 'scripted' has generate, choose, logits, context")


@pytest.mark.parametrize("name", ["model", "name"])
def test_what_is_given_elsewhere_is_no_option(script: str, name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' cannot be set as an option: .*NAME:MODEL"):
        load_guard(f"libra:{script}", backend="scripted", **{name: "x"})


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("mini", {"threads": 1.5}, r"threads=1\.5: Input should be a valid integer"),
        ("mini", {"threads": "many"}, "threads=many: Input should be a valid integer"),
        ("mini", {"threads": -3}, "threads is -3; it must be at least 1"),
        ("mini", {"threads": 0}, "threads is 0; it must be at least 1"),
        ("mini", {"threshold": "high"}, "threshold=high: Input should be a valid number"),
        ("mini", {"language": 5}, "language=5: Input should be a valid string; .*in quotes"),
        ("libra", {"context": "long"}, "context=long: Input should be a valid integer"),
        ("libra", {"context": 0}, "context is 0; it must be at least 1"),
        ("libra", {"choose": 5}, "choose=5: Input should be"),
        ("libra", {"examples": 5}, "examples=5: Input should be"),
        ("libra", {"instruct": "perhaps"}, "instruct=perhaps: Input should be a valid boolean"),
    ],
)
def test_options_of_a_wrong_type(script: str, spec: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_guard(
            spec if spec == "mini" else f"libra:{script}", backend=None if spec == "mini" else "scripted", **options
        )


@pytest.mark.parametrize("spec", [Path("mini"), None, 5])
def test_a_name_that_is_no_text(spec: Any) -> None:
    with pytest.raises(TypeError, match="a guard is named by a text, NAME or NAME:MODEL, not by a"):
        load_guard(spec)


def test_unknown_method(script: str) -> None:
    with pytest.raises(UsageError, match="method=guess: Input should be 'choose', 'generate'"):
        load_guard(f"libra:{script}", backend="scripted", method="guess")


@pytest.mark.parametrize("spec", ["ngram:/no/such/folder", "mini:/no/such/folder"])
def test_missing_model(spec: str) -> None:
    with pytest.raises(UsageError, match=r"/no/such/folder: no model\.onnx here"):
        load_guard(spec)


def test_the_bundled_weights_are_not_asked_of_a_backend_that_cannot_run_them() -> None:
    with pytest.raises(UsageError, match="the bundled 'mini' runs on onnx; 'transformers' needs a model"):
        load_guard("mini", backend="transformers")


# Entries


@pytest.mark.parametrize("name", list(GUARDS))
def test_every_entry_is_true(name: str) -> None:
    entry = GUARDS[name]
    module, _, attribute = entry.factory.partition(":")
    guard_class = getattr(importlib.import_module(module), attribute)
    assert issubclass(guard_class, Guard)
    assert (entry.name, guard_class.name) == (name, name)
    assert set(entry.judges) == {target.value for target in guard_class.targets}
    assert set(entry.backends) <= set(BACKENDS)
    assert entry.extra in (None, BACKENDS[entry.backends[0]].extra)
    assert entry.model or entry.bundled
    assert bool(entry.bundled) == bool(entry.bundled_on)
    assert set(entry.bundled_on) <= set(entry.backends)
    assert not entry.bundled or entry.backends[0] in entry.bundled_on
    assert entry.summary
    assert entry.languages


@pytest.mark.parametrize("name", list(GUARDS))
def test_released_models_are_told_with_licence_and_size(name: str) -> None:
    entry = GUARDS[name]
    # What runs on transformers by default was released by someone; the rest is bundled or the user's own.
    assert bool(entry.hub) is (entry.extra == "hf")
    assert bool(entry.licence) is bool(entry.size) is bool(entry.hub or entry.bundled)


# Loading


def test_options_go_where_they_belong(script: str) -> None:
    guard = load_guard(
        f"libra:{script}", backend="scripted", threshold=0.9, method="generate", max_new_tokens=5, context=4096
    )
    assert isinstance(guard, LibraGuard)
    assert isinstance(guard.backend, ScriptedBackend)
    assert (guard.threshold, guard.method, guard.backend.context) == (0.9, Method.GENERATE, 4096)
    guard.judge([Conversation.from_pair("问", "答")])
    assert guard.backend.calls[-1].options["max_tokens"] == 5


def test_a_path_may_hold_colons(tmp_path: Path) -> None:
    path = tmp_path / "a:b.json"
    path.write_text(json.dumps({"choose": {"": [0.2, 0.8]}}), encoding="utf-8")
    (verdict,) = load_guard(f"libra:{path}", backend="scripted").judge([Conversation.from_pair("问", "答")])
    assert verdict.label is Label.UNSAFE


def test_classifiers_of_one_s_own(tokens_folder: Path, ngrams_folder: Path) -> None:
    mini = load_guard(f"mini:{tokens_folder}", language="en", threads=1)
    ngram = load_guard(f"ngram:{ngrams_folder}", threshold=0.25)
    assert isinstance(mini, MiniGuard)
    assert isinstance(ngram, NgramGuard)
    assert (mini.language, ngram.threshold) == ("en", 0.25)
    assert mini.targets == frozenset(Target)


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BackendError, match="cannot load it"):
        load_guard(f"ngram:{tmp_path}")


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        (
            "from libra_guard.guards.registry import GUARDS; assert GUARDS",
            {"torch", "transformers", "onnxruntime", "tokenizers", "datasets", "pyarrow", "sklearn", "scipy", "openai"},
        ),
        ("import libra_guard.predict.runner", {"torch", "transformers", "onnxruntime", "datasets", "sklearn"}),
        (
            "from libra_guard.guards.registry import load_guard; load_guard('ngram:' + FOLDER)",
            {"torch", "transformers", "datasets", "sklearn", "scipy", "openai", "pyarrow"},
        ),
    ],
)
def test_what_a_fresh_interpreter_imports(code: str, forbidden: set[str], ngrams_folder: Path) -> None:
    script = f"FOLDER = {str(ngrams_folder)!r}; {code}; import sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert forbidden & set(done.stdout.split()) == set()
