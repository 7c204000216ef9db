"""What is for nobody to read: left out of all that a run writes and says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from libra_guard.backends._options import is_secret
from libra_guard.errors import LibraError

# As far as RFC 3986 lets it go. One slash alone is left of two in what was taken for the path of a file.
_USER_INFO = re.compile(r"(https?:/{1,2})[^\s/?#\"]*@", re.IGNORECASE)


def redacted(value: Any) -> Any:
    """A value of JSON without secrets: what is named as one is ``...``, and URLs go without user and password."""
    if isinstance(value, str):
        return _USER_INFO.sub(r"\1", value)
    if isinstance(value, list):
        return [redacted(v) for v in value]
    if isinstance(value, dict):
        return {k: "..." if is_secret(str(k)) else redacted(v) for k, v in value.items()}
    return value


@contextmanager
def redacted_errors() -> Iterator[None]:
    """Takes the secrets out of the errors for people that pass through."""
    try:
        yield
    except LibraError as error:
        error.args = (redacted(str(error)),)
        raise
