from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from libra_guard import errors
from libra_guard.backends.base import Prompt
from libra_guard.backends.registry import BACKENDS, load_backend


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(errors.UsageError, match=r"no backend 'vlm'; there are: anthropic, onnx, openai, scripted, tr"):
        load_backend("vlm", "x")


def test_unknown_option_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match=r"unexpected keyword argument 'devise'; its options are: device"):
        load_backend("transformers", str(tmp_path), devise="cpu")


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str, *_: object) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(errors.importlib, "import_module", gone)
    with pytest.raises(errors.MissingExtraError, match=r"'stamina'|'openai'.*libra-guard\[api\]"):
        load_backend("openai", "gpt")


def test_loads_with_options(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"generate": ["好"]}), encoding="utf-8")
    backend = load_backend("scripted", str(script), context=99)
    assert backend.context == 99
    assert backend.generate([Prompt.from_user("问")]) == ["好"]


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_every_entry_is_there(name: str) -> None:
    for needed in BACKENDS[name].needs:
        pytest.importorskip(needed)
    assert BACKENDS[name].load().name == name


def test_importing_the_registry_is_light() -> None:
    code = (
        "import sys, libra_guard.backends.registry, libra_guard.backends.control_tokens\n"
        "print([m for m in ('torch', 'transformers', 'openai', 'anthropic', 'stamina') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
