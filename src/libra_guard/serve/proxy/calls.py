"""Calls of tools in an answer or a request: put together, and what they say."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from libra_guard.messages import CALL_FIELDS
from libra_guard.serve.proxy.fields import strings
from libra_guard.serve.proxy.upstream import UpstreamError

CALLS = "tool_calls"
"""Under this name calls of tools are judged; they belong to the answer too."""
_MAX_CALLS = 1_000_000
"""Characters of a choice's calls, which are kept until they are complete."""
_HOLDERS = ("function", "custom")
_GROWING = ("name", "arguments", "input")
"""Of a call: texts that deltas carry on."""
# Keys are texts too, and of two keys of one name both are read.
_JSON = json.JSONDecoder(object_pairs_hook=lambda pairs: [part for pair in pairs for part in pair])
_SHOWN = re.compile(r"\S")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")


class Calls:
    """A choice's calls of tools, put together from one message or from deltas."""

    def __init__(self) -> None:
        self._calls: list[dict[str, Any]] = []
        self._current: dict[int, dict[str, Any]] = {}
        """By index: the call that deltas carry on."""
        self._free = 0
        """An index that no call has; neither has any after it."""
        self._legacy: dict[str, Any] = {}
        self._size = 0

    def feed(self, message: Mapping[str, Any]) -> bool:
        """Takes the calls in a message or delta; whether there are any.

        Raises:
            UpstreamError: They are not of the form that the API promises, or too long.
        """
        calls, legacy = message.get(CALLS) or [], message.get("function_call") or {}
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in [*calls, legacy]):
            raise UpstreamError("garbage", "the upstream sent calls of tools that cannot be read")
        self._size += sum(map(len, strings([*calls, legacy], marks=True))) + len(calls)
        if self._size > _MAX_CALLS:
            raise UpstreamError("garbage", f"the upstream calls tools with more than {_MAX_CALLS:,} characters")
        for i, call in enumerate(calls):
            index = call.get("index")
            delta = {key: value for key, value in call.items() if key != "index"}
            _merge(self._at(index if isinstance(index, int) else i, delta), delta)
        _merge(self._legacy, legacy)
        return bool(calls or legacy)

    @property
    def complete(self) -> dict[str, Any]:
        """The fields of a message or delta that has all of them."""
        found = {CALLS: [_whole(call) for call in self._calls], "function_call": _whole(self._legacy)}
        return {name: calls for name, calls in found.items() if calls}

    @property
    def text(self) -> str:
        """Names, and all keys and texts in the arguments; where these are no JSON, as they are."""
        return "\n".join(said_by_calls([*map(_whole, self._calls), _whole(self._legacy)]))

    def _at(self, index: int, delta: Mapping[str, Any]) -> dict[str, Any]:
        """The call that a delta carries on, or begins: some servers begin one at the index of another."""
        call = self._current.get(index)
        if call is None or _begins_another(call, delta):
            call = {"index": index if call is None else self._free}
            self._calls.append(call)
            self._current[index] = self._current[call["index"]] = call
            self._free = max(self._free, call["index"] + 1)
        return call


def said_by_calls(calls: Iterable[Any], holders: Collection[str] = _HOLDERS) -> Iterator[str]:
    """The texts in calls of tools: names, and all keys and texts in the arguments, whatever they are called.

    Args:
        calls: In the form of ``tool_calls`` or of ``function_call``.
        holders: Under which keys of a call its name and arguments may stand.
    """
    for call in calls:
        for key, value in call.items() if isinstance(call, dict) else ():
            if key in holders and isinstance(value, dict):
                yield from said_by_calls([value], ())
            elif key in _GROWING:
                yield from strings(_parsed(value) if isinstance(value, str) and key != "name" else value, marks=True)
            else:
                yield from strings({key: value})


def without_calls(message: dict[str, Any]) -> bool:
    """Takes calls of tools out of a message or delta; whether something is left."""
    for name in CALL_FIELDS:
        message.pop(name, None)
    return any(value for name, value in message.items() if name != "role")


def readable(texts: Iterable[str]) -> str:
    """Texts as one that can be judged: without JSON's escapes and lone halves of characters."""
    return _unescaped("\n".join(texts)).encode("utf-8", "replace").decode()


def _unescaped(text: str) -> str:
    """A text with characters in place of JSON's escapes of them, which a guard would not read."""
    return _ESCAPED.sub(lambda escaped: chr(int(escaped[1], 16)), text)


def _begins_another(call: Mapping[str, Any], delta: Mapping[str, Any]) -> bool:
    # By the id alone it could not be told: some servers give every delta of a call a new one.
    named = any(isinstance(inner := delta.get(holder), dict) and inner.get("name") for holder in _HOLDERS)
    return bool(named and delta.get("id") and call.get("id") and delta["id"] != call["id"])


class _Pieces(list[str]):
    """A text that grows."""


def _merge(call: dict[str, Any], delta: Mapping[str, Any], holders: Collection[str] = _HOLDERS) -> None:
    for key, value in delta.items():
        before = call.get(key)
        if key in _GROWING and isinstance(value, str):
            call[key] = before if isinstance(before, _Pieces) else _Pieces()
            call[key] += [value] if value else []
        elif key in holders and isinstance(value, dict):
            call[key] = before if isinstance(before, dict) else {}
            _merge(call[key], value, ())
        elif value or key not in call:
            call[key] = value


def _whole(call: Mapping[str, Any], holders: Collection[str] = _HOLDERS) -> dict[str, Any]:
    found = dict[str, Any]()
    for key, value in call.items():
        if isinstance(value, _Pieces):
            found[key] = "".join(value)
        else:
            found[key] = _whole(value, ()) if key in holders and isinstance(value, dict) else value
    return found


def _parsed(arguments: str) -> list[Any]:
    """The JSON in a text, of which there may be several, and what comes after it as a text."""
    found, end = list[Any](), 0
    with suppress(ValueError, RecursionError):
        # By index: to copy the rest after each of thousands of values would take minutes.
        while shown := _SHOWN.search(arguments, end):
            value, end = _JSON.raw_decode(arguments, shown.start())
            found.append(value)
    rest = arguments[end:].strip()
    return [*found, _unescaped(rest)] if rest else found
