"""The prompt and analysis texts, kept as Jinja files beside this module; user text only ever enters as a variable."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jinja2 import Template

from libra_guard.backends.base import UserText
from libra_guard.plaintext import plain_text

_SLOT = re.compile("\0([0-9]+)\0")


@cache
def template(name: str) -> Template:
    """A template of this package by file name, e.g. ``"libra.j2"``.

    Lines that hold only a block tag leave no trace, and the file's last newline is kept.
    """
    return plain_text("guards").get_template(name)


class Frame:
    """Renders a raw prompt whose template writes control tokens, and keeps apart what users wrote.

    Users' texts enter the template as slots; filters and loops see the slots, never the texts, so nothing in a text
    can become part of the format.
    """

    def __init__(self) -> None:
        self._texts: list[str] = []

    def slot(self, text: str) -> str:
        """Stands for a user's text in the template's variables."""
        self._texts.append(text)
        return f"\0{len(self._texts) - 1}\0"

    def render(self, name: str, **variables: Any) -> list[str | UserText]:
        """The template in parts: its own text, and the users' texts where their slots stood."""
        pieces = _SLOT.split(template(name).render(**variables))
        # Every second piece is a slot's number.
        parts: list[str | UserText] = list(pieces)
        parts[1::2] = [UserText(self._texts[int(number)]) for number in pieces[1::2]]
        return [part for part in parts if part]
