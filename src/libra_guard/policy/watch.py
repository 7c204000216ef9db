"""Profiles by name, taken up anew when a file changes."""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from libra_guard.errors import UsageError
from libra_guard.policy.profile import Policy
from libra_guard.policy.reading import Stamp, bundled_names, policy_file, read_policy, stamp

SETTLE = 0.3
"""Seconds that changed files must have rested before they are read: half of a file may be a whole profile."""


class PolicyChange(NamedTuple):
    """What happened to a profile while it was watched."""

    name: str
    path: Path
    problem: str | None
    """Why the version of before stays in force; None where the new one is."""


class _Watched:
    """The profile of one file, and what its files looked like when it was read."""

    def __init__(self, path: Path, check: Callable[[Policy], None]) -> None:
        self.path = path
        self._check = check
        self.stamps: dict[Path, Stamp] = {}
        self.policy = self.read()
        self._last = self.stamps
        self._since = 0.0

    def read(self) -> Policy:
        """The profile as it is now; what its files looked like is kept, whether or not it can be read.

        Raises:
            UsageError: It cannot be read, or used.
        """
        self.stamps = {}
        policy = read_policy(self.path, self.stamps).policy
        self._check(policy)
        return policy

    def changed(self, now: float, settle: float) -> bool:
        """Whether the files have changed since they were read, and rested since then."""
        stamps = {path: stamp(path) for path in self.stamps}
        if stamps != self._last:
            self._last, self._since = stamps, now
        return stamps != self.stamps and now - self._since >= settle


class PolicyStore:
    """Profiles by name: the bundled ones, and those of files, which go before bundled ones of the same name.

    A file may change while it is in use. What it says then holds from the next ``refresh`` on, as a whole or not at
    all: a file that is broken or gone leaves the version of before in force, and is told in ``problems``.

    Args:
        files: YAML files.
        default: Name of the profile that is meant where none is named.
        told: Called with every change of a file that was taken up, or could not be.
        check: Raises a ``UsageError`` for a profile in a file that cannot be used where the store is.
        settle: Seconds for which changed files must have stayed as they are before they are read.
        clock: Seconds that only ever grow.

    Raises:
        UsageError: A file is no profile, two have one name, or there is no such default.
    """

    def __init__(
        self,
        files: Sequence[str | Path] = (),
        default: str = "default",
        *,
        told: Callable[[PolicyChange], None] = lambda change: None,
        check: Callable[[Policy], None] = lambda policy: None,
        settle: float = SETTLE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._told = told
        self._settle = settle
        self._clock = clock
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        for watched in [_Watched(Path(file), check) for file in files]:
            name = watched.policy.name
            if name in self._watched:
                raise UsageError(f"{self._watched[name].path} and {watched.path} are both named '{name}'")
            self._watched[name] = watched
        bundled = {name: read_policy(policy_file(name)).policy for name in bundled_names()}
        self._policies = bundled | {name: watched.policy for name, watched in self._watched.items()}
        self.default = self.get(default).name
        self.problems: dict[str, str] = {}
        """Name of a profile → why its file, as it is now, is not in force."""

    @property
    def names(self) -> tuple[str, ...]:
        """All profiles, in order of their names."""
        return tuple(sorted(self._policies))

    @property
    def of_files(self) -> tuple[str, ...]:
        """Those of files, in the order of the files."""
        return tuple(self._watched)

    def get(self, name: str | None = None) -> Policy:
        """The profile of that name as it is in force now, or the default one.

        Raises:
            UsageError: There is none; the message has the nearest name, or all.
        """
        name = self.default if name is None else name
        if name in self._policies:
            return self._policies[name]
        near = difflib.get_close_matches(name, self.names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.names)}"
        raise UsageError(f"there is no policy profile '{name[:80]}'; {hint}")

    def refresh(self) -> None:
        """Takes up what has changed. Costs one look at each file where nothing has; never raises for a file."""
        if not self._lock.acquire(blocking=False):
            return  # another thread is at it
        try:
            now = self._clock()
            for name, watched in self._watched.items():
                if watched.changed(now, self._settle):
                    self._take_up(name, watched)
        finally:
            self._lock.release()

    def _take_up(self, name: str, watched: _Watched) -> None:
        problem = None
        try:
            policy = watched.read()
            if policy.name != name:
                raise UsageError(f"{watched.path}: its name has changed to '{policy.name}', which needs a restart")
            self._policies = {**self._policies, name: policy}
            self.problems = {other: told for other, told in self.problems.items() if other != name}
        except UsageError as error:
            problem = str(error)
            self.problems = {**self.problems, name: problem}
        self._told(PolicyChange(name, watched.path, problem))
