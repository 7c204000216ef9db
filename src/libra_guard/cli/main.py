"""The `libra` command. One file a command; what a command needs is imported when it is called."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from libra_guard.cli import (
    bench,
    browse,
    calibrate,
    cascade,
    check,
    data,
    evaluate,
    guards,
    infer,
    policy,
    serve,
    synth,
    train,
    translate,
)
from libra_guard.errors import LibraError, ServerError, StoppedError

STOPPED = 3
"""Exit code of what ended before it was done, and goes on when it is called again, or once a server is back."""
CLOSED_PIPE = 128 + signal.SIGPIPE
"""Exit code where the reader of the output has gone away."""

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
app.command()(calibrate.calibrate)
app.command()(cascade.cascade)
app.command(name="guards")(guards.guards)
app.command()(serve.serve)
app.add_typer(train.app, name="train")
data.app.command("browse")(browse.browse)
synth.app.command()(translate.translate)
app.add_typer(synth.app, name="synth")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(policy.app, name="policy")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"libra-guard {version('libra-guard')}")
        raise typer.Exit


VersionOption = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit.")]


@app.callback()
def _options(version: VersionOption = False) -> None:
    pass


def exit_code(program: Callable[[], int | None], name: str) -> int:
    """Runs a program, the command or a script, and tells how it ended.

    Errors meant for people are one message, without a traceback. A fault of the program is shown whole. Both are 2, for
    1 means "done with rejects" or "flagged"; 3 where the same call goes on with what is left, or a server is away. A
    reader of the output that goes away, as ``head`` does, ends the program quietly with 141, as a shell tells of any
    program that this happens to.

    Args:
        program: Returns its exit code, or raises.
        name: Stands before a message.
    """
    for stream in (sys.stdout, sys.stderr):
        # Data is UTF-8 whatever the terminal's locale is, and a lone surrogate must not end the program.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        return _outcome(program, name)
    except BrokenPipeError:
        return CLOSED_PIPE
    finally:
        _drop_unwritten()


def _outcome(program: Callable[[], int | None], name: str) -> int:
    try:
        code = _run(program) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except LibraError as error:
        typer.echo(f"{name}: {error}", err=True)
        return STOPPED if isinstance(error, StoppedError | ServerError) else 2
    except BrokenPipeError:
        raise
    except OSError as error:
        # No right to read or write, no space left: not a fault of the program.
        place = f"{error.filename}: " if error.filename else ""
        typer.echo(f"{name}: {place}{error.strerror or error}", err=True)
    except Exception:
        traceback.print_exc()
    return 2


def _run(program: Callable[[], int | None]) -> int | None:
    try:
        return program()
    except SystemExit as end:
        # What typer and rich make of a closed pipe, and typer of an EOFError, is an exit with 1.
        aborted = isinstance(end.__context__, typer.Abort)
        cause = end.__context__.__cause__ if aborted and end.__context__ else end.__context__
        if isinstance(cause, (BrokenPipeError, EOFError)):
            raise cause from None
        raise


def _drop_unwritten() -> None:
    """What was not taken must not be tried again when the interpreter ends: that fails with a code of its own."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def main() -> None:
    """Entry point."""
    sys.exit(exit_code(app, "libra"))


if __name__ == "__main__":
    main()
