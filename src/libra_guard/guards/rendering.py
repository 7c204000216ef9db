"""The prompt and analysis texts, kept as Jinja files beside this module; user text only ever enters as a variable."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@cache
def template(name: str) -> Template:
    """A template of this package by file name, e.g. ``"libra.j2"``.

    Lines that hold only a block tag leave no trace, and the file's last newline is kept.
    """
    environment = Environment(
        loader=PackageLoader("libra_guard.guards"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # plain text for a model, not HTML
    )
    return environment.get_template(name)
