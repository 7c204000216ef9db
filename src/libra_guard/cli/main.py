"""The `libra` command. One file a command; what a command needs is imported when it is called."""

from __future__ import annotations

import sys
import traceback
from importlib.metadata import version
from typing import Annotated

import typer

from libra_guard.cli import check, data, evaluate, guards, infer, train
from libra_guard.errors import LibraError

app = typer.Typer(
    name="libra",
    help="Safety guard for Chinese LLM conversations: judge, measure, train.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(check.check)
app.command()(infer.infer)
app.command()(evaluate.evaluate)
app.command(name="guards")(guards.guards)
app.add_typer(train.app, name="train")
app.add_typer(data.app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"libra-guard {version('libra-guard')}")
        raise typer.Exit


VersionOption = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit.")]


@app.callback()
def _options(version: VersionOption = False) -> None:
    pass


def main() -> None:
    """Entry point: errors meant for people are one message and exit code 2, without a traceback.

    A reader of the output that goes away, as `head` does, ends the program quietly; click sees to it.
    """
    for stream in (sys.stdout, sys.stderr):
        # Data is UTF-8 whatever the terminal's locale is, and a lone surrogate must not end the program.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        app()
    except LibraError as error:
        typer.echo(f"libra: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        # No right to read or write, no space left: not a fault of the program, and exit code 1 would mean "done".
        place = f"{error.filename}: " if error.filename else ""
        typer.echo(f"libra: {place}{error.strerror or error}", err=True)
        sys.exit(2)
    except Exception:
        # A fault of the program is shown whole, and must not look like exit code 1, "done with rejects".
        traceback.print_exc()
        sys.exit(2)


if __name__ == "__main__":
    main()
