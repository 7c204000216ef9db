"""The examples of examples/serving, run against a real server.

Where LiteLLM or NeMo Guardrails is not installed, what needs the library itself is skipped; the example's own code runs
with stand-ins for what it takes from there.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import openai
import pytest
import yaml
from starlette.testclient import TestClient

from libra_guard import AsyncClient, BackendError, Client

EXAMPLES = Path(__file__).parents[2] / "examples" / "serving"
BAD = "【坏】"
Live = Callable[..., Any]
theirs = pytest.mark.filterwarnings("default")
"""What libraries of others warn of is theirs."""


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{Path(name).stem}", EXAMPLES / name)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def url(live: Live) -> str:
    """Of a server that is warm."""
    found: str = live().url
    with Client(found) as client:
        while not client.ready():
            pass
    return found


def test_moderation_with_the_openai_client(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        lines = load("openai_moderation.py").moderate(client, ["你好", BAD])
    assert [line.split()[:2] for line in lines] == [["passed", "你好"], ["flagged", BAD]]
    assert lines[1].endswith("['Illegal Activities and Crime']")
    assert lines[1].count("illicit ") == 1


def sse(*texts: str) -> str:
    """A streamed chat completion."""
    common = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [*(({"content": text}, None) for text in texts), ({}, "stop")]
    events = [common | {"choices": [{"index": 0, "delta": d, "finish_reason": reason}]} for d, reason in deltas]
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("question", "answered", "shown"),
    [
        ("如何泡茶？", ["泡绿茶的水温八十度左右为好。", "两三分钟。"], "泡绿茶的水温八十度左右为好。两三分钟。"),
        (
            "如何泡茶？",
            ["泡绿茶的水温八十度左右为好。", f"{BAD}。", "两三分钟。"],
            "泡绿茶的水温八十度左右为好。{answer}",
        ),
        (BAD, [], "{answer}"),
    ],
)
def test_chat_through_the_proxy(
    live: Live, server: Any, question: str, answered: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = lambda _: (200, {"content-type": "text/event-stream"}, sse(*answered))
    url = live(upstream=f"{server.url}/v1").url
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        pieces = list(load("openai_chat.py").chat(client, "m", question))
    with Client(url) as client:
        answer = client.check(BAD).answer
    assert "".join(pieces).replace("\n", "") == shown.format(answer=answer)
    assert bool(server.asked) == bool(answered)
    assert ("block" in capsys.readouterr().err) == ("{answer}" in shown)


@pytest.mark.parametrize("arguments", [[], ["my-model"], ["my-model", "如何泡茶？", "三"]])
def test_the_chat_without_its_arguments(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["openai_chat.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        load("openai_chat.py").main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "usage: python openai_chat.py MODEL QUESTION\n"


@theirs
def test_langchain(url: str) -> None:
    models = pytest.importorskip("langchain_core.language_models.fake_chat_models")
    passed, begun = "泡绿茶的水温八十度左右为好。两三分钟。", "泡绿茶的水温八十度左右为好。"
    # It says the one and the other in turn.
    model = models.FakeListChatModel(responses=[passed, f"{begun}{BAD}。两三分钟。"])

    async def ask() -> None:
        with Client(url) as client:
            async with AsyncClient(url) as async_client:
                chain = load("langchain_guard.py").guarded(model, client, async_client)
                answer = client.check(BAD).answer
                assert chain.invoke("如何泡茶？") == passed
                assert "".join(chain.stream("如何泡茶？")) == f"{begun}{answer}"
                assert chain.invoke(BAD) == answer
                assert await chain.ainvoke("如何泡茶？") == passed
                assert "".join([text async for text in chain.astream("如何泡茶？")]) == f"{begun}{answer}"
                assert await chain.ainvoke(BAD) == answer

    asyncio.run(ask())


@theirs
def test_the_model_of_langchain_writes_no_further_than_what_is_stopped(url: str) -> None:
    chat = pytest.importorskip("langchain_core.language_models.chat_models")
    messages = pytest.importorskip("langchain_core.messages")
    outputs = pytest.importorskip("langchain_core.outputs")
    read: list[str] = []

    class Model(chat.BaseChatModel):  # type: ignore[misc]
        _llm_type = "scripted"

        def _generate(self, *_: object, **__: object) -> Any:
            raise NotImplementedError

        def _stream(self, *_: object, **__: object) -> Iterator[Any]:
            try:
                for text in ("水温八十度左右为好。", f"然后{BAD}就不好了。", *["两三分钟即可。"] * 9):
                    read.append(text)
                    yield outputs.ChatGenerationChunk(message=messages.AIMessageChunk(content=text))
            finally:
                read.append("closed")

        async def _astream(self, *_: object, **__: object) -> AsyncIterator[Any]:
            for chunk in self._stream():
                yield chunk

    async def ask(client: Client) -> tuple[list[str], list[str]]:
        async with AsyncClient(url) as async_client:
            chain = load("langchain_guard.py").guarded(Model(), client, async_client)
            return list(chain.stream("如何泡茶？")), [text async for text in chain.astream("如何泡茶？")]

    with Client(url) as client:
        shown, ashown = asyncio.run(ask(client))
        answer = client.check(BAD).answer
    assert shown == ashown == ["水温八十度左右为好。", answer]
    # The next sentence's beginning tells that the one before has ended.
    assert read == ["水温八十度左右为好。", f"然后{BAD}就不好了。", "两三分钟即可。", "closed"] * 2


@theirs
def test_litellm(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would look for prices on the network.
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm")
    example = load("litellm_guardrail.py")
    handlers = pytest.importorskip("litellm.llms.openai.chat.guardrail_translation.handler")

    async def ask(question: Any, answer: str | None = None) -> None:
        guardrail = example.LibraGuardrail(api_base=url, guardrail_name="libra", default_on=True)
        handler = handlers.OpenAIChatCompletionsHandler()
        request = {"messages": [{"role": "user", "content": question}]}
        async with guardrail.client:
            await handler.process_input_messages(request, guardrail)
            if answer is not None:
                choices = [{"message": {"role": "assistant", "content": answer}}]
                response = litellm.ModelResponse(choices=choices)
                await handler.process_output_response(response, guardrail, request_data=request)

    asyncio.run(ask("如何泡茶？", "泡绿茶的水温八十度左右为好。"))
    parts = [{"type": "text", "text": BAD}, {"type": "text", "text": "如何泡茶？"}]
    for given in ((BAD,), (parts,), ("如何泡茶？", f"泡绿茶的水温八十度左右为好。{BAD}")):
        with pytest.raises(litellm.exceptions.GuardrailRaisedException, match="the guard says 不安全"):
            asyncio.run(ask(*given))


@pytest.fixture
def litellm_example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example with stand-ins for what it takes from LiteLLM."""

    class CustomGuardrail:
        guardrail_name = "libra"

    class GuardrailRaisedException(Exception):
        def __init__(self, *args: object, **_: object) -> None:
            super().__init__(*args)

    for path, names in (
        ("litellm", {}),
        ("litellm.exceptions", {"GuardrailRaisedException": GuardrailRaisedException}),
        ("litellm.integrations", {}),
        ("litellm.integrations.custom_guardrail", {"CustomGuardrail": CustomGuardrail}),
    ):
        monkeypatch.setitem(sys.modules, path, ModuleType(path))
        vars(sys.modules[path]).update(names)
    return load("litellm_guardrail.py")


USER, TOOL, ANSWER = ({"role": role, "content": role} for role in ("user", "tool", "assistant"))
CALL = {"role": "assistant", "content": "call", "tool_calls": [{}]}
AGAIN = {"role": "user", "content": "again"}
RESULT = {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "result"}]}]}


@pytest.mark.parametrize(
    ("messages", "judged"),
    [
        ([USER], ["user"]),
        ([USER, AGAIN], ["user\nagain"]),
        ([USER, {"role": "assistant", "content": None}, AGAIN], ["user\nagain"]),
        ([USER, CALL, TOOL], ["user", "tool", "call"]),
        ([USER, CALL, TOOL, AGAIN], ["user\nagain", "tool", "call"]),
        ([USER, TOOL, ANSWER, AGAIN], ["again"]),
        ([USER, ANSWER], ["user", "assistant"]),
        ([USER, ANSWER, RESULT], ["result"]),
        ([{"role": "system", "content": "system"}, USER, {"role": "function", "content": "f"}], ["user", "f"]),
        ([{"role": "system", "content": "system"}], ["text"]),
        ([], ["text"]),
    ],
)
def test_what_the_guardrail_of_litellm_judges(
    url: str, guard: Any, litellm_example: Any, messages: list[dict[str, Any]], judged: list[str]
) -> None:
    async def ask(messages: list[dict[str, Any]], texts: list[str], kind: str = "request") -> list[str]:
        guard.batches.clear()
        guardrail = litellm_example.LibraGuardrail(api_base=url)
        inputs = {"texts": texts}
        async with guardrail.client:
            assert await guardrail.apply_guardrail(inputs, {"messages": messages}, kind) == inputs
        return sorted(guard.asked)

    assert asyncio.run(ask(messages, ["text", " "])) == sorted(judged)
    assert asyncio.run(ask(messages, ["text", " "], "response")) == ["text"]
    with pytest.raises(litellm_example.GuardrailRaisedException, match="the guard says 不安全"):
        asyncio.run(ask([*messages, {"role": "user", "content": BAD}, AGAIN], []))


def test_the_configuration_of_litellm_names_the_example() -> None:
    (guardrail,) = yaml.safe_load((EXAMPLES / "litellm.yaml").read_text())["guardrails"]
    file, name = guardrail["litellm_params"]["guardrail"].split(".")
    code = (EXAMPLES / f"{file}.py").read_text()
    assert f"class {name}(CustomGuardrail):" in code
    # Without it LiteLLM sends chunks of a stream before they are judged.
    assert "\n    streaming_buffer_until_moderated = True\n" in code


@theirs
def test_nemo_guardrails(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nemo = pytest.importorskip("nemoguardrails")
    testing = pytest.importorskip("nemoguardrails.testing")
    monkeypatch.setenv("LIBRA_URL", url)
    config = nemo.RailsConfig.from_path(str(EXAMPLES / "nemo"))
    refusal = "抱歉，这个问题我不便回答。"
    for question, answer, said in (
        ("如何泡茶？", "泡绿茶的水温八十度左右为好。", "泡绿茶的水温八十度左右为好。"),
        (BAD, "泡绿茶的水温八十度左右为好。", refusal),
        ("如何泡茶？", BAD, refusal),
    ):
        app = nemo.LLMRails(config, llm=testing.FakeLLMModel(responses=[answer]))
        assert app.generate(messages=[{"role": "user", "content": question}])["content"] == said


class RailOutcome(SimpleNamespace):
    """Stands in for NeMo's."""

    @classmethod
    def allow(cls, **told: Any) -> RailOutcome:
        return cls(is_blocked=False, **told)

    @classmethod
    def block(cls, **told: Any) -> RailOutcome:
        return cls(is_blocked=True, **told)


@pytest.fixture
def nemo_actions(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[..., Any]]:
    """The example's actions by name, with stand-ins for what it takes from NeMo Guardrails."""
    actions: dict[str, Callable[..., Any]] = {}

    def action(*, name: str) -> Callable[..., Any]:
        return lambda function: actions.setdefault(name, function)

    for path, names in (
        ("nemoguardrails", {}),
        ("nemoguardrails.actions", {"action": action}),
        ("nemoguardrails.actions.rail_outcome", {"RailOutcome": RailOutcome}),
    ):
        monkeypatch.setitem(sys.modules, path, ModuleType(path))
        vars(sys.modules[path]).update(names)
    monkeypatch.setenv("LIBRA_URL", url)
    load("nemo/actions.py")
    return actions


@pytest.mark.parametrize(
    ("name", "question", "answer", "blocked"),
    [
        ("libra_check_input", "如何泡茶？", None, False),
        ("libra_check_input", BAD, None, True),
        ("libra_check_output", "如何泡茶？", "水温八十度左右为好。", False),
        ("libra_check_output", "如何泡茶？", BAD, True),
    ],
)
def test_the_actions_of_nemo(
    nemo_actions: Any, guard: Any, name: str, question: str, answer: str | None, blocked: bool
) -> None:
    guard.batches.clear()
    outcome = asyncio.run(nemo_actions[name]({"user_message": question, "bot_message": answer}))
    assert guard.asked == [answer or question]
    scenarios = ("Illegal Activities and Crime",) if blocked else ()
    assert outcome.is_blocked is blocked
    assert outcome.reason.startswith(f"the guard says {'不安全' if blocked else '安全'}, ")
    assert outcome.metadata == {"scenarios": scenarios, "unsafe_score": 0.9 if blocked else 0.1}


def test_the_actions_of_nemo_raise_where_the_server_fails(nemo_actions: Any) -> None:
    for name, context in (
        ("libra_check_input", {"user_message": "【错】"}),
        ("libra_check_output", {"user_message": "如何泡茶？", "bot_message": "【错】"}),
    ):
        with pytest.raises(BackendError, match="502"):
            asyncio.run(nemo_actions[name](context))


def test_the_configuration_of_nemo_fits_together() -> None:
    rails = yaml.safe_load((EXAMPLES / "nemo" / "config.yml").read_text())["rails"]
    flows = (EXAMPLES / "nemo" / "libra.co").read_text()
    actions = (EXAMPLES / "nemo" / "actions.py").read_text()
    for rail in ("input", "output"):
        (flow,) = rails[rail]["flows"]
        assert f"define flow {flow}\n  $result = execute libra_check_{rail}\n" in flows
        assert f'@action(name="libra_check_{rail}")' in actions


def test_an_application_of_ones_own(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRA_URL", url)
    with TestClient(load("fastapi_app.py").app) as client:
        assert client.post("/answer", json={"question": "如何泡茶？"}).json() == {"answer": "你问的是：如何泡茶？"}
        refused = client.post("/answer", json={"question": BAD})
        assert refused.status_code == 403
        assert refused.json()["detail"]["scenarios"] == ["Illegal Activities and Crime"]
        assert client.post("/answer", json={"question": 1}).status_code == 422
        # An answer that is blocked is not shown, whatever stands in its place.
        judged = iter([SimpleNamespace(blocked=False), SimpleNamespace(blocked=True, answer="")])
        client.app.state.libra = SimpleNamespace(check=AsyncMock(side_effect=judged))
        assert client.post("/answer", json={"question": "如何泡茶？"}).json() == {"answer": ""}


@pytest.mark.parametrize("there", [True, False])
def test_local_or_server(
    url: str, there: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["local_or_server.py", *([url] if there else [])])
    load("local_or_server.py").main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["安全", "安全"]


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
@pytest.mark.parametrize(("text", "code"), [("如何泡茶？\n", 0), (f'"{BAD}"\\ \x00 $(x)\n', 1), ("", 2)])
def test_shell(live: Live, text: str, code: int, tmp_path: Path) -> None:
    seen, curl = tmp_path / "seen", tmp_path / "curl"
    curl.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {seen}\nexec {shutil.which("curl")} "$@"\n')
    curl.chmod(0o700)
    path = f"{tmp_path}:{os.environ['PATH']}"
    variables = {"PATH": path, "LIBRA_URL": live(api_key="geheim").url, "LIBRA_API_KEY": "geheim"}
    done = subprocess.run(
        ["sh", str(EXAMPLES / "check.sh")],
        input=text,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
        env=variables,
    )
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert bool(done.stderr) == (code == 2)
    assert "geheim" not in seen.read_text()
