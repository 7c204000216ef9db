"""The served guards, and the one way to a decision."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from libra_guard.errors import UsageError
from libra_guard.records import Conversation, Target
from libra_guard.serve.batcher import QueueFullError
from libra_guard.serve.categories import Categories
from libra_guard.serve.errors import ApiError
from libra_guard.serve.known import Known
from libra_guard.serve.pool import Served, check_guards, load_guards, warm_up
from libra_guard.serve.settings import ServerSettings


class Noted:
    """In place of a batcher: keeps what it was given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.given: list[Conversation] = []
        self.error = error

    async def judge(self, conversation: Conversation) -> None:
        self.given.append(conversation)
        if self.error is not None:
            raise self.error


def pool_of(guard: Any, batcher: Noted) -> Any:
    return SimpleNamespace(all=[Served("fake", guard, batcher, Categories(None), Known())])  # type: ignore[arg-type]


def test_warm_up_asks_only_what_the_guard_judges(guard: Any) -> None:
    guard.targets = frozenset({Target.RESPONSE})
    batcher = Noted()
    asyncio.run(warm_up(pool_of(guard, batcher)))
    assert {one.target for one in batcher.given} == {Target.RESPONSE}
    assert len({len(one.messages[-1].content) for one in batcher.given}) == 3


def test_warm_up_gives_way_to_users(guard: Any) -> None:
    batcher = Noted(QueueFullError(1))
    asyncio.run(warm_up(pool_of(guard, batcher)))
    assert len(batcher.given) == 6


def test_guards_by_name(make_server: Any, guard: Any) -> None:
    pool = make_server(guards={"first": guard, "second": type(guard)()}).app.state.server.pool
    assert [served.name for served in pool.all] == ["first", "second"]
    assert pool.get(None).name == pool.get("omni-moderation-latest").name == "first"
    assert pool.get("second").name == "second"
    for name in ("third", "", "omni-moderation-" + "x" * 100, "my-omni-moderation-latest"):
        with pytest.raises(ApiError) as caught:
            pool.get(name)
        assert (caught.value.status_code, caught.value.code) == (404, "model_not_found")


def test_openais_names_leave_the_choice_to_the_policy(make_server: Any, guard: Any) -> None:
    pool = make_server(guards={"first": guard, "second": type(guard)()}).app.state.server.pool
    for name in (None, "omni-moderation-latest", "text-moderation-stable"):
        assert pool.get(name, "second").name == "second"
    assert pool.get("first", "second").name == "first"
    # Who gives a guard such a name means that guard.
    named = make_server(guards={"first": guard, "omni-moderation-latest": type(guard)()}).app.state.server.pool
    assert named.get("omni-moderation-latest").name == "omni-moderation-latest"


def test_a_policy_names_its_guard(make_server: Any, guard: Any, tmp_path: Any) -> None:
    (tmp_path / "own.yaml").write_text("extends: default\nguard: second\n", encoding="utf-8")
    second = type(guard)()
    client = make_server(guards={"first": guard, "second": second}, policies=(tmp_path / "own.yaml",))

    async def decide(**options: Any) -> None:
        await client.app.state.server.decide(Conversation.from_pair("问"), **options)

    for options in ({}, {"policy": "own"}, {"policy": "own", "guard": "first"}):
        # In the application's own event loop, where its batchers live.
        client.portal.call(lambda options=options: decide(**options))
    assert (len(guard.asked), len(second.asked)) == (2, 1)


@pytest.mark.parametrize(
    ("settings", "threads"),
    [({}, None), ({"threads": 3}, 3), ({"workers": 1000}, 1), ({"workers": 2, "threads": 5}, 5)],
)
def test_threads_of_an_onnx_guard(settings: dict[str, int], threads: int | None, monkeypatch: Any, guard: Any) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("libra_guard.serve.pool.load_guard", lambda spec, **options: asked.update({spec: options}))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    load_guards(ServerSettings(guards=("mini", "w=words:/x"), **settings))
    assert asked == {"mini": {"threads": 4 if threads is None else threads}, "words:/x": {}}


def test_guards_that_are_none() -> None:
    with pytest.raises(UsageError, match="did you mean 'mini'"):
        check_guards(ServerSettings(guards=("a=minni:/x",)))
    with pytest.raises(UsageError, match="/none"):
        load_guards(ServerSettings(guards=("mini:/none",)))
