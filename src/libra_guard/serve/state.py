"""What the routes work with, and the one way from a conversation to a decision."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from fastapi import Depends
from starlette.requests import Request

from libra_guard.errors import UsageError
from libra_guard.policy.decide import Decision, decide
from libra_guard.policy.profile import Policy
from libra_guard.policy.watch import PolicyStore
from libra_guard.records import Conversation, Verdict
from libra_guard.serve.audit import Audit, Entry, Part
from libra_guard.serve.errors import ApiError
from libra_guard.serve.metrics import Metrics
from libra_guard.serve.pool import Pool, Served
from libra_guard.serve.queue import Manner
from libra_guard.serve.settings import ServerSettings
from libra_guard.taxonomy import CategorySystem

if TYPE_CHECKING:
    from libra_guard.serve.proxy.upstream import Upstream


_LONG = 1000
"""Characters from which texts are looked up in the lists outside of the event loop. Phrases take a microsecond for
each, a pattern up to some tens of them (``policy.patterns``)."""


class Judged(NamedTuple):
    """What a guard said, and what follows from it."""

    verdict: Verdict
    decision: Decision

    @property
    def gravity(self) -> tuple[int, float]:
        """By which the one that tells of the whole is found: the strictest decision, of these the highest score."""
        return self.decision.would.severity, self.verdict.unsafe_score or 0.0


@dataclass
class Server:
    """One worker's parts. Opened and closed by the application's lifespan."""

    settings: ServerSettings
    pool: Pool
    policies: PolicyStore
    metrics: Metrics
    audit: Audit | None = None
    upstream: Upstream | None = None
    started: int = field(default_factory=lambda: int(time.time()))
    """Unix time in seconds."""
    ready: bool = False
    """Whether the guards are warm, and this is not closed."""

    async def decide(self, conversation: Conversation, **options: Any) -> Judged:
        """One conversation; see ``decide_all``."""
        return (await self.decide_all([conversation], **options))[0]

    async def decide_all(
        self,
        conversations: Sequence[Conversation],
        *,
        guard: str | None = None,
        policy: str | Policy | None = None,
        explain: bool = False,
        threshold: float | None = None,
        deadline: float | None = None,
        route: str = "",
        request_id: str = "",
        question: str | None = None,
        part: Part | None = None,
        passages: Sequence[str | None] = (),
        standing: int = 0,
    ) -> list[Judged]:
        """Judges conversations and decides upon them; counted, and written to the audit log.

        Args:
            conversations: In any number that the queue takes.
            guard: Name of a served guard; by default the policy's, else the server's first.
            policy: Name of a profile, by default the server's; or the profile itself, where a request asks more than
                once: a file that changes in between is for the next one.
            explain: Also give reasons.
            threshold: In place of the guard's own.
            deadline: By the event loop's clock; by default as the settings have it, from now.
            route: For the audit log.
            request_id: For the audit log.
            question: For the audit log: as it was asked, where the conversations have it shortened.
            part: For the audit log: what of a growing answer they are.
            passages: Of parts of a growing answer, one each: see ``policy.decide``.
            standing: How many of them, the last, are likely to come again as they are: verdicts on them are kept.

        Raises:
            ApiError: The guard or the policy is unknown, or the guard does not judge such conversations, or has no
                threshold.
            QueueFullError: Too much waits.
            DeadlineError: It took too long.
            ClosingError: The server is being stopped.
            BackendError: The guard's model failed.
        """
        profile = policy if isinstance(policy, Policy) else self.policy(policy)
        served = self.guard(profile, guard)
        _check(served, conversations, threshold)
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + self.settings.deadline_ms / 1000
        verdicts = await self._verdicts(served, conversations, standing, Manner(explain, threshold), deadline)
        long = sum(len(conversation.messages[-1].content) for conversation in conversations) > _LONG
        passages = passages or [None] * len(conversations)
        decided = partial(_decided, profile, conversations, verdicts, served.guard.system, passages)
        judged = await asyncio.to_thread(decided) if long else decided()
        for conversation, (verdict, decision) in zip(conversations, judged, strict=True):
            self.metrics.decided(served.name, conversation.target, verdict, decision)
        if self.audit is not None:
            entries = [Entry(c, *j, question, part) for c, j in zip(conversations, judged, strict=True)]
            await self.audit.write(entries, route=route, guard=served.name, request_id=request_id)
        return judged

    def guard(self, policy: Policy, name: str | None = None) -> Served:
        """The guard that judges: the one that is named, else the policy's, else the server's first.

        Raises:
            ApiError: 404, there is none of that name.
        """
        return self.pool.get(name, policy.guard)

    def policy(self, name: str | None) -> Policy:
        """The profile of that name; the server's own for None.

        Raises:
            ApiError: 404, there is none.
        """
        try:
            return self.policies.get(name)
        except UsageError as error:
            raise ApiError(404, str(error), param="policy", code="policy_not_found") from None

    async def _verdicts(
        self, served: Served, conversations: Sequence[Conversation], standing: int, manner: Manner, deadline: float
    ) -> list[Verdict]:
        first = len(conversations) - standing
        found = [served.known.get(one, manner) if i >= first else None for i, one in enumerate(conversations)]
        self.metrics.known(served.name, sum(verdict is not None for verdict in found))
        new = [one for one, verdict in zip(conversations, found, strict=True) if verdict is None]
        judged = iter(await served.batcher.judge_all(new, **manner._asdict(), deadline=deadline))
        verdicts = [verdict or next(judged) for verdict in found]
        for i in range(first, len(conversations)):
            if found[i] is None:
                served.known.add(conversations[i], manner, verdicts[i])
        return verdicts


async def _the_server(request: Request) -> Server:
    # Not a plain function: those are run in another thread, a hop and back for each request.
    server: Server = request.app.state.server
    return server


TheServer = Annotated[Server, Depends(_the_server)]
"""For routes: a parameter of this type is the server."""


def _decided(
    profile: Policy,
    conversations: Sequence[Conversation],
    verdicts: Sequence[Verdict],
    system: CategorySystem | None,
    passages: Sequence[str | None],
) -> list[Judged]:
    rows = zip(conversations, verdicts, passages, strict=True)
    return [Judged(v, decide(profile, v, c, system=system, passage=p)) for c, v, p in rows]


def _check(served: Served, conversations: Sequence[Conversation], threshold: float | None) -> None:
    """Finds what the guard cannot do before anything waits for it."""
    for conversation in conversations:
        if conversation.target not in served.guard.targets:
            able = " and ".join(sorted(target.value for target in served.guard.targets))
            message = f"the guard '{served.name}' judges a {able}, not a {conversation.target.value}"
            raise ApiError(400, message, param="guard", code="target_not_judged")
    if threshold is not None and not served.guard.gives_scores:
        message = f"the guard '{served.name}' gives no scores that a threshold could be set on"
        raise ApiError(400, message, param="threshold", code="no_scores")
