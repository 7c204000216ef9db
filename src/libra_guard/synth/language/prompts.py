"""The pipeline's prompts: Jinja files in ``texts/templates``, each known by the hash of its text."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Template

from libra_guard.plaintext import plain_text


@cache
def _template(name: str) -> Template:
    return plain_text("synth", "texts/templates", keep_trailing_newline=False).get_template(name)


def render(name: str, **variables: Any) -> str:
    """A prompt's text.

    Args:
        name: File name of the template, e.g. ``queries.j2``.
        **variables: All that it names.
    """
    return _template(name).render(**variables)


@cache
def prompt_hash(name: str) -> str:
    """The first 8 hex digits of SHA-256 over the template's file."""
    content = (files("libra_guard.synth") / "texts" / "templates" / name).read_bytes()
    return hashlib.sha256(content).hexdigest()[:8]
