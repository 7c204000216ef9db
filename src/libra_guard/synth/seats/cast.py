"""Opens the models of a run as its settings say, each once, and puts them into their seats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from libra_guard.backends._options import option_names, unknown_option
from libra_guard.backends.base import Backend
from libra_guard.backends.registry import backend_class, load_backend
from libra_guard.configuration import at
from libra_guard.errors import UsageError
from libra_guard.guards.generative import GenerativeGuard
from libra_guard.guards.registry import guard_class, guard_entry, load_guard
from libra_guard.io import model_hash
from libra_guard.records import Method
from libra_guard.synth.config import JudgeSettings, ModelSettings
from libra_guard.synth.seats.absent import Absent, AbsentError
from libra_guard.synth.seats.backend import StoredBackend, is_served
from libra_guard.synth.seats.budget import FREE, Budget, BudgetSettings, Price, Usage
from libra_guard.synth.seats.endpoints import Endpoint
from libra_guard.synth.seats.judge import Judge
from libra_guard.synth.seats.responder import Responder
from libra_guard.synth.seats.servers import Servers, addresses, with_key
from libra_guard.synth.seats.store import CallStore, key_of
from libra_guard.synth.seats.together import Halt
from libra_guard.synth.seats.writer import Writer

Seat = TypeVar("Seat", Writer, Responder, Judge)
CONNECTION = {
    "api_key",
    "backoff",
    "base_url",
    "batch_size",
    "concurrency",
    "device",
    "max_backoff",
    "retries",
    "timeout",
}
"""Options of backends that say how a model is reached, and change nothing of what it answers."""
_JUDGED_AT_ONCE = 64
_REST = 30.0
"""Seconds: as long as a server's backend pauses at most between two attempts, where the settings say nothing else."""
_QUICK = ("none", "onnx")
"""Backends whose models are there at once."""


class SeatedJudges(Protocol):
    """The judges of a run."""

    @property
    def judges(self) -> tuple[JudgeSettings, ...]:
        """Those who judge every pair."""

    @property
    def sitting(self) -> dict[str, JudgeSettings]:
        """These, and who is asked beside them, by the keys that they stand at."""


class CastSettings(Protocol):
    """What the settings of any run say of its models."""

    @property
    def seed(self) -> int:
        """For sampling."""

    @property
    def models(self) -> dict[str, ModelSettings]:
        """Name → model."""

    @property
    def budget(self) -> BudgetSettings:
        """Of all models together."""

    @property
    def seats(self) -> SeatedJudges:
        """Who judges."""

    @property
    def attempts(self) -> int:
        """Times that an answer is asked for that cannot be read or used."""


class Used(NamedTuple):
    """A model of the run, and what was asked of it."""

    model: str
    usage: Usage


class Cast:
    """Opens who is asked for, each once.

    Args:
        config: The run's settings.
        store: Where calls are kept.
        beside: Folder that files named by the settings are looked for in where they are not there as written.
        say: Told of an interrupt, for people.
    """

    def __init__(
        self,
        config: CastSettings,
        store: CallStore,
        beside: Path = Path("."),
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._config, self._store, self._beside = config, store, beside
        self.halt = Halt(say)
        """Ends what all its models do."""
        spent = Usage()
        for model, (asked, new, paid) in store.spent().items():
            # What was paid for an entry that has another name now; or what it is known to cost since.
            spent += Usage(0, asked, new, max(paid, self.price(model).of(asked, new)))
        self._servers = Servers(config.models)
        self._budget = Budget(config.budget, spent)
        self._open: dict[str, StoredBackend] = {}
        self._seats: list[Writer | Responder | Judge] = []
        self._owned: dict[bytes, tuple[str, StoredBackend]] = {}
        """By what their answers depend on; with their names."""

    def writer(self, name: str, *, offset: int = 0) -> Writer:
        """The model of that name, as one that writes.

        Args:
            name: In the settings.
            offset: Added to the settings' seed, so that the same prompt brings something else.
        """
        settings = self._config.models[name]
        seed = self._config.seed + offset
        return self._seated(Writer(name, self.backend(name), settings, seed=seed, attempts=self._config.attempts))

    def responder(self, name: str) -> Responder:
        """The model of that name, as one that answers."""
        settings, seed = self._config.models[name], self._config.seed
        return self._seated(Responder(name, self.backend(name), settings, seed=seed, attempts=self._config.attempts))

    def judge(self, settings: JudgeSettings) -> Judge:
        """A guard, on a model of this run or one of its own.

        Raises:
            UsageError: The guard or an option is unknown, or the model is missing.
        """

        def shared(*_: Any, **__: Any) -> Backend:
            return self.backend(str(settings.model))

        spec, options = self._loaded_by(settings)
        guard = load_guard(spec, open_backend=shared if settings.model else self._own, **options)
        return self._seated(Judge(settings.name, guard, attempts=self._config.attempts))

    def unloaded(self, settings: JudgeSettings) -> GenerativeGuard | None:
        """A judge without its model, its options and the files that they name read; None where it asks none in words.

        Raises:
            UsageError: As ``judge``, but for what is wrong with the model.
        """

        def absent(*_: Any, **__: Any) -> Backend:
            if issubclass(guard_class(settings.guard.partition(":")[0]), GenerativeGuard):
                return Absent()
            raise AbsentError

        spec, options = self._loaded_by(settings)
        try:
            # Whether a calibration fits, the model itself tells.
            guard = load_guard(spec, open_backend=absent, **options | {"calibration": None})
        except AbsentError:
            return None
        return guard if isinstance(guard, GenerativeGuard) else None

    def check(self) -> None:
        """Finds out what is wrong with the seats before anything is asked; opens what opens quickly.

        Raises:
            UsageError: A guard, a backend or an option is unknown, or a file is missing.
            MissingExtraError: A library is not installed.
        """
        self._check_apart()
        for name, model in self._config.models.items():
            with at(f"models.{name}.backend"):
                known = option_names(backend_class(model.backend))
            if model.key_env and "api_key" not in known:
                raise UsageError(f"models.{name}.key_env: the backend '{model.backend}' takes no key")
            for option in model.options:
                if option not in known:
                    raise unknown_option(f"models.{name}.options.{option}", {f"the backend '{model.backend}'": known})
        for place, settings in self._config.seats.sitting.items():
            with at(place):
                entry = guard_entry(settings.guard.partition(":")[0])
                if settings.model is None and entry.backends[0] in _QUICK:
                    self.judge(settings)
                elif settings.model is None:
                    self._check_price(settings.options.get("backend", entry.backends[0]), None, "name it in models")

    def file(self, name: str) -> str:
        """A name as it stands, or of a file beside the settings where there is one and none as it stands."""
        there = self._beside / name
        return str(there) if name and not Path(name).exists() and there.exists() else name

    def backend(self, name: str) -> StoredBackend:
        """The model of that name.

        Raises:
            UsageError: It cannot be had as its settings say.
            BackendError: It cannot be loaded.
        """
        if name not in self._open:
            self._open[name] = self._opened(name, self._config.models[name])
        return self._open[name]

    def price(self, name: str) -> Price:
        """Of a model's tokens; nothing where none is known, as of a judge's own model."""
        settings = self._config.models.get(name)
        return (settings and settings.price) or FREE

    def used(self) -> list[Used]:
        """What was asked of each model so far, stored answers included, in the order of their names."""
        every = [*self._open.items(), *self._owned.values()]
        return [Used(name, backend.usage) for name, backend in sorted(every, key=lambda one: one[0])]

    def asked_again(self) -> dict[str, Counter[str]]:
        """For each that was seated so far, why its answers were asked for again, and how often."""
        found: dict[str, Counter[str]] = {}
        for seat in self._seats:
            found.setdefault(seat.name, Counter()).update(seat.asked_again)
        return found

    def _seated(self, seat: Seat) -> Seat:
        self._seats.append(seat)
        return seat

    def _loaded_by(self, settings: JudgeSettings) -> tuple[str, dict[str, Any]]:
        """A judge's guard with its model, and the options, files among them found."""
        options = {key: self.file(one) if isinstance(one, str) else one for key, one in settings.options.items()}
        if settings.model is None:
            name, sign, file = settings.guard.partition(":")
            return f"{name}{sign}{self.file(file)}", options
        model = self._config.models[settings.model]
        if "backend" in options:
            raise UsageError(f"options.backend: models.{settings.model} has one: {model.backend}")
        if model.raw and settings.guard == "libra":
            options.setdefault("instruct", False)
        return f"{settings.guard}:{model.model}", options | {"backend": model.backend}

    def _check_apart(self) -> None:
        """Kept answers are found by what the model is, not by where it runs: one of that name must not be two."""
        models = self._config.models
        known: dict[bytes, str] = {}
        for name, model in models.items():
            other = known.setdefault(key_of(**identity(model)), name)
            if _places(model) != _places(models[other]):
                raise UsageError(
                    f"models.{other} and models.{name} run the same '{model.model}' at different addresses, and their "
                    "answers could not be told apart: give one entry all endpoints, or, where they are different "
                    "models, serve them under different names"
                )
        judging: dict[str, str] = {}
        for name in filter(None, (judge.model for judge in self._config.seats.judges)):
            if (other := judging.setdefault(_model(models[name].model), name)) != name:
                raise UsageError(
                    f"seats.judges: {other} and {name} are the same model: their agreement would say nothing"
                )

    def _check_price(self, backend: str, price: Price | None, remedy: str) -> None:
        """A budget of money must not be blind to what a server takes."""
        if self._config.budget.money is not None and price is None and is_served(backend_class(backend)):
            raise UsageError(f"budget.money is set, and this model on a server has no price; {remedy}")

    def _opened(self, name: str, settings: ModelSettings) -> StoredBackend:
        served = is_served(backend_class(settings.backend))
        if settings.endpoints and "base_url" not in option_names(backend_class(settings.backend)):
            raise UsageError(
                f"models.{name}: the backend '{settings.backend}' runs in this process: it has no endpoints"
            )
        with at(f"models.{name}.price"):
            self._check_price(settings.backend, settings.price, "on one of your own it is {input: 0, output: 0}")
        rest = settings.options.get("max_backoff", _REST) if served else 0.0
        endpoints = []
        for address, (pace, concurrency) in zip(addresses(settings), self._servers.limits(name), strict=True):
            options = {"concurrency": concurrency} | settings.options if served else settings.options
            if address is not None:
                options = {**options, "base_url": address}
            options = with_key(f"models.{name}", settings.backend, options, settings.key_env)
            with at(f"models.{name}"):
                made = load_backend(settings.backend, settings.model, **options)
            endpoints.append(Endpoint(made, pace, concurrency if served else 1, rest, settings.wait))
        return StoredBackend(
            name,
            identity(settings),
            endpoints,
            self._store,
            self._budget,
            price=self.price(name),
            batch=1 if served else settings.batch,
            patience=settings.patience,
            halt=self.halt,
            lane=self._servers.lane(name),
        )

    def _own(self, backend: str, model: str, **options: Any) -> Backend:
        """What a judge runs on that is no model of the run, such as the bundled guard."""
        about = {"backend": backend, "model": _model(model), "options": _answering(options)}
        key = key_of(**about)
        if key in self._owned:
            return self._owned[key][1]
        made = load_backend(backend, model, **with_key("seats", backend, options))
        name = f"{backend}:{Path(model).name}"
        if name in {*self._config.models, *(known for known, _ in self._owned.values())}:
            name += f"@{key.hex()[:8]}"
        place = [Endpoint(made)]
        one = StoredBackend(name, about, place, self._store, self._budget, batch=_JUDGED_AT_ONCE, halt=self.halt)
        # A guard by rules has no model, and asks nothing.
        if Method.LOGITS in made.capabilities or Method.GENERATE in made.capabilities:
            self._owned[key] = name, one
        return one


def identity(settings: ModelSettings) -> dict[str, Any]:
    """What a model's answers depend on; where it is reached is no part of it."""
    return {
        "backend": settings.backend,
        "model": _model(settings.model),
        "options": _answering(settings.options),
        "raw": settings.raw,
    }


def _places(settings: ModelSettings) -> tuple[Any, ...]:
    return settings.endpoints, settings.options.get("base_url")


def _model(name: str) -> str:
    """A folder is known by its content, so that another model put in its place is another model."""
    folder = Path(name).expanduser()
    return model_hash(folder) if folder.is_dir() else name


def _answering(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in CONNECTION}
