"""What is served, and how the server is: for people, probes and Prometheus."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response

from libra_guard import __version__
from libra_guard.policy.profile import Mode
from libra_guard.records import Target
from libra_guard.serve.errors import ApiError, documented
from libra_guard.serve.pool import Served
from libra_guard.serve.schemas import Answered
from libra_guard.serve.state import TheServer
from libra_guard.taxonomy import CategorySystem

router = APIRouter(tags=["system"])


class CategoryInfo(Answered):
    """A category of a guard."""

    code: str
    """What scores are keyed by."""
    name: str
    """In English."""
    name_zh: str
    """In Chinese."""


class GuardInfo(Answered):
    """A guard that is served."""

    id: str
    """Its name, for `guard` and `model` in requests."""
    object: Literal["guard"] = "guard"
    """What this is."""
    default: bool
    """Whether it judges where neither the request nor the policy names one."""
    targets: list[Target]
    """What it can judge."""
    thresholds: dict[Target, float] | None
    """Target → score in [0, 1] from which on it is unsafe; null where the guard gives no scores."""
    categories: list[CategoryInfo]
    """What it tells apart; empty where that is not known."""
    multi_turn: bool
    """Whether earlier turns are read."""


class GuardList(Answered):
    """The guards, and how much one request may hold."""

    object: Literal["list"] = "list"
    """What this is."""
    data: list[GuardInfo]
    """The default first."""
    max_conversations: int
    """Conversations, or texts, in one request."""
    max_messages: int
    """Messages in one conversation."""
    max_chars: int
    """Characters in one text."""
    queue_chars: int
    """Characters of all texts in one request that the guard reads."""
    max_body_bytes: int
    """Bytes of a request's body."""


class PolicyInfo(Answered):
    """A policy profile."""

    id: str
    """Its name, for `policy` in requests."""
    object: Literal["policy"] = "policy"
    """What this is."""
    default: bool
    """Whether it decides where a request names none."""
    mode: Mode
    """`monitor` lets everything pass, and only tells what `enforce` would do."""
    guard: str | None
    """Name of the guard that it asks for; null where any will do."""
    problem: str | None
    """Why its file cannot be taken up as it is now, the profile as it was before being in force; null if it can."""


class PolicyList(Answered):
    """The profiles."""

    object: Literal["list"] = "list"
    """What this is."""
    data: list[PolicyInfo]
    """By name."""


class Health(Answered):
    """Of this worker."""

    status: Literal["alive", "ready"]
    """`alive` at `/healthz`, `ready` at `/readyz`."""
    version: str = __version__
    """Of Libra."""


@router.get(
    "/v1/guards",
    operation_id="listGuards",
    summary="The guards that are served",
    responses=documented(503),
)
async def guards(server: TheServer) -> GuardList:
    """What each can judge, its thresholds and categories; and the limits of a request."""
    found = [_guard(served, server.pool.default) for served in server.pool.all]
    limits = server.settings
    return GuardList(
        data=found,
        max_conversations=limits.max_conversations,
        max_messages=limits.max_messages,
        max_chars=limits.max_chars,
        queue_chars=limits.queue_chars,
        max_body_bytes=limits.max_body_bytes,
    )


@router.get(
    "/v1/policies",
    operation_id="listPolicies",
    summary="The policy profiles",
    responses=documented(503),
)
async def policies(server: TheServer) -> PolicyList:
    """Which there are, which decides by default, and which of them have a broken file."""
    chosen = server.policies.get(None).name
    found = [(name, server.policies.get(name)) for name in server.policies.names]
    problems = server.policies.problems
    return PolicyList(
        data=[
            PolicyInfo(id=name, default=name == chosen, mode=one.mode, guard=one.guard, problem=problems.get(name))
            for name, one in found
        ]
    )


@router.get(
    "/healthz",
    operation_id="getHealth",
    summary="Whether this worker can answer at all",
    responses=documented(503, s503="A guard's thread has ended."),
)
@router.api_route("/healthz", methods=["GET", "HEAD"], include_in_schema=False)
async def health(server: TheServer) -> Health:
    """For a liveness probe: where it cannot, only a restart helps."""
    if not server.pool.is_alive:
        raise ApiError(503, "a guard's thread has ended", code="guard_ended")
    return Health(status="alive")


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Whether requests should come here",
    responses=documented(503, s503="Not ready."),
)
@router.api_route("/readyz", methods=["GET", "HEAD"], include_in_schema=False)
async def ready(server: TheServer) -> Health:
    """For a readiness probe: not before the guards are warm. A server that is being stopped takes no connections."""
    if not (server.ready and server.pool.is_alive):
        raise ApiError(503, "not ready", code="not_ready", headers={"retry-after": "1"})
    return Health(status="ready")


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Counts and times, for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(server: TheServer) -> Response:
    """Requests, decisions, scenarios, queue, batches, guard time, streams and upstream, of all workers."""
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
