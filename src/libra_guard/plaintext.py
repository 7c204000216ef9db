"""Templates of this package whose output is plain text: prompts for models, cards in Markdown."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def plain_text(part: str, folder: str = "templates", *, keep_trailing_newline: bool = True) -> Environment:
    """The templates of one part of the package.

    Lines that hold only a block tag leave no trace, and a name that is not given is an error. Nothing is escaped: HTML
    needs an environment of its own.

    Args:
        part: Name of the sub-package, e.g. ``guards``.
        folder: Where its templates lie.
        keep_trailing_newline: Whether a file's last newline is part of the text.
    """
    return Environment(
        loader=PackageLoader(f"libra_guard.{part}", folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=keep_trailing_newline,
        autoescape=False,
    )
