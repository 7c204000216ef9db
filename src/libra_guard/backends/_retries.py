"""Attempts that failed: how long a server asks to wait, and what people are told of it."""

from __future__ import annotations

import email.utils
import logging
import time
from collections.abc import Mapping

_log = logging.getLogger(__name__)
# stamina tells of each retry, without a reason; where nobody set up logging, that would go to stderr.
logging.getLogger("stamina").addHandler(logging.NullHandler())
_TELL_EVERY = 60.0
"""Seconds between two lines on what is asked again."""
MAX_RETRY_AFTER = 120.0
"""Seconds; a server that asks for more patience than this has failed for now."""


class Notice:
    """Tells of attempts that failed: of the first, then now and then how many there were."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._failed, self._next = 0, float("-inf")

    def take(self, why: str) -> None:
        """To be called for each, with its reason."""
        self._failed += 1
        if (now := time.monotonic()) < self._next:
            return
        _log.warning("%s: %s; failed attempts so far: %d", self._who, why, self._failed)
        self._next = now + _TELL_EVERY


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait (RFC 9110, 10.2.3: seconds or a date); None where it does not."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
