from __future__ import annotations

from typing import Any

import pytest

from libra_guard.predict.record import judged_otherwise

MODEL = {"guard": "libra", "threshold": 0.5, "backend": "transformers", "model": "/a/model", "model_hash": "sha256:1"}
RUN: dict[str, Any] = {
    "guard": {**MODEL, "adapter": None, "device": "cuda:0", "torch": "2.8.0", "dtype": "torch.bfloat16"},
    "data": "a.jsonl",
    "data_hash": "sha256:2",
    "shard": "0-of-2",
    "fields": {"question": "question", "target": "response"},
    "encoding": None,
    "explain": False,
    "chunk": 64,
    "machine": "Linux x86_64",
}


def changed(**guard: Any) -> dict[str, Any]:
    return {**RUN, "guard": {**RUN["guard"], **guard}}


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (changed(threshold=0.9), "guard.threshold 0.5 → 0.9"),
        (changed(guard="policy"), "guard.guard libra → policy"),
        (changed(model_hash="sha256:9"), "guard.model_hash sha256:1 → sha256:9"),
        (changed(adapter="/b/lora"), "guard.adapter (none) → /b/lora"),
        (changed(dtype="float32"), "guard.dtype torch.bfloat16 → float32"),
        (changed(calibration={"sha256": "sha256:3"}), 'guard.calibration (none) → {"sha256": "sha256:3"}'),
        ({**RUN, "data_hash": "sha256:5"}, "data_hash sha256:2 → sha256:5"),
        ({**RUN, "fields": {"question": "q", "target": "response"}}, "fields.question question → q"),
        ({**RUN, "explain": True}, "explain false → true"),
        ({**RUN, "encoding": "gbk"}, "encoding (none) → gbk"),
        ({k: v for k, v in RUN.items() if k != "data_hash"}, "data_hash sha256:2 → (none)"),
    ],
)
def test_what_makes_another_run(second: dict[str, Any], told: str) -> None:
    assert judged_otherwise(RUN, second) == [told]


def test_a_model_without_a_hash_is_told_by_its_name() -> None:
    first, second = ({**RUN, "guard": {"guard": "libra", "model": name, "revision": "1"}} for name in ("a/b", "a/c"))
    assert judged_otherwise(first, second) == ["guard.model a/b → a/c"]


def test_models_inside_others_count_too() -> None:
    first, second, third = (
        {**RUN, "guard": {"guard": "cascade", "members": [{**MODEL, "device": device, "threshold": threshold}]}}
        for device, threshold in (("cpu", 0.5), ("cuda:1", 0.5), ("cpu", 0.6))
    )
    assert judged_otherwise(first, second) == []
    assert len(judged_otherwise(first, third)) == 1


@pytest.mark.parametrize(
    "second",
    [
        changed(device="cpu", torch="2.9.0", transformers="5.0"),
        changed(model="/b/model"),
        {**RUN, "data": "/b/a.jsonl", "shard": "1-of-2", "chunk": 8, "machine": "Linux aarch64", "command": "x"},
    ],
)
def test_what_may_differ_from_machine_to_machine(second: dict[str, Any]) -> None:
    assert judged_otherwise(RUN, second) == []
