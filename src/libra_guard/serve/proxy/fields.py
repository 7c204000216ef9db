"""Which fields of an upstream's answer come down, and where in them there is text.

Beside the texts that are judged, what comes down is known fields and numbers: text in another place would leave unread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_MARKS = frozenset({"id", "type", "name", "format", "signature", "thought_signature"})
"""What stands under these keys is no text for people, where it looks like it."""
_BYTES = frozenset({"data", "encrypted_content"})
"""Nor is this, but sounds and the like, which nobody judges."""
_URLS = frozenset({"url", "image_url"})
_DATA_URL = re.compile(r"data:[!-+\--~]{0,128};base64,[a-z0-9+/=_-]*", re.ASCII | re.IGNORECASE)
_MARK = re.compile(r"[!-~]*")
"""Without a space or a character beyond ASCII."""
_SHORT_MARK = re.compile(r"[!-~]{0,128}")
_KEY = re.compile(r"[\w$.-]{1,64}", re.ASCII)
_MARKED = frozenset(
    (
        *("id", "object", "model", "system_fingerprint", "service_tier", "provider", "usage", "x_groq"),
        *("prompt_filter_results", "content_filter_results"),
        *("finish_reason", "native_finish_reason", "stop_reason", "matched_stop"),
    )
)
"""Of a completion, a chunk or a choice: may hold marks besides numbers."""
_OF_TOKENS = ("id", "logprob", "bytes")
_LONGEST_TOKEN = 64
_DEEPEST = 16
_DEEPEST_READ = 100
"""What can be read a thousand levels deep cannot be written again; no answer is a hundred deep."""


def read_json(text: str) -> Any:
    """What an upstream's JSON says.

    Raises:
        ValueError: It is none, or one within another too often.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("too deep") from None
    level = [found]
    for _ in range(_DEEPEST_READ):
        holders = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [inner for holder in holders for inner in holder]
        if not level:
            return found
    raise ValueError("too deep")


def is_key(name: str) -> bool:
    """Whether a key looks like the name of a field, and not like text."""
    return _KEY.fullmatch(name) is not None


def strings(value: Any, *, marks: bool = False) -> Iterator[str]:
    """The texts in a JSON value, in order.

    Args:
        value: Of any depth.
        marks: Whether every text and every key is one; otherwise those that only name or mark something are left out,
            and bytes.
    """
    for key, text in _under_keys(value, keys=marks):
        if marks or not ((key in _MARKS and _MARK.fullmatch(text)) or _is_bytes(key, text)):
            yield text


def has_bytes(value: Any) -> bool:
    """Whether there are bytes in a JSON value, such as sounds and pictures, which ``strings`` leaves out."""
    return any(text and _is_bytes(key, text) for key, text in _under_keys(value, keys=False))


def _is_bytes(key: str, text: str) -> bool:
    if key in _URLS:
        return _DATA_URL.fullmatch(text) is not None
    return key in _BYTES and _MARK.fullmatch(text) is not None


def _under_keys(value: Any, *, keys: bool) -> Iterator[tuple[str, str]]:
    """The texts in a JSON value, each with the key that it stands under, and keys: all, or those that are texts too."""
    left: list[tuple[str, Any]] = [("", value)]
    while left:
        key, inner = left.pop()
        if isinstance(inner, str):
            yield key, inner
        elif isinstance(inner, dict):
            for name, under in reversed(inner.items()):
                left.append((name, under))
                if keys or not is_key(name):
                    left.append(("", name))
        elif isinstance(inner, list):
            left += [(key, under) for under in reversed(inner)]


def known_fields(found: Mapping[str, Any], model: str) -> dict[str, Any]:
    """A completion or chunk without its choices, and without text.

    Known fields keep marks, such as ids; of others numbers, booleans and null stay. ``libra`` is this server's own.

    Args:
        found: As the upstream sent it.
        model: As it was asked for; stands in the place of a name that is no mark.
    """
    kept = {
        name: _without_text(value, marks=name in _MARKED)
        for name, value in found.items()
        if is_key(name) and name not in ("choices", "libra") and _may_stay(value, marks=name in _MARKED)
    }
    return kept if "model" in kept or "model" not in found else {**kept, "model": model}


def keep_known(choice: dict[str, Any], place: str, *, tokens: bool) -> None:
    """Takes out of a choice what nobody judges.

    Args:
        choice: Changed.
        place: Of its message: ``message`` or ``delta``.
        tokens: Whether log probabilities may hold tokens that do not stand in the text.
    """
    message = choice[place]
    for name in [name for name in message if name == "libra" or not is_key(name)]:
        del message[name]
    if message.get("role") is not None:
        message["role"] = "assistant"
    ending = choice.get("finish_reason")
    logprobs = choice.get("logprobs")
    kept = {
        name: _without_text(value, marks=name in _MARKED)
        for name, value in choice.items()
        if is_key(name) and name not in (place, "logprobs", "libra") and _may_stay(value, marks=name in _MARKED)
    }
    if ending and not kept.get("finish_reason"):
        kept["finish_reason"] = "stop"
    if "logprobs" in choice:
        kept["logprobs"] = logprobs if tokens else _in_text(logprobs, "".join(strings(message, marks=True)))
    choice.clear()
    choice.update({place: message, **kept})


def _in_text(logprobs: Any, text: str) -> dict[str, Any] | None:
    """Log probabilities of tokens that stand in the text, which is judged."""
    if not isinstance(logprobs, dict):
        return None
    found = dict[str, Any]()
    for name, entries in logprobs.items():
        if name in ("content", "refusal") and isinstance(entries, list):
            found[name] = [_token(entry) for entry in entries if _stands(entry, text)]
        elif is_key(name) and _may_stay(entries, marks=False):
            found[name] = _without_text(entries, marks=False)
    return found


def _stands(entry: Any, text: str) -> bool:
    token = entry.get("token") if isinstance(entry, dict) else None
    # A part of a character's bytes is shown as U+FFFD.
    return isinstance(token, str) and token.strip("\ufffd") in text


def _token(entry: Mapping[str, Any]) -> dict[str, Any]:
    token = entry["token"][:_LONGEST_TOKEN]
    found = {"token": token, **{name: _without_text(entry[name], marks=False) for name in _OF_TOKENS if name in entry}}
    if isinstance(others := entry.get("top_logprobs"), list):
        named = [other for other in others if isinstance(other, dict) and isinstance(other.get("token"), str)]
        found["top_logprobs"] = [_token({**other, "top_logprobs": None}) for other in named]
    return found


def _may_stay(value: Any, *, marks: bool) -> bool:
    return not isinstance(value, str) or (marks and _SHORT_MARK.fullmatch(value) is not None)


def _without_text(value: Any, *, marks: bool, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        return None
    if isinstance(value, dict):
        inner = {name: under for name, under in value.items() if is_key(name) and _may_stay(under, marks=marks)}
        return {name: _without_text(under, marks=marks, depth=depth + 1) for name, under in inner.items()}
    if isinstance(value, str):
        return value if _may_stay(value, marks=marks) else None
    if isinstance(value, list):
        return [_without_text(under, marks=marks, depth=depth + 1) for under in value if _may_stay(under, marks=marks)]
    return value
