"""Reasons why rows were left out, brought down to their kinds, so that they can be counted."""

from __future__ import annotations

import re

_MORE = re.compile(r"[:：;；(（]|[,，]\s")
# What names one row, as an id or a figure does; Chinese runs on without spaces, and stays.
_OF_ONE_ROW = re.compile(r"[^\s\u4e00-\u9fff]*[0-9][^\s\u4e00-\u9fff]*")


def reason_kind(reason: str) -> str:
    """What a reason has in common with others of its kind: the words before its details, ids and figures as ``…``."""
    words = _MORE.split(reason, maxsplit=1)[0].strip() or reason
    return _OF_ONE_ROW.sub("…", words)[:120]
