"""Errors meant for people.

LibraError
├── UsageError         the call is wrong: an unknown name, a missing file, an impossible option
├── MissingExtraError  a library of an optional extra is not installed
├── DataError          a file or a row cannot be read
├── StoppedError       it ended before it was done; what was done is kept, and the same call goes on
│   └── HaltedError    it was told to end
└── BackendError       a model could not be run, or a server did not answer
    ├── RefusedError   it was this one input that was not taken
    └── BusyError      the server takes nothing now, whatever it is asked
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class LibraError(Exception):
    """Base of every error that the command line prints without a traceback."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again of what it holds, in another process too: constructors take other things than the message."""
        return _remade, (type(self), self.args), self.__dict__


class UsageError(LibraError):
    """The call cannot be carried out as given."""


class DataError(LibraError):
    """A file or a row cannot be read; the message says where and why."""


class StoppedError(LibraError):
    """Something ended before it was done; what was done is kept, and the same call goes on."""


class HaltedError(StoppedError):
    """Other work failed or was interrupted, and this one was told to end."""


class BackendError(LibraError):
    """A model could not be run, or a server failed after all retries."""


class RefusedError(BackendError):
    """A model does not take this one input, now or later; others it may take."""


class DeniedError(BackendError):
    """A server takes nothing from this call, now or later: its key, its model or its options are wrong."""


class ServerError(BackendError):
    """A server gave no answer that can be used, perhaps to this one input; the same call may be answered later."""


class BusyError(ServerError):
    """A server takes nothing now, whatever it is asked; later it may.

    Args:
        message: What it said.
        after: Seconds that it asks to wait; None where it does not.
        there: Whether it said so itself; False where nobody took the connection.
    """

    def __init__(self, message: str, *, after: float | None = None, there: bool = True) -> None:
        super().__init__(message)
        self.after, self.there = after, there


class MissingExtraError(LibraError):
    """A library of an optional extra is not installed.

    Args:
        module: Name that could not be imported; a part of a package stands for the package.
        extra: The extra of this package that installs it.
    """

    def __init__(self, module: str, extra: str) -> None:
        package = module.partition(".")[0]
        super().__init__(f"this needs the package '{package}': pip install 'libra-guard[{extra}]'")


def _remade(kind: type[LibraError], args: tuple[Any, ...]) -> LibraError:
    return kind.__new__(kind, *args)


def require(module: str, extra: str) -> ModuleType:
    """Imports an optional library, or says which extra brings it.

    Args:
        module: Name to import, e.g. ``"transformers"``.
        extra: The extra of this package that installs it.

    Raises:
        MissingExtraError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that is there but lacks one of its own needs is another fault: let it show.
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtraError(module, extra) from None
