"""What is asked of the moderation API and of ``/v1/guard``, and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from libra_guard.policy.answers import Language
from libra_guard.policy.decide import Decision
from libra_guard.records import Conversation, Label, Message, Role, Target, Verdict, check_text
from libra_guard.serve.errors import ApiError
from libra_guard.serve.settings import ServerSettings
from libra_guard.serve.wording import TEXT_OR_LIST

HARD_LIMIT = 10_000
"""Of items in a list: longer ones are not looked at one by one, whatever the settings allow."""

Text = Annotated[str, Field(min_length=1), AfterValidator(lambda value: check_text(value, "it"))]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Asked(BaseModel):
    """What is asked. A misspelt field is an error: what it was to say would be lost in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Answered(BaseModel):
    """An answer: every field is there."""

    model_config = ConfigDict(use_attribute_docstrings=True, json_schema_serialization_defaults_required=True)


class TextPart(Asked):
    """A text among the parts of one input."""

    type: Literal["text"]
    """What kind of part it is."""
    text: Text
    """Not blank."""


class ImageUrl(Asked):
    """Where an image is, or the image itself as a data URL."""

    url: str
    """Not looked at."""
    detail: str | None = None
    """Not looked at."""


class ImagePart(Asked):
    """An image. It is refused: images cannot be judged."""

    type: Literal["image_url"]
    """What kind of part it is."""
    image_url: ImageUrl


def _kind_of_part(value: Any) -> str:
    return "<image>" if _field(value, "type") == "image_url" else "<text>"


def _kind_of_input(value: Any) -> str:
    if not isinstance(value, list):
        return TEXT_OR_LIST
    return "<parts>" if value and isinstance(value[0], dict | Asked) else "<texts>"


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


# Told apart by hand, so that an error names the one field that is wrong, not each form that it could have had.
_Part = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[ImagePart, Tag("<image>")], Discriminator(_kind_of_part)
]
_Input = Annotated[
    Annotated[Text, Tag(TEXT_OR_LIST)]
    | Annotated[list[Text], Field(min_length=1, max_length=HARD_LIMIT), Tag("<texts>")]
    | Annotated[list[_Part], Field(min_length=1, max_length=HARD_LIMIT), Tag("<parts>")],
    Discriminator(_kind_of_input),
]


class ModerationRequest(Asked):
    """As OpenAI's, with a policy besides."""

    input: _Input
    """A text, several texts (a result each), or the parts of one input (one result). No text may be blank. The server
    has limits, `max_conversations` texts of `max_chars` characters each: `GET /v1/guards` tells them."""
    model: Name | None = None
    """Name of a guard; by default the policy's, else the server's first. OpenAI's names (`omni-moderation-latest`) name
    none."""
    policy: Name | None = None
    """Name of a policy profile; by default the server's."""

    def texts(self) -> list[str]:
        """What is judged, one for each result.

        Raises:
            ApiError: 400, there is an image.
        """
        if isinstance(self.input, str):
            return [self.input]
        texts = []
        for i, part in enumerate(self.input):
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, TextPart):
                texts.append(part.text)
            else:
                message = f"input[{i}]: images cannot be judged; leave them out"
                raise ApiError(400, message, param=f"input[{i}]", code="image_not_supported")
        return texts if isinstance(self.input[0], str) else ["\n".join(texts)]


class ConversationIn(Asked):
    """Either `messages`; or `question` and `response`, or one of these two."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=HARD_LIMIT)] | None = None
    """In the order spoken; the last one, the user's or the assistant's, is judged. At most `max_messages`, with
    `max_chars` characters each: `GET /v1/guards` tells these limits."""
    question: Text | None = None
    """What the user asked; judged where there is no response. Not blank, at most `max_chars` characters."""
    response: Text | None = None
    """The answer to it, which then is judged; it may stand alone. Not blank, at most `max_chars` characters."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        pair = self.question is not None or self.response is not None
        if pair == (self.messages is not None):
            raise ValueError("give messages, or question and response, or one of these two")
        if self.messages is not None and self.messages[-1].role is Role.SYSTEM:
            raise ValueError("the last message must be the user's or the assistant's")
        return self

    def read(self, target: Target | None) -> Conversation:
        """What is judged.

        Raises:
            ValueError: There is none of what ``target`` asks for.
        """
        if self.messages is not None:
            found = Conversation(messages=tuple(self.messages))
        elif self.question is None:
            found = Conversation.from_answer(str(self.response))
        else:
            found = Conversation.from_pair(self.question, self.response)
        if target is None or found.target is target:
            return found
        if target is Target.RESPONSE:
            raise ValueError("there is no answer to judge")
        asked = max((i for i, m in enumerate(found.messages) if m.role is Role.USER), default=-1)
        if asked < 0:
            raise ValueError("there is no question to judge")
        return Conversation(messages=found.messages[: asked + 1])


class GuardRequest(Asked):
    """Conversations to judge: either `conversations` or `conversation`."""

    conversations: Annotated[list[ConversationIn], Field(min_length=1, max_length=HARD_LIMIT)] | None = None
    """At most `max_conversations`, as `GET /v1/guards` tells."""
    conversation: ConversationIn | None = None
    """In place of a list of one."""
    target: Annotated[Target, Field(strict=False)] | None = None
    """`prompt`: the last question is judged, also where there is an answer; `response`: there must be one. By default
    whatever comes last."""
    guard: Name | None = None
    """Name of a guard; by default the policy's, else the server's first."""
    policy: Name | None = None
    """Name of a policy profile; by default the server's."""
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """Unsafe from this score on, in place of the guard's own threshold; for guards that give scores."""
    explain: bool = False
    """Whether to say why too, in `verdict.analysis`; that takes longer."""
    language: Language | None = None
    """Of the safe answers; by default that of each conversation's last question."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.conversations is None) == (self.conversation is None):
            raise ValueError("give either conversations, which is a list, or conversation, which is one")
        return self

    def read(self) -> list[Conversation]:
        """The conversations in order.

        Raises:
            ApiError: 400, one has none of what ``target`` asks for.
        """
        found = []
        for i, one in enumerate(self.conversations or ()):
            found.append(_read(one, self.target, f"conversations[{i}]"))
        if self.conversation is not None:
            found.append(_read(self.conversation, self.target, "conversation"))
        return found


class GuardResult(Answered):
    """One conversation, judged and decided upon."""

    verdict: Verdict
    decision: Decision
    target: Target
    """What was judged."""
    threshold: float | None
    """Unsafe from this score on, in [0, 1]; null where the guard decides otherwise."""
    answer: str | None
    """What the policy says in place of the text; null where it is not blocked."""


class GuardResponse(Answered):
    """What is made of the conversations."""

    id: str
    """`guard-` and the request's id."""
    guard: str
    """Name of the guard that judged."""
    policy: str
    """Name of the profile that decided."""
    results: list[GuardResult]
    """As many as conversations, in their order."""


class LibraResult(Answered):
    """What Libra knows besides OpenAI's fields."""

    label: Label | None
    """The guard's label; null where its answer could not be read."""
    unsafe_score: float | None
    """In [0, 1], higher is worse; null where the guard gives no score."""
    scenarios: dict[str, float]
    """English name of each of Libra's seven scenarios → score in [0, 1]."""
    scenarios_zh: tuple[str, ...]
    """Chinese names of those that the decision names, the worst first."""
    decision: Decision
    guard: str
    """Name of the guard that judged."""
    target: Target
    """As what the text was judged: a question, or an answer where the guard judges no questions."""
    notes: tuple[str, ...]
    """What the reader should know, as that a text was shortened."""


class ModerationResult(Answered):
    """As OpenAI's, with `libra` besides."""

    flagged: bool
    """Whether the policy blocks it. What it would have reviewed is not flagged: `libra.decision.action` tells."""
    categories: dict[str, bool]
    """Each of OpenAI's 13 names → whether it is a reason for the flag. All may be false where `flagged` is true: OpenAI
    has no name for some scenarios."""
    category_scores: dict[str, float]
    """Each of OpenAI's names → score in [0, 1]: the scenario's, times the share of its harms that OpenAI files there.
    These are not OpenAI's probabilities; go by `flagged` and `libra.scenarios`."""
    category_applied_input_types: dict[str, list[Literal["text", "image"]]]
    """Each of OpenAI's names → `["text"]`."""
    libra: LibraResult


class ModerationResponse(Answered):
    """As OpenAI's."""

    id: str
    """`modr-` and the request's id."""
    model: str
    """Name of the guard that judged."""
    results: list[ModerationResult]
    """One for each text, in order; one in all where the input was given in parts."""


def check_limits(conversations: Sequence[Conversation], settings: ServerSettings, names: Callable[[int], str]) -> None:
    """Refuses what is more than the server takes.

    Args:
        conversations: Of one request.
        settings: With the limits.
        names: Number of a conversation → what the request calls it.

    Raises:
        ApiError: 400; the message says the limit.
    """
    if len(conversations) > settings.max_conversations:
        name = names(0).partition("[")[0]
        message = f"{name}: {len(conversations)} are too many; a request takes {settings.max_conversations}"
        raise ApiError(400, message, param=name, code="too_many")
    for i, conversation in enumerate(conversations):
        if len(conversation.messages) > settings.max_messages:
            count = f"{len(conversation.messages)} messages are too many"
            message = f"{names(i)}: {count}; a conversation takes {settings.max_messages}"
            raise ApiError(400, message, param=names(i), code="too_many_messages")
        check_length(max(len(message.content) for message in conversation.messages), settings.max_chars, names(i))


def check_length(chars: int, most: int, name: str) -> None:
    """Raises ``ApiError`` 400 where a text is longer than ``most``; ``name`` is how the body has it."""
    if chars > most:
        message = f"{name}: a text of {chars} characters is too long; {most} are taken"
        raise ApiError(400, message, param=name, code="text_too_long")


def _read(one: ConversationIn, target: Target | None, name: str) -> Conversation:
    try:
        return one.read(target)
    except ValueError as error:
        raise ApiError(400, f"{name}: {error}", param=name, code="target_missing") from None
