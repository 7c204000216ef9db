"""What is served, and how the server is: for people, probes and Prometheus."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel

from libra_guard import __version__
from libra_guard.records import Target
from libra_guard.serve.errors import ERRORS, ApiError
from libra_guard.serve.pool import Served
from libra_guard.serve.state import Server, the_server
from libra_guard.taxonomy import CategorySystem

router = APIRouter(tags=["system"], responses=ERRORS)
TheServer = Annotated[Server, Depends(the_server)]


class CategoryInfo(BaseModel):
    """A category of a guard."""

    code: str
    """What scores are keyed by."""
    name: str
    name_zh: str


class GuardInfo(BaseModel):
    """A guard that is served."""

    id: str
    object: Literal["guard"] = "guard"
    default: bool
    targets: list[Target]
    thresholds: dict[Target, float] | None
    """Unsafe from these scores on; None where the guard gives no scores."""
    categories: list[CategoryInfo]
    multi_turn: bool
    """Whether earlier turns are read."""


class GuardList(BaseModel):
    """The guards, and how much one request may hold."""

    object: Literal["list"] = "list"
    data: list[GuardInfo]
    max_conversations: int
    max_messages: int
    max_chars: int
    max_body_bytes: int


class PolicyInfo(BaseModel):
    """A policy profile."""

    id: str
    object: Literal["policy"] = "policy"
    default: bool
    mode: str
    guard: str | None
    problem: str | None
    """Why its file cannot be taken up as it is now; the profile as it was before is in force."""


class PolicyList(BaseModel):
    """The profiles."""

    object: Literal["list"] = "list"
    data: list[PolicyInfo]


class Health(BaseModel):
    """Of this worker."""

    status: str
    version: str = __version__


@router.get("/v1/guards")
async def guards(server: TheServer) -> GuardList:
    """The guards that are served, the default first, and the limits of a request."""
    found = [_guard(served, server.pool.default) for served in server.pool.all]
    limits = server.settings
    return GuardList(
        data=found,
        max_conversations=limits.max_conversations,
        max_messages=limits.max_messages,
        max_chars=limits.max_chars,
        max_body_bytes=limits.max_body_bytes,
    )


@router.get("/v1/policies")
async def policies(server: TheServer) -> PolicyList:
    """The policy profiles, and which of them have a broken file."""
    chosen = server.policies.get(None).name
    found = [(name, server.policies.get(name)) for name in server.policies.names]
    problems = server.policies.problems
    return PolicyList(
        data=[
            PolicyInfo(id=name, default=name == chosen, mode=one.mode, guard=one.guard, problem=problems.get(name))
            for name, one in found
        ]
    )


@router.get("/healthz")
@router.api_route("/healthz", methods=["GET", "HEAD"], include_in_schema=False)
async def health(server: TheServer) -> Health:
    """Whether this worker can answer at all; where it cannot, only a restart helps."""
    if not server.pool.is_alive:
        raise ApiError(503, "a guard's thread has ended", code="guard_ended")
    return Health(status="alive")


@router.get("/readyz")
@router.api_route("/readyz", methods=["GET", "HEAD"], include_in_schema=False)
async def ready(server: TheServer) -> Health:
    """Whether requests should come here: not before the guards are warm, and not when the server is being stopped."""
    if not (server.ready and server.pool.is_alive):
        raise ApiError(503, "not ready", code="not_ready", headers={"retry-after": "1"})
    return Health(status="ready")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(server: TheServer) -> Response:
    """Counts and times, for Prometheus."""
    body, media_type = server.metrics.render()
    return Response(body, headers={"content-type": media_type})


def _guard(served: Served, default: Served) -> GuardInfo:
    guard = served.guard
    targets = sorted(guard.targets)
    thresholds = {target: guard.threshold_for(target) for target in targets} if guard.gives_scores else None
    return GuardInfo(
        id=served.name,
        default=served is default,
        targets=targets,
        thresholds=thresholds,
        categories=_categories(guard.system),
        multi_turn=guard.multi_turn,
    )


def _categories(system: CategorySystem | None) -> list[CategoryInfo]:
    if system is None:
        return []
    return [CategoryInfo(code=c.code, name=c.name, name_zh=c.name_zh) for c in system.categories]
