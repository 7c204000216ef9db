from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from libra_guard.errors import (
    BackendError,
    BusyError,
    DataError,
    DeniedError,
    HaltedError,
    LibraError,
    MissingExtraError,
    RefusedError,
    ServerError,
    StoppedError,
    UsageError,
    require,
)
from libra_guard.policy.marked import Problem
from libra_guard.policy.reading import PolicyError
from libra_guard.predict.judging import ModelLostError
from libra_guard.serve.batcher import ClosingError, DeadlineError, QueueFullError
from libra_guard.synth.seats.endpoints import EndpointsAwayError, EndpointsLostError


def test_every_error_is_one_for_people() -> None:
    for kind in (UsageError, DataError, BackendError, MissingExtraError):
        assert issubclass(kind, LibraError)


def test_what_is_there_is_imported() -> None:
    assert require("json", "hf").loads("1") == 1


@pytest.mark.parametrize("module", ["no_such_module", "no_such_module.part"])
def test_missing_extra_names_what_to_install(module: str) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'libra-guard\[hf\]'"):
        require(module, "hf")


def test_missing_extra_names_the_package_of_a_part() -> None:
    assert str(MissingExtraError("ray.data", "ray")) == "this needs the package 'ray': pip install 'libra-guard[ray]'"


@pytest.mark.parametrize(
    "error",
    [
        *(kind("why") for kind in (LibraError, UsageError, DataError, StoppedError, HaltedError)),
        *(kind("why") for kind in (BackendError, RefusedError, DeniedError, ServerError, ModelLostError)),
        *(kind("why") for kind in (EndpointsLostError, EndpointsAwayError)),
        BusyError("too many requests", after=3.0),
        BusyError("nobody is there", there=False),
        MissingExtraError("ray.data", "ray"),
        PolicyError("strict.yaml", [Problem("strict.yaml", 3, "", "not a number")]),
        QueueFullError(2.5),
        DeadlineError(),
        ClosingError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_back_whole_from_another_process(error: LibraError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


def test_a_module_that_lacks_one_of_its_own_needs_is_another_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed_module.py").write_text("import no_such_need\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_need"):
        require("half_installed_module", "hf")
    assert "half_installed_module" not in sys.modules
