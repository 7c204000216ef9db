"""GET /docs: what can be asked, as a plain page. FastAPI's own would load scripts from other servers."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

from fastapi import APIRouter, Request, Response

from libra_guard.serve.routes.page import HEADERS, TYPES

router = APIRouter(include_in_schema=False)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="web/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="web/style.css">
</head>
<body>
<h1>{title}</h1>
<p>{about}</p>
{more}
<p><a href="openapi.json">openapi.json</a> describes every field.</p>
{routes}
</body>
</html>
"""


@router.api_route("/docs", methods=["GET", "HEAD"])
async def docs(request: Request) -> Response:
    """The routes with their examples, from the API's description."""
    told = request.app.openapi()
    routes = "\n".join(
        _route(method, path, operation)
        for path, operations in told["paths"].items()
        for method, operation in operations.items()
    )
    title, about = f"{told['info']['title']} {told['info']['version']}", told["info"]["summary"]
    more = "\n".join(f"<p>{_marked(part)}</p>" for part in told["info"]["description"].split("\n\n"))
    page = _PAGE.format(title=escape(title), about=escape(about), more=more, routes=routes)
    return Response(page, headers=HEADERS, media_type=TYPES["html"])


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"{operation['summary']}.", *operation["description"].split("\n\n")]
    about = "".join(f"\n<p>{_marked(part)}</p>" for part in parts)
    asked = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {})
    shown = "".join(_example(one["summary"], one["value"]) for one in asked.values())
    answered = operation["responses"]["200"]["content"].get("application/json", {})
    shown += _example("Answer", answered["example"]) if answered else ""
    return f"<h3><code>{escape(method.upper())} {escape(path)}</code></h3>{about}{shown}"


def _example(name: str, value: Any) -> str:
    body = escape(json.dumps(value, ensure_ascii=False, indent=2))
    return f"\n<details><summary>{escape(name)}</summary><pre>{body}</pre></details>"


def _marked(text: str) -> str:
    """With what stands between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))
