"""The client for ordinary code."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from typing import Any, Self

from libra_guard.client.protocol import (
    HOLD_MS,
    Ask,
    ClientBase,
    Failure,
    Growing,
    Judged,
    Moderation,
    Pause,
    Reply,
    Result,
    Steps,
    content,
    given,
)
from libra_guard.policy.answers import Language
from libra_guard.records import Conversation, Message, Target


class Client(ClientBase):
    """Asks a server of Libra's for verdicts. May be used by several threads at once.

    Asked again are requests that met no connection or a broken one, 429 and 503, after the time that ``Retry-After``
    asks for or with growing pauses. To judge twice changes nothing but the server's counters.

    Args:
        base_url: The server, with or without ``/v1``.
        api_key: By default ``LIBRA_API_KEY``.
        timeout: Seconds to wait for an answer in one attempt.
        retries: Further attempts after the first.

    Raises:
        UsageError: The address is none, or a number makes no sense.
        MissingExtraError: The extra ``serve`` is not installed.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8300",
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 3,
    ) -> None:
        super().__init__(base_url, api_key, timeout, retries)
        self._http = self._httpx.Client(**self._settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections."""
        self._http.close()

    def judge(
        self,
        conversations: Sequence[Conversation],
        *,
        target: Target | None = None,
        guard: str | None = None,
        policy: str | None = None,
        threshold: float | None = None,
        explain: bool = False,
        language: Language | None = None,
    ) -> list[Judged]:
        """Judges each conversation, as ``Guard.judge`` does; more than the server takes at once go in several requests.

        Args:
            conversations: A list of any length.
            target: ``prompt`` judges the last question also where there is an answer, ``response`` needs an answer; by
                default whatever comes last is judged.
            guard: One of ``guards()``; by default the policy's, else the server's first.
            policy: Name of a policy profile; by default the server's.
            threshold: Unsafe from this score on, in [0, 1], in place of the guard's own.
            explain: Also give an analysis.
            language: Of the safe answers; by default that of each conversation's last question.

        Returns:
            One verdict each, in order, with the policy's decision.

        Raises:
            TypeError: Something else than a list of conversations was given.
            UsageError: The server does not take the request: an unknown guard or policy, a wrong key, too long a text.
            BackendError: The server is not there, too busy, too slow, or failed.
        """
        steps = self._judge(
            conversations,
            target=target,
            guard=guard,
            policy=policy,
            threshold=threshold,
            explain=explain,
            language=language,
        )
        return self._run(steps)

    def check(
        self,
        question: str,
        response: str | None = None,
        *,
        target: Target | None = None,
        guard: str | None = None,
        policy: str | None = None,
        threshold: float | None = None,
        explain: bool = False,
        language: Language | None = None,
    ) -> Judged:
        """Judges an answer to a question; without one, the question. Arguments and errors as of ``judge``.

        Raises:
            ValueError: A text cannot be judged; see ``records.check_text``.
        """
        pair = Conversation.from_pair(question, response)
        judged = self.judge(
            [pair],
            target=target,
            guard=guard,
            policy=policy,
            threshold=threshold,
            explain=explain,
            language=language,
        )
        return judged[0]

    def moderate(
        self, texts: Sequence[str], *, guard: str | None = None, policy: str | None = None
    ) -> list[Moderation]:
        """What the moderation interface says of each text, as user messages. Guard and policy as of ``judge``.

        Raises:
            TypeError: Something else than a list of texts was given.
            ValueError: A text cannot be judged; see ``records.check_text``.
            LibraError: As of ``judge``.
        """
        return self._run(self._moderate(texts, model=guard, policy=policy))

    def stream(
        self,
        question: str | Sequence[Message],
        chunks: Iterable[str | None],
        *,
        guard: str | None = None,
        policy: str | None = None,
        language: Language | None = None,
        hold_ms: float = HOLD_MS,
    ) -> GuardedStream:
        """Guards an answer while it grows.

        Args:
            question: What is answered, empty where it is not known; or all messages before the answer, for guards
                that read them. It is not judged itself: ``check`` does that.
            chunks: The answer as it comes, in pieces of any length; None is taken as empty. Closed in the end, if it
                can be (``close``; ``aclose`` in ``AsyncClient``): also where the stream is stopped or an error raised.
            guard: As of ``judge``.
            policy: As of ``judge``.
            language: Of the safe answer; by default the question's.
            hold_ms: When a chunk comes and text has waited so long, it is judged as it is.

        Returns:
            An iterator over text that may be shown.

        Raises:
            TypeError: Among the messages is something else.
            ValueError: The question is blank.
            UsageError: ``hold_ms`` is not more than 0.
        """
        return GuardedStream(self, question, chunks, hold_ms, given(guard=guard, policy=policy, language=language))

    def guards(self) -> list[dict[str, Any]]:
        """The guards that the server has, the default first.

        Raises:
            LibraError: As of ``judge``.
        """
        return self._run(self._listed("/v1/guards"))

    def ready(self) -> bool:
        """Whether the server is there and takes requests; never raises for one that is not."""
        reply = self._send(Ask("GET", "/readyz"))
        return isinstance(reply, Reply) and reply.status == 200

    def _run(self, steps: Steps[Result]) -> Result:
        reply: Reply | Failure | None = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as done:
                result: Result = done.value
                return result
            if isinstance(step, Pause):
                time.sleep(step.seconds)
            reply = self._send(step) if isinstance(step, Ask) else None

    def _send(self, ask: Ask) -> Reply | Failure:
        try:
            reply = self._http.request(ask.method, self._base + ask.path, content=content(ask.body))
        except self._httpx.RequestError as error:
            return self._failure(error)
        return Reply(reply.status_code, reply.headers, reply.text)


class GuardedStream(Growing):
    """An iterator over the text of an answer that may be shown, in pieces that end with sentences.

    It ends with the answer, or before the first text that the policy blocks; ``stopped`` then says why. Nothing of
    the answer is read after that, and what it is read from is closed. An error of the server is raised where text would
    follow that nobody judged.
    """

    def __init__(
        self,
        client: Client,
        question: str | Sequence[Message],
        chunks: Iterable[str | None],
        hold_ms: float,
        fields: dict[str, Any],
    ) -> None:
        super().__init__(client, question, hold_ms, fields)
        self._chunks, self._texts = chunks, self._shown(client)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return next(self._texts)

    def close(self) -> None:
        """Ends it early; nothing is to be done where it was read to its end."""
        self._texts.close()
        # A generator that was not begun does nothing when it is closed.
        self._close()

    def _shown(self, client: Client) -> Generator[str]:
        try:
            for chunk in self._chunks:
                for steps in self._take(chunk):
                    if text := client._run(steps):
                        yield text
                if self.stopped:
                    return
            for steps in self._send_all(end=True):
                if text := client._run(steps):
                    yield text
        finally:
            self._close()

    def _close(self) -> None:
        """Else the model would write on for nobody, as long as somebody holds what it is read by."""
        if close := getattr(self._chunks, "close", None):
            close()
