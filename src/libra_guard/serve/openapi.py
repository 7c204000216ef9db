"""The API's description (OpenAPI 3.1): what FastAPI knows of the routes, and what the layers before them add."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from libra_guard.policy.decide import Decision
from libra_guard.predict.arrivals import FirstHit
from libra_guard.predict.stream import StreamState
from libra_guard.records import Message, Verdict
from libra_guard.serve.auth import is_open
from libra_guard.serve.errors import documented
from libra_guard.serve.examples import ANSWERS, REQUESTS

_ABOUT = """\
Whatever goes wrong is told in one shape, `{"error": {"message", "type", "param", "code"}}`: for another method on a
path (405) and an unknown path (404) too. No error quotes a text.

Every answer has the header `X-Request-Id`. A request may bring its own name in a header of that name: 1 to 100 letters,
digits, `.`, `_`, `:` and `-`.

After 429 and 503 ask again when `Retry-After` says; a request that failed has left nothing behind."""
_TAGS = (
    {"name": "verdicts", "description": "Texts, conversations and growing answers, judged."},
    {"name": "proxy", "description": "A guard before another OpenAI-compatible server: start with `--upstream`."},
    {"name": "system", "description": "What is served, and how the server is."},
)
_KEY = {"type": "http", "scheme": "bearer", "description": "An API key of this server: `Authorization: Bearer KEY`."}
_REQUEST_ID = {"X-Request-Id": {"description": "Name of the request, also in logs.", "schema": {"type": "string"}}}
_OF_ELSEWHERE = (Message, Verdict, Decision, StreamState, FirstHit)
"""Models of other parts, whose fields say in docstrings what they are."""
_SAID: dict[str, str] = {
    "Label": "安全 is safe, 不安全 unsafe; 有争议 is in dispute, and given only by guards with three states.",
    "Method": "How the verdict was read: from the model's choice among labels, from its text, or from its logits.",
    "Verdict": "What a guard says of one conversation. One that is not `valid` is to be taken as unsafe.",
    "StreamState": "Where the answer stands. It goes back as it came; its fields are the server's business.",
    "Message": "One turn of a conversation.",
}
"""Schema → what is said of it here, where its docstring speaks to who reads the code."""


def description(app: FastAPI, *, keys: bool, own_names: bool) -> dict[str, Any]:
    """The document.

    Args:
        app: With its routes.
        keys: Whether an API key is needed.
        own_names: Whether only requests that name this server as their host are answered.
    """
    told = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=_ABOUT,
        routes=app.routes,
        tags=list(_TAGS),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    schemas = told["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _describe(schemas)
    for path, operations in told["paths"].items():
        for operation in operations.values():
            _complete(operation, keys=keys and not is_open(path), own_names=own_names)
            if keys and is_open(path):
                operation["security"] = []
    if keys:
        told["components"]["securitySchemes"] = {"key": _KEY}
        told["security"] = [{"key": []}]
    return told


def _complete(operation: dict[str, Any], *, keys: bool, own_names: bool) -> None:
    """Adds what is answered before the route is asked, and takes out FastAPI's own error, which is answered as 400."""
    answers = operation["responses"]
    answers.pop("422", None)
    body = "requestBody" in operation
    more = {500: True, 401: keys, 400: body or own_names, **dict.fromkeys((408, 413, 415), body)}
    host = {} if body else {"s400": "The `Host` header names another server."}
    for status, one in documented(*(status for status, there in more.items() if there), **host).items():
        schema = {"$ref": f"#/components/schemas/{one.pop('model').__name__}"}
        answers[str(status)] = {**one, "content": {"application/json": {"schema": schema}}}
    operation["responses"] = dict(sorted(answers.items()))
    for kind, example in ANSWERS[operation["operationId"]].items():
        # FastAPI would leave out what is null in them.
        answers["200"]["content"][kind]["example"] = example
    if body:
        operation["requestBody"]["content"]["application/json"]["examples"] = REQUESTS[operation["operationId"]]
    for answer in answers.values():
        answer["headers"] = answer.get("headers", {}) | _REQUEST_ID


def _describe(schemas: dict[str, Any]) -> None:
    for name, said in _SAID.items():
        schemas[name]["description"] = said
    for model in _OF_ELSEWHERE:
        for field, said in _docstrings(model):
            schemas[model.__name__]["properties"][field]["description"] = said


def _docstrings(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """The fields of a model with what stands under them.

    Pydantic's ``use_attribute_docstrings`` would read the source when the class is made, also where nobody serves.
    """
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(made, ast.ClassDef)
    for field, said in pairwise(made.body):
        match field, said:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text).replace("None", "null")
