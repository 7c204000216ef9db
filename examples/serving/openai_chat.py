"""A streaming chat through the guarding proxy: the openai client's own code, with another base_url.

libra serve --upstream http://127.0.0.1:8000/v1
python openai_chat.py my-model 如何泡一杯绿茶？
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from openai import OpenAI


def chat(client: OpenAI, model: str, question: str) -> Iterator[str]:
    """The answer as it is released; where it is blocked, the safe answer follows or stands in its place."""
    for chunk in client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], stream=True
    ):
        # What Libra decided, in a field that the openai client keeps and others leave alone.
        if decided := (chunk.model_extra or {}).get("libra"):
            print(decided, file=sys.stderr)
        if chunk.choices and chunk.choices[0].delta.content:
            yield chunk.choices[0].delta.content


def main() -> None:
    if len(sys.argv) != 3:
        print("usage: python openai_chat.py MODEL QUESTION", file=sys.stderr)
        sys.exit(2)
    model, question = sys.argv[1:]
    client = OpenAI(
        base_url=os.environ.get("LIBRA_URL", "http://127.0.0.1:8300") + "/v1",
        api_key=os.environ.get("LIBRA_API_KEY", "none"),
    )
    for text in chat(client, model, question):
        print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
