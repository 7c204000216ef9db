"""A LangChain runnable that guards any model: the question before it is asked, the answer while it comes.

pip install langchain-core 'libra-guard[serve]'
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableGenerator

from libra_guard import AsyncClient, Client


def guarded(model: Runnable[Any, Any], client: Client, async_client: AsyncClient) -> Runnable[str, str]:
    """The model as a runnable from a question to an answer that may be shown; ``stream`` gives it in sentences.

    ``invoke``, ``batch`` and ``stream`` ask ``client``; ``ainvoke``, ``abatch`` and ``astream`` ask ``async_client``.
    What is blocked is answered as the server's policy has it.

    An error of the server is raised: what nobody judged is not shown.
    """
    text = model | StrOutputParser()

    def answer(questions: Iterator[str]) -> Iterator[str]:
        question = "".join(questions)
        asked = client.check(question)
        if asked.blocked:
            yield str(asked.answer)
            return
        shown = client.stream(question, text.stream(question))
        yield from shown
        if shown.stopped:
            yield str(shown.stopped.answer)

    async def aanswer(questions: AsyncIterator[str]) -> AsyncIterator[str]:
        question = "".join([part async for part in questions])
        asked = await async_client.check(question)
        if asked.blocked:
            yield str(asked.answer)
            return
        shown = async_client.stream(question, text.astream(question))
        async for sentence in shown:
            yield sentence
        if shown.stopped:
            yield str(shown.stopped.answer)

    return RunnableGenerator(answer, aanswer)
