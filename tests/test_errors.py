from __future__ import annotations

import sys
from pathlib import Path

import pytest

from libra_guard.errors import BackendError, DataError, LibraError, MissingExtraError, UsageError, require


def test_every_error_is_one_for_people() -> None:
    for kind in (UsageError, DataError, BackendError, MissingExtraError):
        assert issubclass(kind, LibraError)


def test_what_is_there_is_imported() -> None:
    assert require("json", "hf").loads("1") == 1


@pytest.mark.parametrize("module", ["no_such_module", "no_such_module.part"])
def test_missing_extra_names_what_to_install(module: str) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'libra-guard\[hf\]'"):
        require(module, "hf")


def test_a_module_that_lacks_one_of_its_own_needs_is_another_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed_module.py").write_text("import no_such_need\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_need"):
        require("half_installed_module", "hf")
    assert "half_installed_module" not in sys.modules
