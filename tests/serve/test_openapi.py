"""The API's description: what a client is written from. That the server keeps it: ``test_schemathesis``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from libra_guard.serve.app import create_app
from libra_guard.serve.settings import ServerSettings

IDS = {
    "POST /v1/moderations": "createModeration",
    "POST /v1/guard": "judgeConversations",
    "POST /v1/guard/stream": "judgeStream",
    "POST /v1/chat/completions": "createChatCompletion",
    "GET /v1/models": "listModels",
    "GET /v1/models/{model}": "retrieveModel",
    "GET /v1/guards": "listGuards",
    "GET /v1/policies": "listPolicies",
    "GET /healthz": "getHealth",
    "GET /readyz": "getReadiness",
    "GET /metrics": "getMetrics",
}
OPEN = {"/healthz", "/readyz"}
BODY = {"400", "408", "413", "415"}
JUDGED = {"404", "429", "500", "502", "503", "504"}
STATUSES = {
    **dict.fromkeys(("createModeration", "judgeConversations", "judgeStream"), BODY | JUDGED),
    "createChatCompletion": BODY | JUDGED | {"4XX"},
    "listModels": JUDGED - {"404", "429"} | {"400", "4XX"},
    "retrieveModel": JUDGED - {"429"} | {"400", "4XX"},
    "getMetrics": JUDGED & {"500"} | {"400"},
    **dict.fromkeys(("listGuards", "listPolicies", "getHealth", "getReadiness"), JUDGED & {"500", "503"} | {"400"}),
}


def described(**settings: Any) -> dict[str, Any]:
    return create_app(ServerSettings(**settings), {}).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def is_valid(document: dict[str, Any], schema: dict[str, Any], value: Any) -> bool:
    jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]}).validate(value)
    return True


DOCUMENT = described()
EXAMPLES = [
    (path, content["schema"], example["value"])
    for _, path, operation in operations(DOCUMENT)
    for content in operation.get("requestBody", {}).get("content", {}).values()
    for example in content["examples"].values()
]


def test_operations_have_ids_that_stay() -> None:
    found = {f"{method.upper()} {path}": operation["operationId"] for method, path, operation in operations(DOCUMENT)}
    assert found == IDS


def test_every_operation_is_told_in_a_line_and_in_more() -> None:
    for _, _, operation in operations(DOCUMENT):
        assert re.fullmatch(r"[A-Z][^\n]{10,80}[^.\n]", operation["summary"])
        assert operation["description"].endswith(".")
        assert operation["summary"] not in operation["description"]
        assert set(operation["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}


def test_every_field_is_described() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert [name for name, schema in schemas.items() if not schema.get("description")] == []
    asked = DOCUMENT["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    bare = [
        f"{name}.{field}"
        for name, schema in {**schemas, "ChatRequest": asked}.items()
        for field, told in schema.get("properties", {}).items()
        if not told.get("description") and not told.get("$ref")
    ]
    assert bare == []


def descriptions(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(told := node.get("description"), str):
            yield told
        for inner in node.values():
            yield from descriptions(inner)


def test_descriptions_do_not_speak_of_the_code() -> None:
    told = list(descriptions(DOCUMENT))
    assert len(told) > 200
    assert [text for text in told if re.search(r"\bNone\b|AnswerWindows|Backend|CONTROVERSIAL|``flagged", text)] == []


@pytest.mark.parametrize(("path", "schema", "value"), EXAMPLES)
def test_requests_of_examples_are_valid_and_taken(
    make_server: Any, server: Any, path: str, schema: Any, value: Any
) -> None:
    assert is_valid(DOCUMENT, schema, value)
    message = {"role": "assistant", "content": "水温八十度。"}
    server.reply = lambda asked: (
        (200, {"content-type": "text/event-stream"}, "data: [DONE]\n\n")
        if asked.get("stream")
        else (200, {}, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    )
    answer = make_server(upstream=f"{server.url}/v1").post(path, json=value)
    assert answer.status_code == 200, answer.text
    if not value.get("stream"):
        told = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert is_valid(DOCUMENT, told, answer.json())


def test_every_body_has_an_example() -> None:
    assert {path for path, _, _ in EXAMPLES} == {
        p for _, p, operation in operations(DOCUMENT) if "requestBody" in operation
    }


def test_answers_of_examples_are_valid_and_whole() -> None:
    for _, _, operation in operations(DOCUMENT):
        for kind, content in operation["responses"]["200"]["content"].items():
            assert content["example"]
            assert kind == "text/event-stream" or is_valid(DOCUMENT, content["schema"], content["example"])
    result = DOCUMENT["paths"]["/v1/guard/stream"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
    # FastAPI would leave out what is null.
    assert (result["answer"], result["windows"][0]["verdict"]["analysis"]) == (None, None)


def test_a_wrong_example_would_be_found() -> None:
    with pytest.raises(jsonschema_rs.ValidationError):
        is_valid(DOCUMENT, {"$ref": "#/components/schemas/GuardRequest"}, {"conversation": {"questoin": "a"}})


def test_errors_have_one_shape_and_their_headers() -> None:
    for _, _, operation in operations(DOCUMENT):
        errors = {status: told for status, told in operation["responses"].items() if status != "200"}
        assert set(errors) == STATUSES[operation["operationId"]]
        for status, told in errors.items():
            schema = told["content"]["application/json"]["schema"]
            assert schema == ({"type": "object"} if status == "4XX" else {"$ref": "#/components/schemas/ErrorBody"})
            assert ("Retry-After" in told["headers"]) == (status in ("429", "503"))
            assert "X-Request-Id" in told["headers"]


@pytest.mark.parametrize("keys", [True, False])
def test_a_key_is_asked_for_where_there_is_one(keys: bool, make_server: Any) -> None:
    document = described(**({"api_key": "right"} if keys else {}))
    assert document.get("security") == ([{"key": []}] if keys else None)
    assert ("securitySchemes" in document["components"]) == keys
    for _, path, operation in operations(document):
        needs = keys and path not in OPEN
        assert ("401" in operation["responses"]) == needs
        assert operation.get("security") == ([] if keys and path in OPEN else None)
    if keys:
        assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
        client = make_server(api_key="right")
        assert {path for path in document["paths"] if client.get(path).status_code != 401} == OPEN


def test_names_of_the_server_matter_without_a_key_alone() -> None:
    assert "400" not in described(api_key="right")["paths"]["/v1/guards"]["get"]["responses"]


def test_the_page_shows_the_examples(make_server: Any) -> None:
    page = make_server().get("/docs").text
    assert page.count("<details>") == len(EXAMPLES) + sum(path != "/metrics" for path in DOCUMENT["paths"])
    assert "&quot;question&quot;: &quot;怎么泡绿茶？&quot;" in page
    assert "<code>finish_reason</code>" in page
    assert "`" not in page
