"""One request on its way through the proxy: its message judged, then its answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from libra_guard.errors import LibraError
from libra_guard.messages import CALL_FIELDS
from libra_guard.policy.answers import language_of
from libra_guard.policy.profile import Action, Policy
from libra_guard.records import Conversation, Target, is_visible
from libra_guard.serve.errors import ApiError, api_error
from libra_guard.serve.proxy.answer import (
    ANSWER_FIELDS,
    HALF_A_CHARACTER,
    blocked_choice,
    leave_out,
    message_of,
    texts_of,
    worst,
)
from libra_guard.serve.proxy.calls import CALLS, Calls, readable
from libra_guard.serve.proxy.fields import has_bytes, keep_known, known_fields, strings
from libra_guard.serve.proxy.messages import Asked
from libra_guard.serve.proxy.upstream import UpstreamError
from libra_guard.serve.state import Judged, Server
from libra_guard.serve.streaming import decide_patiently

ROUTE = "/v1/chat/completions"
_log = logging.getLogger(__name__)


class _Row(NamedTuple):
    choice: int
    field: str
    conversation: Conversation


class _Said(NamedTuple):
    judged: Judged
    choice: int


@dataclass
class Exchange:
    """A request, and what has been decided about it."""

    server: Server
    asked: Asked
    request_id: str
    policy: Policy
    """As it stood when the request came: all of it is decided by this one."""
    not_judged: list[str] = field(default_factory=list)
    """What was let through unseen."""
    left_out: list[str] = field(default_factory=list)
    """Fields of the answer that were blocked by themselves."""

    @property
    def monitors(self) -> bool:
        """Whether everything passes, judged or not."""
        return self.policy.mode == "monitor"

    async def judge_prompts(self) -> Judged | None:
        """Judges what is asked; None where there is nothing to judge."""
        served = self.server.guard(self.policy)
        asked = (self.asked.prompts, self.asked.beside)
        prompts, beside = ([one for one in some if one.target in served.guard.targets] for some in asked)
        if len(prompts) + len(beside) < sum(map(len, asked)):
            self.not_judged.append(f"messages (the guard '{served.name}' judges answers only)")
        return worst(await self._decide(self.server.decide_all, [*prompts, *beside], "messages", standing=len(beside)))

    async def judge_completion(self, completion: dict[str, Any]) -> tuple[Judged | None, int | None]:
        """Judges an answer, replaces in it what is blocked, and takes out what nobody judges.

        A choice whose answer or calls are blocked is replaced. Another field that is blocked, such as the model's
        thoughts, is left out by itself: an answer may be good although thoughts on the way were not.

        Args:
            completion: The upstream's; changed.

        Returns:
            The strictest decision and the index of its choice; None where nothing was judged.

        Raises:
            UpstreamError: The answer cannot be read.
        """
        choices = completion.get("choices")
        if not isinstance(choices, list):
            raise UpstreamError("garbage", "the upstream's answer has no choices")
        for i, choice in enumerate(choices):
            message_of(choice, "message")
            keep_known(choice, "message", tokens=self.monitors)
            if not isinstance(choice.get("index", i), int):
                choice["index"] = i
        known = known_fields(completion, self.asked.model)
        completion.clear()
        completion.update({**known, "choices": choices})
        rows = [row for i, choice in enumerate(choices) for row in self._rows(i, choice)]
        # An answer that has been paid for waits where the queue is full.
        waiting = partial(decide_patiently, self.server)
        decided = await self._decide(waiting, [row.conversation for row in rows], "choices")
        said = list[_Said]()
        for row, judged in zip(rows, decided, strict=False):
            if judged.decision.action is Action.BLOCK and row.field not in (*ANSWER_FIELDS, CALLS):
                leave_out(choices[row.choice], "message", row.field)
                self.left_out.append(f"choices[{row.choice}].{row.field}")
            else:
                said.append(_Said(judged, row.choice))
        for i in {i for judged, i in said if judged.decision.action is Action.BLOCK}:
            reason = worst([judged for judged, choice in said if choice == i])
            choices[i] = blocked_choice(choices[i].get("index", i), self.safe_answer(reason))
        for i, choice in enumerate(choices):
            self.note_bytes(i, choice["message"])
        decisive = worst([judged for judged, _ in said])
        return decisive, next((i for judged, i in said if judged is decisive), None)

    async def judge_error(self, said: Any) -> tuple[bool, Judged | None]:
        """Judges what the upstream says in an error, as an answer: a text of the model's may be in it.

        Args:
            said: A JSON value.

        Returns:
            Whether it may come down, which what cannot be judged may not, and the decision; None where there is none.
        """
        text = readable(strings(said))
        rows = [self.asked.answered(text)] if any(map(is_visible, text)) else []
        try:
            judged = worst(await self._decide(partial(decide_patiently, self.server), rows, "error"))
        except (LibraError, ApiError):
            return False, None
        blocked = judged is not None and judged.decision.action is Action.BLOCK
        return not blocked and (self.monitors or not has_bytes(said)), judged

    async def hear(self, error: UpstreamError) -> None:
        """Puts the upstream's words into an error, if they may come down."""
        may_leave, _ = await self.judge_error(error.words)
        if may_leave:
            error.quote()

    def safe_answer(self, judged: Judged | None) -> str:
        """What is said in place of a blocked text, in the language of the question."""
        assert judged is not None
        return self.policy.answer(judged.decision, language_of(self.asked.question))

    def extension(self, stage: Target, judged: Judged | None, choice: int | None = None) -> dict[str, Any]:
        """The field ``libra`` of an answer.

        Args:
            stage: What was decided upon: the prompt, or the response.
            judged: The decision; None where nothing was judged.
            choice: Index of the choice that the decision is about.
        """
        found: dict[str, Any] = {"stage": stage.value, "action": Action.PASS.value}
        found |= {"policy": self.policy.name, "mode": self.policy.mode, "verdict": None}
        if judged is not None:
            found |= judged.decision.model_dump(mode="json")
            found["verdict"] = judged.verdict.model_dump(mode="json", exclude={"raw"})
        if choice is not None:
            found["choice"] = choice
        told = {"not_judged": [*self.asked.unread, *self.not_judged], "left_out": self.left_out}
        return found | {name: list(places) for name, places in told.items() if places}

    def headers(self, stage: Target, judged: Judged | None) -> dict[str, str]:
        """The headers ``x-libra-*`` of an answer; see ``extension``."""
        found = {"x-libra-stage": stage.value, "x-libra-action": Action.PASS.value, "x-libra-policy": self.policy.name}
        if judged is None:
            return found
        decision, score = judged.decision, judged.verdict.unsafe_score
        found |= {"x-libra-action": decision.action.value, "x-libra-policy": decision.policy}
        if decision.would is not decision.action:
            found["x-libra-would"] = decision.would.value
        if score is not None:
            found["x-libra-score"] = f"{score:g}"
        if decision.scenarios:
            found["x-libra-scenarios"] = ", ".join(decision.scenarios)
        return found

    def tolerates(self, error: Exception, what: str) -> bool:
        """Whether a failure to judge lets a text pass: in monitor mode alone. Noted.

        Args:
            error: Why it could not be judged.
            what: The text, for the answer's note.
        """
        if not self.monitors:
            return False
        why = api_error(error).message
        _log.error("%s let through unjudged in monitor mode: %s", what, why)
        self.not_judged.append(f"{what} ({why})")
        return True

    def note_bytes(self, i: int, message: Mapping[str, Any]) -> None:
        """Notes what is sent of a choice's message, or delta, and is no text."""
        for name, value in message.items():
            place = f"choices[{i}].{name} (bytes)"
            if name not in CALL_FIELDS and place not in self.not_judged and has_bytes(value):
                self.not_judged.append(place)

    def _rows(self, i: int, choice: Any) -> Iterator[_Row]:
        message, calls = message_of(choice, "message"), Calls()
        texts = texts_of(message)
        if calls.feed(message):
            texts[CALLS] = calls.text
        for name, text in texts.items():
            if any(map(is_visible, text)):
                try:
                    yield _Row(i, name, self.asked.answered(text))
                except ValueError:
                    raise UpstreamError("garbage", HALF_A_CHARACTER) from None

    async def _decide(
        self,
        decide: Callable[..., Awaitable[list[Judged]]],
        conversations: Sequence[Conversation],
        what: str,
        *,
        standing: int = 0,
    ) -> list[Judged]:
        """Judges in portions, for there may be more than the queue takes; ``standing``: see ``Server.decide_all``."""
        found = list[Judged]()
        deadline = asyncio.get_running_loop().time() + self.server.settings.deadline_ms / 1000
        options = {"policy": self.policy, "route": ROUTE, "request_id": self.request_id, "deadline": deadline}
        try:
            for portion in self.server.guard(self.policy).batcher.portions(conversations):
                follow = len(conversations) - len(found) - len(portion)
                stand = min(max(0, standing - follow), len(portion))
                found += await decide(portion, standing=stand, **options)
        except (LibraError, ApiError) as error:
            if not self.tolerates(error, what):
                raise
        return found


def stricter(prompt: Judged | None, response: Judged | None) -> Target:
    """Which of the two decisions tells of the whole exchange; the later one where they are alike."""
    if prompt is None or (response is not None and response.decision.would.severity >= prompt.decision.would.severity):
        return Target.RESPONSE
    return Target.PROMPT
