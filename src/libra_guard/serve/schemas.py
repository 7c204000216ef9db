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

HARD_LIMIT = 10_000
"""Of items in a list: longer ones are not looked at one by one, whatever the settings allow."""

Text = Annotated[str, Field(min_length=1), AfterValidator(lambda value: check_text(value, "the text"))]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Request(BaseModel):
    """A misspelt field is an error: what it was to say would be lost in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TextPart(_Request):
    """A text among the parts of one input."""

    type: Literal["text"]
    text: Text


class ImageUrl(_Request):
    """Where an image is, or the image itself as a data URL."""

    url: str
    detail: str | None = None


class ImagePart(_Request):
    """An image; known so that it can be refused by name."""

    type: Literal["image_url"]
    image_url: ImageUrl


def _kind_of_part(value: Any) -> str:
    return "<image>" if _field(value, "type") == "image_url" else "<text>"


def _kind_of_input(value: Any) -> str:
    if not isinstance(value, list):
        return "<text>"
    return "<parts>" if value and not isinstance(value[0], str) else "<texts>"


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


# Told apart by hand, so that an error names the one field that is wrong, not each form that it could have had.
_Part = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[ImagePart, Tag("<image>")], Discriminator(_kind_of_part)
]
_Input = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[list[Text], Field(min_length=1, max_length=HARD_LIMIT), Tag("<texts>")]
    | Annotated[list[_Part], Field(min_length=1, max_length=HARD_LIMIT), Tag("<parts>")],
    Discriminator(_kind_of_input),
]


class ModerationRequest(_Request):
    """As OpenAI's, with a profile besides."""

    input: _Input
    """A text, several texts (a result each), or the parts of one input (one result)."""
    model: Name | None = None
    """Name of a guard; OpenAI's names mean the server's first one."""
    policy: Name | None = None
    """Name of a profile."""

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
                raise ApiError(400, "images cannot be judged", param=f"input[{i}]", code="image_not_supported")
        return texts if isinstance(self.input[0], str) else ["\n".join(texts)]


class ConversationIn(_Request):
    """Either ``messages``, or a question, its answer, or an answer by itself."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=HARD_LIMIT)] | None = None
    question: Text | None = None
    response: Text | None = None

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


class GuardRequest(_Request):
    """Conversations to judge."""

    conversations: Annotated[list[ConversationIn], Field(min_length=1, max_length=HARD_LIMIT)] | None = None
    conversation: ConversationIn | None = None
    """In place of a list of one."""
    target: Annotated[Target, Field(strict=False)] | None = None
    """``prompt``: the last question is judged, also where there is an answer; ``response``: there must be one."""
    guard: Name | None = None
    """By default the profile's, else the server's first."""
    policy: Name | None = None
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """In place of the guard's own, for guards that give scores."""
    explain: bool = False
    """Also say why; takes longer."""
    language: Language | None = None
    """Of the safe answers; by default that of each conversation's last question."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.conversations is None) == (self.conversation is None):
            raise ValueError("give conversations, or one conversation")
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


class GuardResult(BaseModel):
    """One conversation, judged and decided upon."""

    verdict: Verdict
    decision: Decision
    target: Target
    """What was judged."""
    threshold: float | None
    """Unsafe from this score on; None where the guard decides otherwise."""
    answer: str | None
    """What the profile says in place of the text; None where it is not blocked."""


class GuardResponse(BaseModel):
    """As many results as conversations, in order."""

    id: str
    guard: str
    policy: str
    results: list[GuardResult]


class LibraResult(BaseModel):
    """What Libra knows besides OpenAI's fields."""

    label: Label | None
    unsafe_score: float | None
    scenarios: dict[str, float]
    """English name of each of the seven → score."""
    scenarios_zh: tuple[str, ...]
    """Chinese names of those that the decision names, the worst first."""
    decision: Decision
    guard: str
    target: Target
    """As what the text was judged: a question, or an answer where the guard judges no questions."""
    notes: tuple[str, ...]


class ModerationResult(BaseModel):
    """As OpenAI's, with ``libra`` besides."""

    flagged: bool
    """Whether the profile blocks it. What it would have reviewed is not flagged: ``libra.decision.action`` tells."""
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text", "image"]]]
    libra: LibraResult


class ModerationResponse(BaseModel):
    """As OpenAI's."""

    id: str
    model: str
    results: list[ModerationResult]


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
        message = f"{len(conversations)} are too many; a request takes {settings.max_conversations}"
        raise ApiError(400, message, param=names(0).partition("[")[0], code="too_many")
    for i, conversation in enumerate(conversations):
        if len(conversation.messages) > settings.max_messages:
            message = (
                f"{len(conversation.messages)} messages are too many; a conversation takes {settings.max_messages}"
            )
            raise ApiError(400, message, param=names(i), code="too_many_messages")
        check_length(max(len(message.content) for message in conversation.messages), settings, names(i))


def check_length(chars: int, settings: ServerSettings, name: str) -> None:
    """Raises ``ApiError`` 400 where a text is longer than one may be; ``name`` is how the body has it."""
    if chars > settings.max_chars:
        message = f"a text of {chars} characters is too long; {settings.max_chars} are taken"
        raise ApiError(400, message, param=name, code="text_too_long")


def _read(one: ConversationIn, target: Target | None, name: str) -> Conversation:
    try:
        return one.read(target)
    except ValueError as error:
        raise ApiError(400, f"{name}: {error}", param=name, code="target_missing") from None
