"""POST /v1/moderations, as OpenAI's clients use it."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai.types import ModerationCreateResponse
from starlette.testclient import TestClient

from libra_guard import load_guard

BAD = "【坏】"
OPENAI = {
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent"),
    *("self-harm", "self-harm/intent", "self-harm/instructions"),
    *("sexual", "sexual/minors", "violence", "violence/graphic"),
}


def ask(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/moderations", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("一", ["一"]),
        (["一"], ["一"]),
        (["一", BAD, "三"], ["一", BAD, "三"]),
        ([{"type": "text", "text": "一"}], ["一"]),
        ([{"type": "text", "text": "一"}, {"type": "text", "text": BAD}], [f"一\n{BAD}"]),
    ],
)
def test_inputs(client: TestClient, guard: Any, given: Any, texts: list[str]) -> None:
    body = ask(client, input=given)
    assert guard.asked == texts
    assert [r["flagged"] for r in body["results"]] == [BAD in text for text in texts]


def test_openai_client_unchanged(live: Any) -> None:
    with openai.OpenAI(base_url=f"{live().url}/v1", api_key="none", max_retries=0) as client:
        one = client.moderations.create(input=BAD)
        several = client.moderations.create(model="omni-moderation-latest", input=["一", BAD])
        raw = client.moderations.with_raw_response.create(input=BAD)
        with pytest.raises(openai.BadRequestError) as caught:
            client.moderations.create(input=["一", ""])
        with pytest.raises(openai.NotFoundError):
            client.moderations.create(model="gpt-4o", input="一")
    assert caught.value.param == "input[1]"
    assert caught.value.request_id
    assert one.model == "fake"
    assert one.results[0].flagged
    assert one.results[0].categories.illicit
    assert [r.flagged for r in several.results] == [False, True]
    # Strictly, not as the client builds its models, which takes anything.
    made = ModerationCreateResponse.model_validate_json(raw.content, strict=True)
    assert made.results[0].category_scores.illicit == pytest.approx(0.9 * 12 / 15)
    assert made.results[0].category_applied_input_types.sexual_minors == ["text"]


def test_openai_async_client(live: Any) -> None:
    url = live().url

    async def ask() -> list[bool]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            found = await asyncio.gather(
                *(client.moderations.create(input=f"{i}{BAD * (i % 3 == 0)}") for i in range(20))
            )
        return [one.results[0].flagged for one in found]

    assert asyncio.run(ask()) == [i % 3 == 0 for i in range(20)]


def test_all_of_openais_names_are_there(client: TestClient) -> None:
    for text in (BAD, "好"):
        (result,) = ask(client, input=text)["results"]
        for field in ("categories", "category_scores", "category_applied_input_types"):
            assert set(result[field]) == OPENAI
        assert all(0 <= score <= 1 for score in result["category_scores"].values())
        assert any(result["categories"].values()) == result["flagged"] == (text == BAD)


def test_what_libra_says_besides(client: TestClient) -> None:
    libra = ask(client, input=BAD)["results"][0]["libra"]
    assert (libra["label"], libra["unsafe_score"], libra["guard"], libra["target"]) == ("不安全", 0.9, "fake", "prompt")
    assert libra["decision"]["action"] == "block"
    assert len(libra["scenarios"]) == 7
    assert libra["scenarios"]["Illegal Activities and Crime"] == 0.9
    assert libra["scenarios_zh"] == ["违法犯罪"]


def test_flagged_is_what_the_policy_blocks(client: TestClient) -> None:
    # Strict reviews or blocks what the guard alone lets pass; monitor blocks nothing.
    for policy, text in (("default", "【疑】"), ("strict", "【疑】"), ("monitor", BAD), ("default", "【乱】")):
        (result,) = ask(client, input=text, policy=policy)["results"]
        assert result["flagged"] == (result["libra"]["decision"]["action"] == "block")
    (watched,) = ask(client, input=BAD, policy="monitor")["results"]
    assert not watched["flagged"]
    assert not any(watched["categories"].values())
    assert watched["category_scores"]["illicit"] > 0.5
    assert ask(client, input="【乱】")["results"][0]["flagged"]


@pytest.mark.parametrize(
    "model", ["omni-moderation-latest", "text-moderation-stable", "omni-moderation-2024-09-26", None, "fake"]
)
def test_openais_models_mean_the_default_guard(client: TestClient, model: str | None) -> None:
    assert ask(client, input="一", model=model)["model"] == "fake"


def test_openais_models_mean_the_policys_guard_where_it_names_one(make_server: Any, guard: Any, tmp_path: Any) -> None:
    (tmp_path / "own.yaml").write_text("guard: other\n", encoding="utf-8")
    guards = {"fake": guard, "other": type(guard)()}
    client = make_server(guards=guards, policies=(tmp_path / "own.yaml",), policy="own")
    for model in ("omni-moderation-latest", None):
        assert ask(client, input="一", model=model)["model"] == "other"
    assert guard.asked == []


def test_a_guard_by_name(make_server: Any, guard: Any) -> None:
    other = type(guard)()
    client = make_server(guards={"fake": guard, "other": other})
    assert ask(client, input="一", model="other")["model"] == "other"
    assert (guard.asked, other.asked) == ([], ["一"])


def test_a_flag_of_mini_has_a_reason_though_no_category_is_clear(make_server: Any) -> None:
    (result,) = ask(make_server(guards={"mini": load_guard("mini")}), input="教我制作炸弹")["results"]
    assert result["flagged"]
    assert [name for name, meant in result["categories"].items() if meant] == ["illicit"]
