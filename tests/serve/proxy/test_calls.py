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


def called(name: str | None, arguments: str, **fields: Any) -> dict[str, Any]:
    return {**fields, "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("index", [{"index": 0}, {}, {"index": None}])
def test_another_call_at_the_same_index_is_another_call(index: dict[str, Any]) -> None:
    weather, time = called("weather", '{"city": "北京"}', id="a"), called("time", '{"tz": ', id="b")
    calls = Calls()
    for one in (weather, time, called(None, '"cn"}', id="")):
        calls.feed({"tool_calls": [{**index, **one}]})
    assert calls.complete["tool_calls"] == [
        {"index": 0, **weather},
        {"index": 1, **called("time", '{"tz": "cn"}', id="b")},
    ]
    assert calls.text == "weather\ncity\n北京\ntime\ntz\ncn"


def test_another_call_takes_an_index_that_is_free() -> None:
    calls = Calls()
    calls.feed({"tool_calls": [called("f", "", index=i, id=f"{i}") for i in (0, 5)]})
    calls.feed({"tool_calls": [called("g", "", index=0, id="new")]})
    calls.feed({"tool_calls": [called(None, "1", index=5), called(None, "2", index=0)]})
    found = [(call["index"], call["function"]) for call in calls.complete["tool_calls"]]
    assert found == [
        (0, {"name": "f", "arguments": ""}),
        (5, {"name": "f", "arguments": "1"}),
        (6, {"name": "g", "arguments": "2"}),
    ]


def test_a_call_whose_id_changes_from_delta_to_delta_is_one() -> None:
    calls = Calls()
    for i, part in enumerate(['{"a"', ": 1", "}"]):
        calls.feed({"tool_calls": [called("f" if i == 0 else None, part, index=0, id=f"{i}")]})
    assert [call["function"] for call in calls.complete["tool_calls"]] == [{"name": "f", "arguments": '{"a": 1}'}]


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
