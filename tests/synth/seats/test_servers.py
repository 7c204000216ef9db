from __future__ import annotations

from typing import Any

import pytest

from libra_guard.errors import UsageError
from libra_guard.synth.config import ModelSettings
from libra_guard.synth.seats.servers import Servers, with_key

A, B, C, D = (f"http://10.0.0.{number}:8000/v1" for number in range(1, 5))


def servers(**models: dict[str, Any]) -> Servers:
    return Servers({name: ModelSettings(backend="openai", model=name, **about) for name, about in models.items()})


def test_entries_at_one_address_share_the_lowest_limits() -> None:
    made = servers(
        one={"endpoints": [A, B], "concurrency": 8, "a_minute": 60},
        two={"endpoints": ["HTTP://10.0.0.1:8000/v1/"], "concurrency": 2},
        three={"options": {"base_url": A}, "concurrency": 4, "a_minute": 600},
    )
    (pace, at_once), (own, most) = made.limits("one")
    assert (at_once, most) == (2, 8)
    assert made.limits("two") == made.limits("three") == [(pace, 2)]
    assert pace.take() == 0
    assert 0.5 < pace.take() <= 1
    assert own.take() == 0


def test_entries_without_an_address_share_nothing() -> None:
    made = servers(one={"concurrency": 8, "a_minute": 60}, two={"concurrency": 2})
    [(_, at_once)] = made.limits("one")
    assert at_once == 8
    assert made.lane("one") != made.lane("two")


def test_who_shares_an_address_is_asked_in_turn() -> None:
    made = servers(
        one={"endpoints": [A, B]}, two={"endpoints": [C]}, three={"endpoints": [D]}, four={"endpoints": [B, C]}
    )
    assert made.lane("one") == made.lane("two") == made.lane("four") == {A, B, C}
    assert made.lane("three") == {D}


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_KEY", "sk-own")
    monkeypatch.setenv("EMPTY_KEY", "")


@pytest.mark.parametrize(
    ("backend", "address", "key_env", "sent"),
    [
        ("openai", None, None, None),
        ("openai", "https://api.openai.com/v1", None, None),
        ("openai", "https://API.OpenAI.com/v1", None, None),
        ("openai", "https://api.openai.com.example.org/v1", None, "EMPTY"),
        ("openai", "https://api.openai.com@example.org/v1", None, "EMPTY"),
        ("openai", A, None, "EMPTY"),
        ("openai", A, "OWN_KEY", "sk-own"),
        ("openai", None, "OWN_KEY", "sk-own"),
        ("anthropic", "https://api.anthropic.com", None, None),
        ("anthropic", A, None, "EMPTY"),
    ],
)
def test_which_key_a_server_is_sent(backend: str, address: str | None, key_env: str | None, sent: str | None) -> None:
    options = {"base_url": address} if address else {}
    found = with_key("models.m", backend, options, key_env)
    assert found == {**options, **({"api_key": sent} if sent else {})}


def test_a_key_of_the_settings_stays() -> None:
    options = {"base_url": A, "api_key": "sk-written"}
    assert with_key("models.m", "openai", options) == options


@pytest.mark.parametrize("name", ["NO_KEY", "EMPTY_KEY"])
def test_a_key_that_is_not_there(name: str) -> None:
    with pytest.raises(UsageError, match=rf"models\.m\.key_env: the environment has no {name}"):
        with_key("models.m", "openai", {}, name)
