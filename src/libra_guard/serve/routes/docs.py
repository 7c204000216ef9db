"""GET /docs: what can be asked, as a plain page. FastAPI's own would load scripts from other servers."""

from __future__ import annotations

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
<p><a href="openapi.json">openapi.json</a> describes every field.</p>
{routes}
</body>
</html>
"""


@router.api_route("/docs", methods=["GET", "HEAD"])
async def docs(request: Request) -> Response:
    """The routes, from the API's description."""
    told = request.app.openapi()
    routes = "\n".join(
        _route(method, path, operation)
        for path, operations in told["paths"].items()
        for method, operation in operations.items()
    )
    title, about = f"{told['info']['title']} {told['info']['version']}", told["info"]["summary"]
    page = _PAGE.format(title=escape(title), about=escape(about), routes=routes)
    return Response(page, headers=HEADERS, media_type=TYPES["html"])


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    about = "".join(f"\n<p>{escape(part)}</p>" for part in operation.get("description", "").split("\n\n"))
    return f"<h3><code>{escape(method.upper())} {escape(path)}</code></h3>{about}"
