"""Calls of tools, put together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi")

from libra_guard.serve.proxy import calls as module
from libra_guard.serve.proxy.calls import Calls, said_by_calls


@pytest.mark.parametrize("arguments", ['{"data": "word"}', {"data": "word"}, ["data", "word"]])
def test_every_key_and_word_is_said(arguments: Any) -> None:
    calls = Calls()
    assert calls.feed({"tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": arguments}}]})
    assert calls.text == "f\ndata\nword"


def test_deltas_become_whole_calls() -> None:
    calls = Calls()
    for function in ({"name": "f", "arguments": ""}, {"arguments": '{"a"'}, {"name": None, "arguments": ": 1}"}):
        calls.feed({"tool_calls": [{"index": 1, "id": None, "function": function}]})
    calls.feed({"tool_calls": [{"index": 0, "id": "b", "x": {"y": 1}, "custom": {"name": "g", "input": "好"}}]})
    assert calls.complete == {
        "tool_calls": [
            {"index": 1, "id": None, "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"index": 0, "id": "b", "x": {"y": 1}, "custom": {"name": "g", "input": "好"}},
        ]
    }
    assert not Calls().feed({"content": "好"})


def test_many_values_are_read_without_a_copy_of_the_rest_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, decode, texts = '1 \u3000{"a": "b"}' * 1000 + " 尾", module._JSON.raw_decode, list[str]()

    def decoded(text: str, *at: int) -> Any:
        texts.append(text)
        return decode(text, *at)

    monkeypatch.setattr(module, "_JSON", SimpleNamespace(raw_decode=decoded))
    said = list(said_by_calls([{"function": {"name": "f", "arguments": arguments}}]))
    assert said == ["f", *["a", "b"] * 1000, "尾"]
    assert len(texts) == 2001
    assert all(text is arguments for text in texts)
