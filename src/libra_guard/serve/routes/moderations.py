"""POST /v1/moderations: what OpenAI's moderation clients ask."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from libra_guard.policy.profile import Action
from libra_guard.records import Conversation, Target
from libra_guard.serve.body import StrictRoute
from libra_guard.serve.categories import OPENAI, SCENARIOS_ZH
from libra_guard.serve.errors import documented
from libra_guard.serve.pool import Served
from libra_guard.serve.schemas import (
    LibraResult,
    ModerationRequest,
    ModerationResponse,
    ModerationResult,
    check_limits,
)
from libra_guard.serve.state import Judged, TheServer

router = APIRouter(route_class=StrictRoute, tags=["verdicts"])
PATH = "/v1/moderations"
_TEXT_ALONE: dict[str, list[str]] = {code: ["text"] for code in OPENAI}


@router.post(
    PATH,
    operation_id="createModeration",
    summary="Judge texts, as OpenAI's moderation API",
    response_model=ModerationResponse,
    responses=documented(404, 429, 502, 503, 504),
)
async def moderations(
    body: ModerationRequest,
    request: Request,
    server: TheServer,
) -> Response:
    """Each text is judged by itself, as something that a user said; by a guard that judges no questions, as an answer.

    OpenAI's clients can ask here. Go by `flagged` and `libra.scenarios`: the categories have OpenAI's names, but not
    its probabilities.
    """
    served = server.guard(server.policy(body.policy), body.model)
    texts = body.texts()
    target = Target.PROMPT if Target.PROMPT in served.guard.targets else Target.RESPONSE
    read = Conversation.from_pair if target is Target.PROMPT else Conversation.from_answer
    conversations = [read(text) for text in texts]
    check_limits(conversations, server.settings, lambda i: f"input[{i}]" if len(texts) > 1 else "input")
    judged = await server.decide_all(
        conversations, guard=served.name, policy=body.policy, route=PATH, request_id=request.state.request_id
    )
    made = ModerationResponse(
        id=f"modr-{request.state.request_id}",
        model=served.name,
        results=[_result(one, served, target) for one in judged],
    )
    return Response(made.model_dump_json(), media_type="application/json")


def _result(judged: Judged, served: Served, target: Target) -> ModerationResult:
    verdict, decision = judged
    flagged = decision.action is Action.BLOCK
    libra = LibraResult.model_construct(
        label=verdict.label,
        unsafe_score=verdict.unsafe_score,
        scenarios=served.categories.scenarios(verdict.categories),
        scenarios_zh=tuple(SCENARIOS_ZH[name] for name in decision.scenarios),
        decision=decision,
        guard=served.name,
        target=target,
        notes=verdict.notes,
    )
    return ModerationResult.model_construct(
        flagged=flagged,
        categories=served.categories.named(
            verdict.categories if flagged else {}, decision.scenarios if flagged else ()
        ),
        category_scores=served.categories.scores(verdict.categories),
        category_applied_input_types=_TEXT_ALONE,
        libra=libra,
    )
