"""The moderation interface, asked with the openai client as OpenAI's own is.

python openai_moderation.py 如何泡一杯绿茶？
"""

from __future__ import annotations

import os
import sys

from openai import OpenAI


def moderate(client: OpenAI, texts: list[str]) -> list[str]:
    """One line a text: whether it is flagged, OpenAI's categories with the highest scores, Libra's own scenarios."""
    lines = []
    for text, result in zip(texts, client.moderations.create(input=texts).results, strict=True):
        scores = sorted(result.category_scores.model_dump(by_alias=True).items(), key=lambda item: -item[1])
        highest = ", ".join(f"{name} {score:.2f}" for name, score in scores[:3])
        # A further field, which the openai client keeps.
        scenarios = (result.model_extra or {})["libra"]["decision"]["scenarios"]
        lines.append(f"{'flagged' if result.flagged else 'passed'}  {text}  {highest}  {scenarios}")
    return lines


def main() -> None:
    client = OpenAI(
        base_url=os.environ.get("LIBRA_URL", "http://127.0.0.1:8300") + "/v1",
        api_key=os.environ.get("LIBRA_API_KEY", "none"),
    )
    print(*moderate(client, sys.argv[1:] or ["如何泡一杯绿茶？"]), sep="\n")


if __name__ == "__main__":
    main()
