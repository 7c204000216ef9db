"""Servers that several models of a run stand on: what one may be asked, and which key it is sent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from libra_guard.errors import UsageError
from libra_guard.synth.config import ModelSettings
from libra_guard.synth.seats.budget import Pace

_HOMES = {"openai": "api.openai.com", "anthropic": "api.anthropic.com"}
"""Backend → the host that the key of its own environment variable is for."""
_NO_KEY = "EMPTY"
"""What a server is sent that needs none."""


class Servers:
    """The limits of all addresses that the settings name.

    Entries of ``models`` that name one address share it: the lowest of their limits holds for all of them together, and
    they are asked in turn. Entries that name none share nothing, for an API limits each model by itself.

    Args:
        models: The run's.
    """

    def __init__(self, models: Mapping[str, ModelSettings]) -> None:
        self._places = {name: [_place(name, one) for one in addresses(model)] for name, model in models.items()}
        sharing: dict[str, list[ModelSettings]] = {}
        for name, places in self._places.items():
            for place in places:
                sharing.setdefault(place, []).append(models[name])
        self._concurrency = {place: min(one.concurrency for one in there) for place, there in sharing.items()}
        self._paces = {place: Pace(_lowest(one.a_minute for one in there)) for place, there in sharing.items()}
        self._lanes = _joined(self._places.values())

    def lane(self, name: str) -> frozenset[str]:
        """The addresses that a model and all those share that are asked in turn with it."""
        return next(lane for lane in self._lanes if self._places[name][0] in lane)

    def limits(self, name: str) -> list[tuple[Pace, int]]:
        """The pace, and the calls at a time, of each endpoint of a model."""
        return [(self._paces[place], self._concurrency[place]) for place in self._places[name]]


def addresses(settings: ModelSettings) -> tuple[str | None, ...]:
    """Where a model is reached; None: at its backend's own default."""
    return settings.endpoints or (settings.options.get("base_url"),)


def with_key(where: str, backend: str, options: Mapping[str, Any], key_env: str | None = None) -> dict[str, Any]:
    """A backend's options with the key that its server is to be sent.

    The key of the backend's own environment variable is for the provider itself: an address of the settings is sent it
    only where ``key_env`` says so.

    Args:
        where: Name of the setting, for messages.
        backend: Its name.
        options: As they stand, ``base_url`` among them where there is one.
        key_env: Name of the environment variable that holds the key.

    Raises:
        UsageError: There is no such variable.
    """
    if key_env:
        if not (key := os.environ.get(key_env)):
            raise UsageError(f"{where}.key_env: the environment has no {key_env}")
        return {**options, "api_key": key}
    address = options.get("base_url")
    if address and not options.get("api_key") and urlsplit(str(address)).hostname != _HOMES.get(backend):
        return {**options, "api_key": _NO_KEY}
    return dict(options)


def _place(name: str, address: str | None) -> str:
    if address is None:
        return f"models.{name}"
    parts = urlsplit(address)
    return f"{parts.scheme.lower()}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _lowest(limits: Iterable[float | None]) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _joined(groups: Iterable[Iterable[str]]) -> list[frozenset[str]]:
    """Groups that have a member in common as one."""
    joined: list[frozenset[str]] = []
    for group in groups:
        met = [one for one in joined if not one.isdisjoint(group)]
        joined = [one for one in joined if one not in met] + [frozenset(group).union(*met)]
    return joined
