"""POST /v1/guard: verdicts and decisions on conversations."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from libra_guard.policy.answers import Language, language_of
from libra_guard.policy.profile import Action, Policy
from libra_guard.records import Conversation
from libra_guard.serve.body import StrictRoute
from libra_guard.serve.errors import documented
from libra_guard.serve.pool import Served
from libra_guard.serve.schemas import GuardRequest, GuardResponse, GuardResult, check_limits
from libra_guard.serve.state import Judged, TheServer

router = APIRouter(route_class=StrictRoute, tags=["verdicts"])
PATH = "/v1/guard"


@router.post(
    PATH,
    operation_id="judgeConversations",
    summary="Judge conversations",
    response_model=GuardResponse,
    responses=documented(404, 429, 502, 503, 504),
)
async def guard(
    body: GuardRequest,
    request: Request,
    server: TheServer,
) -> Response:
    """The verdict on the last question or answer of each, and the decision that the policy makes of it.

    All are judged or none: where one cannot be read, the error names it.
    """
    conversations = body.read()
    single = body.conversation is not None
    check_limits(conversations, server.settings, lambda i: "conversation" if single else f"conversations[{i}]")
    profile = server.policy(body.policy)
    served = server.guard(profile, body.guard)
    judged = await server.decide_all(
        conversations,
        guard=served.name,
        policy=profile,
        explain=body.explain,
        threshold=body.threshold,
        route=PATH,
        request_id=request.state.request_id,
    )
    results = [
        _result(one, conversation, served, profile, body)
        for one, conversation in zip(judged, conversations, strict=True)
    ]
    made = GuardResponse(
        id=f"guard-{request.state.request_id}", guard=served.name, policy=profile.name, results=results
    )
    return Response(made.model_dump_json(), media_type="application/json")


def _result(
    judged: Judged, conversation: Conversation, served: Served, profile: Policy, body: GuardRequest
) -> GuardResult:
    threshold = body.threshold
    if threshold is None and served.guard.gives_scores:
        threshold = served.guard.threshold_for(conversation.target)
    blocked = judged.decision.action is Action.BLOCK
    language: Language = body.language or language_of(conversation.question or str(conversation.response))
    return GuardResult.model_construct(
        verdict=judged.verdict,
        decision=judged.decision,
        target=conversation.target,
        threshold=threshold,
        answer=profile.answer(judged.decision, language) if blocked else None,
    )
