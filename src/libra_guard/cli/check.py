"""libra check: judge one conversation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from libra_guard.cli.options import BackendOption, GuardOption, SettingsOption, ThresholdOption, open_guard
from libra_guard.errors import UsageError
from libra_guard.guards.base import Guard
from libra_guard.messages import Log
from libra_guard.predict.rows import Fields, read_log_of
from libra_guard.records import Conversation, Label, Target, Verdict

_BAR = 24
_COLOURS = {Label.SAFE: "green", Label.UNSAFE: "red", Label.CONTROVERSIAL: "yellow", None: "magenta"}


def check(
    question: Annotated[str | None, typer.Option("--question", "-q", help="What the user said.")] = None,
    response: Annotated[str | None, typer.Option("--response", "-r", help="The answer; judged where given.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="JSON of one conversation; - is stdin.")] = None,
    guard: GuardOption = "mini",
    backend: BackendOption = None,
    threshold: ThresholdOption = None,
    settings: SettingsOption = None,
    explain: Annotated[bool, typer.Option(help="Also say why.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    exit_code: Annotated[bool, typer.Option(help="Exit with 1 where the conversation is flagged.")] = False,
) -> None:
    """Judge one conversation: an answer in view of its question, or a question or an answer by itself.

    Without --question, a JSON object is read from --file or stdin: {"question", "response"} or {"messages": [...]}. One
    that has no response is judged as a question only if no other field could hold an answer.

    Exit status: 0 judged, 1 flagged (with --exit-code), 2 wrong use or a model that fails, 3 its server is away.
    """
    conversation, notes = _read_log(question, response, file)
    judge = open_guard(guard, backend, threshold, settings)
    verdict = judge.judge([conversation], explain=explain)[0]
    verdict = verdict.model_copy(update={"notes": (*_half(conversation), *notes, *verdict.notes)})
    if as_json:
        typer.echo(json.dumps(verdict.model_dump(mode="json"), ensure_ascii=False))
    else:
        _show(verdict, judge, conversation.target)
    if exit_code and verdict.flagged:
        raise typer.Exit(1)


def _half(conversation: Conversation) -> list[str]:
    """Says that a question or an answer was judged by itself: whoever has misnamed the other one sees it."""
    if conversation.target is Target.PROMPT:
        return ["the question was judged, for there is no answer"]
    return [] if conversation.question else ["the answer was judged by itself, for there is no question"]


def _read_log(question: str | None, response: str | None, file: Path | None) -> Log:
    if file is not None and (question is not None or response is not None):
        raise UsageError("give --question and --response, or --file, not both")
    try:
        if question is not None:
            return Log(Conversation.from_pair(question, response))
        if response is not None:
            return Log(Conversation.from_answer(response))
        return read_log_of(_read(file), Fields(target=None))
    except ValueError as error:
        raise UsageError(f"the conversation cannot be judged: {error}") from None


def _read(file: Path | None) -> dict[str, Any]:
    if file is None and sys.stdin.isatty():
        raise UsageError("nothing to judge: give --question, --file, or a JSON object on stdin")
    source = None if file is None or str(file) == "-" else file
    name = source or "stdin"
    try:
        data = sys.stdin.buffer.read() if source is None else source.read_bytes()
        record = json.loads(data.decode("utf-8-sig"))
        if not isinstance(record, dict):
            raise ValueError(f"a {type(record).__name__} where an object is needed")
        return record
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: not one JSON object in UTF-8: {error}") from None


def _show(verdict: Verdict, judge: Guard, target: Target) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    colour = _COLOURS[verdict.label]
    console.print(Text(verdict.label or "无法判断 (unreadable)", style=f"bold {colour}"))
    if verdict.unsafe_score is not None:
        bar = _bar(verdict.unsafe_score, judge.threshold_for(target), colour)
        calibrated = judge.calibration is not None and judge.calibration.of(target) is not None
        console.print(bar.append("  calibrated") if calibrated else bar)
    for name, score in sorted(verdict.categories.items(), key=lambda item: -item[1])[:3]:
        if score >= 0.1:
            console.print(Text(f"  {score:.2f}  {_category(judge, name)}", style="dim"))
    if verdict.analysis:
        console.print(Text(verdict.analysis))
    for note in (*verdict.notes, *([f"judged in {verdict.windows} windows"] if verdict.windows > 1 else [])):
        console.print(Text(f"note: {note}", style="dim"))


def _category(judge: Guard, code: str) -> str:
    """A category in both languages, where its system knows it; a user's own as it was named."""
    try:
        found = judge.system.find(code) if judge.system else None
    except UsageError:
        found = None
    names = (found.name_zh, found.code, found.name) if found else (code,)
    return "  ".join(dict.fromkeys(names))


def _bar(score: float, threshold: float, colour: str) -> Any:
    from rich.text import Text

    filled, mark = round(score * _BAR), min(_BAR - 1, round(threshold * _BAR))
    cells = ["█" if i < filled else "░" for i in range(_BAR)]
    bar = Text("unsafe ")
    for i, cell in enumerate(cells):
        bar.append("│" if i == mark else cell, style="bold" if i == mark else colour)
    return bar.append(f" {score:.3f}  (threshold {threshold:.3f})")
