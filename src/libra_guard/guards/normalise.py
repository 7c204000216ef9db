"""One spelling for what looks alike: what the classifier guards read, in training and in use."""

from __future__ import annotations

import re
import unicodedata

# Format characters (zero-width space and joiners, direction marks, soft hyphen), variation selectors and controls
# are used to break words apart so that a filter does not see them. Tab and line ends stay.
_INVISIBLE = re.compile(
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b-\\u200f"
    "\\u202a-\\u202e\\u2060-\\u206f\\ufe00-\\ufe0f\\ufeff]"
)
_BLANKS = re.compile(r"[ \t\u3000]+")
_LINES = re.compile(r"\s*\n\s*")


def normalise(text: str) -> str:
    """NFKC, no invisible characters, one space for many, one line end for many.

    Returns:
        The text stripped; empty where nothing visible is left.
    """
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    return _LINES.sub("\n", _BLANKS.sub(" ", text)).strip()
