from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libra_guard.backends.base import Prompt
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import UsageError
from libra_guard.records import Conversation
from libra_guard.synth.config import SynthConfig
from libra_guard.synth.seats import cast
from libra_guard.synth.seats.cast import Cast
from libra_guard.synth.seats.store import Call, CallStore

HERE, THERE = "http://10.0.0.1/v1", "http://10.0.0.2/v1"
MakeCast = Callable[..., Cast]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeCast]:
    with CallStore(tmp_path / "calls.sqlite") as store:

        def build(
            models: dict[str, Any],
            judges: list[dict[str, Any]] | None = None,
            budget: dict[str, Any] | None = None,
            **seats: Any,
        ) -> Cast:
            there = {name: {"backend": "openai", **about} for name, about in models.items()}
            sitting = {"judges": judges or [{"guard": "mini"}, {"guard": "words:w.txt"}], **seats}
            settings = {"name": "t", "models": there, "seats": sitting, "budget": budget or {}}
            return Cast(SynthConfig.checked(settings, "test"), store)

        yield build


@pytest.fixture
def own(make: MakeCast, monkeypatch: pytest.MonkeyPatch) -> MakeCast:
    """Guards on models of their own; each judges as its folder is called."""

    def load(backend: str, model: str, **options: Any) -> Any:
        said = "不安全" if "harsh" in model else "安全"
        return ScriptedBackend(generate=lambda _: f'{{"答案": "{said}", "分析": "。"}}')

    monkeypatch.setattr(cast, "load_backend", load)
    return make


@pytest.mark.parametrize("apart", [{"endpoints": [THERE]}, {"options": {"base_url": THERE}}, {}])
def test_one_name_at_two_addresses_is_refused(make: MakeCast, apart: dict[str, Any]) -> None:
    models = {"one": {"model": "default", "endpoints": [HERE]}, "two": {"model": "default", **apart}}
    with pytest.raises(UsageError, match=r"models.one and models.two run the same 'default' at different addresses"):
        make(models).check()


@pytest.mark.parametrize(
    "other",
    [
        {"model": "another", "endpoints": [THERE]},
        {"model": "default", "endpoints": [HERE], "temperature": 0},
        {"model": "default", "endpoints": [THERE], "raw": True},
    ],
)
def test_what_can_be_told_apart_may_be_anywhere(make: MakeCast, other: dict[str, Any]) -> None:
    judges = [{"guard": "libra", "model": "one"}, {"guard": "mini"}]
    make({"one": {"model": "default", "endpoints": [HERE]}, "two": other}, judges).check()


def test_two_names_of_one_folder_are_no_two_judges(make: MakeCast, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "again").symlink_to("folder")
    folders = (tmp_path / "folder", tmp_path / "again")
    models = {one.name: {"backend": "scripted", "model": str(one)} for one in folders}
    judges = [{"guard": guard, "model": name} for guard, name in zip(("libra", "policy"), models, strict=True)]
    with pytest.raises(UsageError, match="folder and again are the same model"):
        make(models, judges).check()


def test_judges_on_folders_of_one_name_judge_each_with_its_own(own: MakeCast) -> None:
    judges = [{"guard": "libra:mild/final"}, {"guard": "mini"}]
    made = own({}, judges)
    votes = {}
    for guard in ("libra:mild/final", "libra:harsh/final", "libra:mild/final"):
        settings = made._config.seats.judges[0].model_copy(update={"guard": guard})
        [vote] = made.judge(settings).votes([Conversation.from_pair("问", "答")], explain=True)
        votes[guard] = vote.label
    assert votes == {"libra:mild/final": "安全", "libra:harsh/final": "不安全"}
    first, second = (used.model for used in made.used())
    assert first.endswith(":final")
    assert second.startswith(f"{first}@")
    # What is asked again is one call.
    assert [used.usage.calls for used in made.used()] == [1, 1]


def test_an_arbiter_that_would_sign_as_a_judge_does_is_refused(make: MakeCast) -> None:
    judges = [{"guard": "libra:mild/final"}, {"guard": "mini"}]
    with pytest.raises(UsageError, match="would both sign as 'libra:final'"):
        make({}, judges, arbiter={"guard": "libra:harsh/final"})
    make({}, judges, arbiter={"guard": "libra:harsh/other"})


def test_a_server_rests_as_long_as_its_backend_pauses(make: MakeCast) -> None:
    models = {
        "one": {"model": "a", "endpoints": [HERE, THERE], "options": {"max_backoff": 7.0}},
        "two": {"model": "b", "endpoints": [HERE]},
    }
    made = make(models)
    rests = {name: [one.rest for one in made.backend(name)._endpoints] for name in models}
    assert rests == {"one": [7.0, 7.0], "two": [30.0]}


def test_a_server_is_asked_no_more_by_two_entries_than_by_one(make: MakeCast) -> None:
    models = {
        "one": {"model": "a", "endpoints": [HERE, THERE], "concurrency": 8},
        "two": {"model": "b", "endpoints": [THERE], "concurrency": 3},
    }
    made = make(models)
    one, two = made.backend("one"), made.backend("two")
    assert [place.concurrency for place in one._endpoints] == [8, 3]
    assert one._endpoints[1].pace is two._endpoints[0].pace
    assert (one.workers, two.workers) == (11, 3)
    assert one.lane == two.lane


def test_a_model_in_this_process_takes_no_key(make: MakeCast) -> None:
    with pytest.raises(UsageError, match=r"models\.one\.key_env: the backend 'scripted' takes no key"):
        make({"one": {"backend": "scripted", "model": "a", "key_env": "OWN_KEY"}}).check()


@pytest.mark.parametrize("price", [{"input": 0, "output": 0}, {"input": 0, "output": 1.5}])
def test_with_a_budget_of_money_a_server_names_its_price(make: MakeCast, price: dict[str, float]) -> None:
    server = {"model": "a", "endpoints": [HERE]}
    make({"one": server}).backend("one")
    made = make({"one": server}, budget={"money": 5})
    with pytest.raises(UsageError, match=r"models\.one\.price: budget\.money is set, and this model .* no price"):
        made.backend("one")
    make({"one": {**server, "price": price}}, budget={"money": 5}).backend("one")


def test_half_a_price_is_none(make: MakeCast) -> None:
    with pytest.raises(UsageError, match=r"models\.one\.price\.input: Field required"):
        make({"one": {"model": "a", "endpoints": [HERE], "price": {"output": 2}}})


def test_what_runs_in_this_process_needs_no_price(own: MakeCast) -> None:
    one = own({"one": {"backend": "scripted", "model": "a"}}, budget={"money": 0}).backend("one")
    assert len(one.generate([Prompt.from_user("问")])) == 1


def test_with_a_budget_of_money_no_judge_has_a_server_of_its_own(make: MakeCast) -> None:
    judges = [{"guard": "mini"}, {"guard": "libra:gpt-4o", "options": {"backend": "openai"}}]
    make({}, judges).check()
    with pytest.raises(UsageError, match=r"seats\.judges\.1: budget\.money is set, .* no price; name it in models"):
        make({}, judges, budget={"money": 5}).check()


def test_what_was_paid_is_spent_whatever_the_entry_is_called_now(make: MakeCast) -> None:
    def entry(name: str, price: dict[str, float] | None = None) -> Cast:
        return make(
            {name: {"model": "a", "endpoints": [HERE], "price": price or {"input": 0, "output": 2}}},
            budget={"money": 3},
        )

    first = entry("old")
    first._store.keep(b"k", Call("答", 7, 10**6), model="old", money=2.0)
    for name, spent in (("old", 2.0), ("new", 2.0)):
        assert entry(name)._budget._money == spent
    # A price that was not known, or too low, when the calls were made.
    assert entry("old", {"input": 0, "output": 9})._budget._money == 9.0
