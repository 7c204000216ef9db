"""What is wrong with the fields of a request, in words for who sent it.

None quotes what was sent, but for the name of an unknown field, and that cut short.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from libra_guard.configuration import keys_at, no_such

TEXT_OR_LIST = "<text or list>"
"""Form that is tried for an input which is no list."""
_LONGEST = 80
"""Characters of a field's name that are repeated to who sent it, and compared with others: names can be long."""
_OBJECT = ("dict_type", "model_type", "model_attributes_type")
_ONE_OF = ("literal_error", "enum")
_WORDS = {
    "missing": "it is missing",
    "string_type": "a text is needed",
    "string_too_short": "it is empty",
    "string_too_long": "at most {max_length} characters are taken",
    "list_type": "a list is needed",
    "too_short": "it is empty; at least {min_length} is needed",
    "too_long": "at most {max_length} are taken",
    "bool_type": "true or false is needed",
    **dict.fromkeys(("int_type", "int_from_float"), "a whole number is needed"),
    "float_type": "a number is needed",
    "finite_number": "the number is too large",
    "greater_than_equal": "{ge:.15g} or more is needed",
    "less_than_equal": "{le:.15g} or less is needed",
}
"""Kind of pydantic's error → words that do not speak of Python."""


class Fault(NamedTuple):
    """What is told of a body that does not fit."""

    message: str
    """For people."""
    param: str | None
    """The field at fault, as ``conversations[3].response``; None for the body as a whole."""
    code: str
    """For programs."""


def fault_of(found: Sequence[Mapping[str, Any]], body: Any) -> Fault:
    """The one of pydantic's errors that is told.

    Args:
        found: All of them, in their order; each has ``loc``, ``type``, ``msg`` and maybe ``ctx``.
        body: What the route's body is read as: a model, or another type of which no fields are known.
    """
    told = _misspelt(found) or found[0]
    param, kind = place(told["loc"]), str(told["type"])
    if kind == "missing" and param is None:
        return Fault("the request has no body; JSON is needed", None, "missing_body")
    known = body if isinstance(body, type) and issubclass(body, BaseModel) else None
    words = _words(told, known)
    # What a model says of itself as a whole names its fields.
    where = param or ("the body" if kind != "value_error" else "")
    return Fault(f"{where}: {words}" if where else words, param, kind)


def place(location: Sequence[str | int]) -> str | None:
    """``("body", "conversations", 3, "response")`` → ``conversations[3].response``; without forms, ``<...>``."""
    name = ""
    for part in location[1:]:
        if isinstance(part, str) and part.startswith("<"):
            continue
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name[:_LONGEST] or None


def _misspelt(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The unknown field that stands where the first error misses one of nearly that name."""
    *above, name = found[0]["loc"]
    if found[0]["type"] != "missing":
        return None
    for one in found:
        *beside, given = one["loc"]
        if one["type"] == "extra_forbidden" and beside == above and _is_near(str(given), str(name)):
            return one
    return None


def _is_near(given: str, name: str) -> bool:
    return bool(difflib.get_close_matches(given[:_LONGEST], [name]))


def _unknown(name: str, above: Sequence[str | int], body: type[BaseModel] | None) -> str:
    known = keys_at(body, above) if body else []
    homes = [field for field in known if body and name in keys_at(body, (*above, field)) and name not in known]
    return f"it belongs into {' or '.join(homes)}" if homes else no_such("field", name, known)


def _words(told: Mapping[str, Any], body: type[BaseModel] | None) -> str:
    kind, at, given = told["type"], told["loc"][1:], told.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(str(at[-1])[:_LONGEST], at[:-1], body)
    if kind in _OBJECT:
        fields = keys_at(body, at) if body else []
        return "an object is needed" + (f"; its fields are {', '.join(fields)}" if fields else "")
    if kind in _ONE_OF:
        # "'zh' or 'en'": names that the model itself has.
        names = re.findall("'([^']*)'", str(given["expected"]))
        return f"one of {', '.join(names)} is needed" if len(names) > 1 else f"'{names[0]}' is needed"
    if kind == "string_type" and at and at[-1] == TEXT_OR_LIST:
        return "a text or a list is needed"
    if kind in _WORDS:
        return _WORDS[kind].format(**given)
    words = str(told["msg"]).removeprefix("Value error, ")
    # "messages[0].content: content is empty"
    return re.sub(f"^{re.escape(str(at[-1]))} ", "it ", words) if at else words
