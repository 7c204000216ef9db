"""The items of a list in JSON, one by one, however long the list is.

Where an item is damaged, the next one is looked for. It can be found if quotes, brackets, colons and commas of the
damaged one are as they must be, and only what stands between them is no JSON: a wrong escape, a line end in a text, a
word such as ``None``. After a quote too many or too few, what looks like an item may stand in a text: then nobody can
tell where the next one begins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from libra_guard import textfile

_BETWEEN = re.compile(r"[ \t\r\n,]*")
_BLANK = re.compile(r"[ \t\r\n]*")
_TOKEN = re.compile(r'[ \t\r\n]*+(?:([\[\]{}:,])|("[^"\\]*+(?:\\.[^"\\]*+)*+)("?)|[\w+.-]++)', re.ASCII | re.DOTALL)
"""A mark of JSON's; or a text, without its last quote where it goes on; or a word or number, whether JSON has it or
not."""
LONGEST_DAMAGED = 1 << 24
"""Characters of a damaged item at most, if its end is to be found: the search may take more memory than its text."""
_LAST_COMMA = re.compile(r",([\]}])")


class Item(NamedTuple):
    """What stands in the list."""

    line: int
    """On which it begins."""
    value: Any
    text: str


class Fault(NamedTuple):
    """What stands in the list and is no JSON."""

    line: int
    """On which the damaged item begins."""
    reason: str
    text: str
    """Of the item; where the list cannot be read on, the beginning of the rest."""
    more: bool
    """Whether the list cannot be read on from there."""


def read_items(texts: Iterator[str], buffer: str, line: int) -> Iterator[Item | Fault]:
    """The items of a list.

    Args:
        texts: The file's text in pieces, from behind the first.
        buffer: The first piece, in which the list begins.
        line: Of the file, on which that piece begins.
    """
    decoder = json.JSONDecoder()
    position = buffer.index("[") + 1
    line, ended = line + buffer.count("\n", 0, position), False
    while True:
        after = _skip(_BETWEEN, buffer, position)
        line += buffer.count("\n", position, after)
        position = after
        if buffer[position : position + 1] == "]":
            break
        found: Item | Fault | None
        try:
            item, after = decoder.raw_decode(buffer, position)
            # A number at the end of the buffer could go on in the next piece ("1", "1.", "1e+").
            whole = ended or isinstance(item, dict) or after + 3 <= len(buffer)
            found = Item(line, item, buffer[position:after]) if whole else None
        except (ValueError, RecursionError) as error:
            found = _fault(buffer, position, line, error, ended=ended)
        if found is not None:
            yield found
            if isinstance(found, Fault) and found.more:
                return
            line += found.text.count("\n")
            position += len(found.text)
            continue
        # At least as much again, for the item is read from its beginning each time.
        pieces, wanted = [buffer[position:]], 2 * (len(buffer) - position)
        while not ended and sum(map(len, pieces)) <= wanted:
            more = next(texts, None)
            ended = more is None
            pieces.append(more or "")
        buffer, position = "".join(pieces), 0
    rest = buffer[position + 1 :].strip() or next((text.strip() for text in texts if text.strip()), "")
    if rest:
        yield Fault(line, "text after the end of the list", textfile.excerpt(rest), more=True)


def _fault(buffer: str, position: int, line: int, error: Exception, *, ended: bool) -> Fault | None:
    """What is said of an item that is no JSON; None where more of the file is needed to tell.

    Args:
        buffer: What was read of the file.
        position: In it, of the item.
        line: Of the file, on which the item begins.
        error: The decoder's.
        ended: Whether there is no more.
    """
    if ended and position == len(buffer):
        return Fault(line, "the file ends inside the list", "", more=True)
    why, near_end = str(error), False
    if isinstance(error, json.JSONDecodeError):
        first = line - buffer.count("\n", 0, position)
        why = f"{error.msg} on line {first + error.lineno - 1}"
        near_end = error.msg.startswith("Unterminated string") or error.pos >= len(buffer) - 16
    length = len(buffer) - position
    if near_end and not ended and length <= textfile.LONGEST:
        return None
    room = not ended and length <= LONGEST_DAMAGED
    try:
        end = _end(buffer, position, position + LONGEST_DAMAGED)
    except (ValueError, RecursionError):
        room, end = False, None
    if end is not None and (ended or _skip(_BETWEEN, buffer, end) < len(buffer)):
        return Fault(line, f"not JSON: {why}", buffer[position:end], more=False)
    if room:
        return None
    reason = (
        f"not JSON from here on: {why}; the rest of the file is not read, and how many rows are in it is not known; "
        "of a .jsonl file, one row a line, it would cost one row"
    )
    return Fault(line, reason, textfile.excerpt(buffer, position), more=True)


def _end(text: str, start: int, stop: int) -> int | None:
    """Where a damaged object ends; None where it does not end in this text, or not before ``stop``.

    Raises:
        ValueError: Nobody can tell.
        RecursionError: The same, for it is too deep.
    """
    depth, position, frame = 0, start, list[str]()
    while token := _TOKEN.match(text, position):
        mark, quoted, closed = token.groups()
        if quoted and not closed:
            return None
        frame.append(mark or ('""' if quoted else "0"))
        depth += (mark in ("{", "[")) - (mark in ("}", "]"))
        position = token.end()
        if depth == 0:
            break
        if position > stop:
            return None
    else:
        position = _skip(_BLANK, text, position)
    if depth and position == len(text):
        return None
    # The item with all its texts empty and all else 0: it is JSON if its frame is whole.
    if not isinstance(json.loads(_LAST_COMMA.sub(r"\1", "".join(frame))), dict):
        raise ValueError("no object")
    follows = _skip(_BETWEEN, text, position)
    after = text[follows : follows + 1]
    if after not in ("", "]") and (after != "{" or "," not in text[position:follows]):
        raise ValueError("neither another object follows nor the end")
    return position


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position
