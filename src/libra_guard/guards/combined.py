"""Guards made of other guards, which a YAML file names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, field_validator, model_validator

from libra_guard.backends.base import Backend
from libra_guard.configuration import Strict
from libra_guard.errors import UsageError
from libra_guard.guards.base import Guard
from libra_guard.guards.conversations import checked_conversations
from libra_guard.guards.generative import LEFT_OUT
from libra_guard.guards.registry import RESERVED, guard_entry, load_guard
from libra_guard.records import Conversation, Target, Verdict

_FILES_ALONE = frozenset({"none", "onnx", "scripted"})
"""Backends whose model is a path, never a name on a hub or at a server."""
PATHS = ("adapter", "calibration", "examples", "policy")
"""Options that may name a file."""
_OPEN: ContextVar[tuple[Path, ...]] = ContextVar("files whose members are being loaded", default=())


class MemberSpec(Strict):
    """A guard as a file names it; a text alone is its name."""

    guard: str
    """``NAME`` or ``NAME:MODEL``. A path is relative to the file; what is not there is a hub's or server's name."""
    backend: str | None = None
    """By default the guard's first."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of the guard and its backend, by name; paths as above."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"guard": value} if isinstance(value, str) else value

    @field_validator("options")
    @classmethod
    def _none_of_the_keys(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := [name for name in value if name in RESERVED]:
            raise ValueError(f"'{taken[0]}' is no option: it stands in 'guard' or in a key 'backend' of its own")
        return value


class Member(NamedTuple):
    """A guard that was loaded for a file."""

    name: str
    """As in the file; numbered where it stands there twice."""
    guard: Guard

    def ask(
        self, conversations: Sequence[Conversation], rows: Iterable[int], *, explain: bool = False
    ) -> dict[int, Verdict]:
        """Verdicts on those of the rows that this guard judges, by row; all in one call, so that it can batch them."""
        able = [i for i in rows if conversations[i].target in self.guard.targets]
        if not able:
            return {}
        return dict(zip(able, self.guard.judge([conversations[i] for i in able], explain=explain), strict=True))

    def explained(self, conversations: Sequence[Conversation], verdicts: Mapping[int, Verdict]) -> dict[int, Verdict]:
        """Its verdicts with its reasons, for which it judges once more; those of another label are left out."""
        again = self.ask(conversations, (i for i, v in verdicts.items() if v.label), explain=True)
        told = dict(verdicts)
        for i, new in again.items():
            if new.label is told[i].label:
                reasons = {"analysis": new.analysis, "raw": new.raw, "categories": new.categories, "notes": new.notes}
                told[i] = told[i].model_copy(update=reasons)
            else:
                told[i] = told[i].model_copy(update={"notes": (*told[i].notes, LEFT_OUT)})
        return told


class CombinedGuard(Guard):
    """Judges by its members, each of which reads the whole conversation in windows of its own.

    It judges what any member judges. A subclass fills in ``_combine``.

    Args:
        backend: One that names the file as its ``model``.
        members: Loaded from that file.
        threshold: Of answers.
    """

    def __init__(self, backend: Backend, members: Sequence[Member], *, threshold: float) -> None:
        super().__init__(backend, threshold=threshold)
        self.members = tuple(members)
        self.targets = frozenset().union(*(member.guard.targets for member in self.members))
        systems = [member.guard.system for member in self.members]
        self.system = systems[0] if all(system is systems[0] for system in systems) else None

    def judge(self, conversations: Sequence[Conversation], *, explain: bool = False) -> list[Verdict]:
        """See ``Guard.judge``."""
        conversations = checked_conversations(conversations, self.name, self.targets)
        verdicts = self._combine(conversations, explain=explain)
        return [verdict.model_copy(update={"guard": self.name}) for verdict in verdicts]

    def provenance(self) -> dict[str, Any]:
        """See ``Guard.provenance``; every member's own is in it."""
        return {**super().provenance(), "members": {name: guard.provenance() for name, guard in self.members}}

    def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        return self._combine(conversations, explain=False)

    @abstractmethod
    def _combine(self, conversations: Sequence[Conversation], *, explain: bool) -> list[Verdict]:
        """One verdict each, of what the members say."""


def load_members(path: Path, specs: Mapping[str, MemberSpec]) -> list[Member]:
    """Loads the guards of a file.

    Args:
        path: Of the file.
        specs: Where in the file a guard stands, for messages → the guard.

    Raises:
        UsageError: The file is among its own members, or a guard cannot be had; the message names the place.
        MissingExtraError: A library is missing.
        BackendError: A model cannot be loaded.
    """
    members = list[Member]()
    with _among_its_own(path):
        for place, spec in specs.items():
            alike = sum(other.guard == spec.guard for other in [*specs.values()][: len(members)])
            name = f"{spec.guard} ({alike + 1})" if alike else spec.guard
            members.append(Member(name, _load(path, place, spec)))
    return members


def does_not_judge(name: str, target: Target) -> str:
    """A note that a guard had no say."""
    return f"{name} does not judge a {target.value}"


def not_read(name: str) -> str:
    """A note that a guard's answer could not be read."""
    return f"the answer of {name} could not be read"


def _load(path: Path, place: str, spec: MemberSpec) -> Guard:
    try:
        name, _, model = spec.guard.partition(":")
        if model:
            alone = (spec.backend or guard_entry(name).backends[0]) in _FILES_ALONE
            model = str(path.parent / Path(model).expanduser()) if alone else _beside(path, model)
        options = {k: _beside(path, v) if k in PATHS else v for k, v in spec.options.items()}
        return load_guard(f"{name}:{model}" if model else name, backend=spec.backend, **options)
    except (UsageError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: {place}: {error}") from error


def _beside(path: Path, value: Any) -> Any:
    """The path of what is there under that name, relative to the file; else the value as it is."""
    try:
        found = path.parent / Path(value).expanduser()
        return str(found) if found.exists() else value
    except (TypeError, ValueError, OSError, RuntimeError):
        # No text, or one that is no path.
        return value


@contextmanager
def _among_its_own(path: Path) -> Iterator[None]:
    """Refuses a file whose members are being loaded already."""
    here, above = path.resolve(), _OPEN.get()
    if here in above:
        chain = " → ".join(file.name for file in (*above[above.index(here) :], here))
        raise UsageError(f"{path}: is among its own members ({chain})")
    token = _OPEN.set((*above, here))
    try:
        yield
    finally:
        _OPEN.reset(token)
