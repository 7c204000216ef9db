"""A LangChain runnable that guards any model: the question before it is asked, the answer while it comes.

pip install 'langchain-core>=1' 'libra-guard[serve]'
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import Any

from langchain_core.runnables import Runnable, RunnableGenerator

from libra_guard import AsyncClient, Client


def guarded(model: Runnable[Any, Any], client: Client, async_client: AsyncClient) -> Runnable[str, str]:
    """The model as a runnable from a question to an answer that may be shown; ``stream`` gives it in sentences.

    ``invoke``, ``batch`` and ``stream`` ask ``client``; ``ainvoke``, ``abatch`` and ``astream`` ask ``async_client``.
    What is blocked is answered as the server's policy has it.

    An error of the server is raised: what nobody judged is not shown. Where the answer is stopped, the model is too.
    Give it without an output parser behind it: LangChain reads a chain with one to its end when it is closed.
    """

    def answer(questions: Iterator[str]) -> Iterator[str]:
        question = "".join(questions)
        asked = client.check(question)
        if asked.blocked:
            yield str(asked.answer)
            return
        # Closed, so that the model ends too where nobody reads on.
        with closing(client.stream(question, (_text(chunk) for chunk in model.stream(question)))) as shown:
            yield from shown
        if shown.stopped:
            yield str(shown.stopped.answer)

    async def aanswer(questions: AsyncIterator[str]) -> AsyncIterator[str]:
        question = "".join([part async for part in questions])
        asked = await async_client.check(question)
        if asked.blocked:
            yield str(asked.answer)
            return
        chunks = (_text(chunk) async for chunk in model.astream(question))
        async with aclosing(async_client.stream(question, chunks)) as shown:
            async for sentence in shown:
                yield sentence
        if shown.stopped:
            yield str(shown.stopped.answer)

    return RunnableGenerator(answer, aanswer)


def _text(chunk: Any) -> str:
    """Chat models give messages, others texts."""
    return chunk if isinstance(chunk, str) else chunk.text
