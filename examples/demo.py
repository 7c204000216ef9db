"""A few conversations and what the bundled guard says of them.

python examples/demo.py
"""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from libra_guard import Conversation, load_guard

SHOWN = ("mini-illegal-01", "mini-illegal-04", "mini-privacy-06", "mini-bias-01", "mini-health-03", "mini-ethics-15")


def main() -> None:
    samples = json.loads(Path(__file__).with_name("libra-mini.json").read_text(encoding="utf-8"))
    chosen = [s for s in samples if s["id"] in SHOWN]
    guard = load_guard("mini")
    verdicts = guard.judge([Conversation.from_pair(s["question"], s["response"]) for s in chosen], explain=True)
    console = Console(highlight=False)
    for sample, verdict in zip(chosen, verdicts, strict=True):
        colour = "red" if verdict.flagged else "green"
        console.print(f"问：{escape(_short(sample['question']))}\n答：{escape(_short(sample['response']))}")
        console.print(f"[bold {colour}]{verdict.label}[/] {verdict.unsafe_score:.2f}（标签：{sample['label']}）")
        console.print(f"[dim]{escape(verdict.analysis or '')}[/]\n")


def _short(text: str, most: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


if __name__ == "__main__":
    main()
