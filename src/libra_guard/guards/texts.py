"""Texts that a guard's user brings along: a policy, a list of words."""

from __future__ import annotations

import stat
import zlib
from pathlib import Path

from libra_guard.errors import UsageError
from libra_guard.records import check_text
from libra_guard.textfile import BROKEN, find_coding, lines

_SUFFIXES = (".txt", ".md")


def read_text(path: Path) -> str:
    r"""The text of a file in any encoding that Libra reads, its lines ended by ``\n``.

    Raises:
        UsageError: It cannot be read, is no plain file, is no text, or is blank.
    """
    try:
        # A pipe could be waited for without end, and a device need not end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path}: cannot be read: it is no plain file")
        text = "".join(lines(path, find_coding(path, None), "\n")).replace("\r\n", "\n")
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    if broken := BROKEN.search(text):
        raise UsageError(f"{path}: line {text.count(chr(10), 0, broken.start()) + 1} holds bytes that are no text")
    return _checked(text, str(path))


def text_or_file(given: str, what: str) -> str:
    """What was given, or what the file of that name holds.

    A file is named by one line that is the path of one, or that ends like one (``.txt``, ``.md``).

    Args:
        given: The text, or the file's path.
        what: Of which kind the text is, for messages.

    Raises:
        UsageError: The file is not there or cannot be read, or the text is blank.
    """
    line = _checked(given, f"the {what}").strip()
    if "\n" in line:
        return line
    path = Path(line).expanduser()
    try:
        named = path.is_file() or path.suffix.lower() in _SUFFIXES
    except OSError:  # longer than a path can be
        named = False
    return read_text(path).strip() if named else line


def _checked(text: str, what: str) -> str:
    try:
        return check_text(text, what)
    except ValueError as error:
        raise UsageError(str(error)) from None
