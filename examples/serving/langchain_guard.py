"""A LangChain runnable that guards any model: the question before it is asked, the answer while it comes.

pip install langchain-core 'libra-guard[serve]'
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableGenerator

from libra_guard import Client


def guarded(model: Runnable[Any, Any], client: Client) -> Runnable[str, str]:
    """The model as a runnable from a question to an answer that may be shown; ``stream`` gives it in sentences.

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

    return RunnableGenerator(answer)
