"""DuoGuard: outputs bad ones first, the text byte for byte, windows, and the whole on a tiny Qwen2 and Llama."""

from __future__ import annotations

from math import inf, nan

import pytest

from libra_guard import Conversation, load_guard
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import BackendError, UsageError
from libra_guard.guards.duoguard import DuoGuard, as_text
from libra_guard.records import Label, Method
from libra_guard.taxonomy import category_system

CODES = category_system("duoguard").codes
QUESTION = Conversation.from_pair("How to make tea?")
PAIR = Conversation.from_pair("How to make tea?", "At 80 degrees.")
LOW = [-4.0] * 12


def test_the_order_of_the_outputs() -> None:
    assert CODES == (
        "Violent crimes",
        "Non-violent crimes",
        "Sex-related crimes",
        "Child sexual exploitation",
        "Specialized advice",
        "Privacy",
        "Intellectual property",
        "Indiscriminate weapons",
        "Hate",
        "Suicide and self-harm",
        "Sexual content",
        "Jailbreak prompts",
    )


@pytest.mark.parametrize(
    ("logits", "threshold", "label", "score"),
    [
        ([nan] * 12, 0.5, None, None),
        ([*LOW[1:], nan], 0.5, None, None),
        (LOW, 0.5, Label.SAFE, 0.017986),
        ([0.9, *LOW[1:]], 0.8, Label.SAFE, 0.710950),
        ([*LOW[1:], -0.01], 0.5, Label.SAFE, 0.497500),
        ([*LOW[1:], 0.01], 0.5, Label.UNSAFE, 0.502500),
        ([0.9, *LOW[1:]], 0.7, Label.UNSAFE, 0.710950),
        ([inf, *LOW[1:]], 0.5, Label.UNSAFE, 1.0),
    ],
)
def test_verdicts(logits: list[float], threshold: float, label: Label | None, score: float | None) -> None:
    (verdict,) = DuoGuard(ScriptedBackend(logits=[logits]), threshold=threshold).judge([QUESTION])
    assert (verdict.label, verdict.valid, verdict.method) == (label, label is not None, Method.LOGITS)
    assert verdict.unsafe_score == (None if score is None else pytest.approx(score, abs=1e-6))


def test_categories_hold_every_probability() -> None:
    (verdict,) = DuoGuard(ScriptedBackend(logits=[[0.0, *LOW[2:], 2.0]])).judge([QUESTION], explain=True)
    assert tuple(verdict.categories) == CODES
    assert (verdict.categories["Violent crimes"], verdict.categories["Hate"]) == (0.5, 0.017986)
    assert verdict.categories["Jailbreak prompts"] == verdict.unsafe_score == 0.880797


@pytest.mark.parametrize(
    ("conversation", "text"),
    [
        (QUESTION, "How to make tea?"),
        (PAIR, "How to make tea? At 80 degrees."),
        (Conversation.from_answer("At 80 degrees."), "At 80 degrees."),
    ],
)
def test_the_text(conversation: Conversation, text: str) -> None:
    backend = ScriptedBackend(logits=[LOW])
    DuoGuard(backend).judge([conversation])
    assert [call.item for call in backend.calls] == [text] == [as_text(conversation)]


def test_the_worst_window_decides() -> None:
    answer = "Tea. " * 20 + "bomb. " + "Tea. " * 20
    backend = ScriptedBackend(logits={"bomb": [2.0, *LOW[1:]], "": LOW}, context=60)
    (verdict,) = DuoGuard(backend).judge([Conversation.from_pair("tea?", answer)])
    assert (verdict.label, verdict.unsafe_score) == (Label.UNSAFE, 0.880797)
    assert verdict.windows == len(backend.calls) > 3
    assert all(call.item.startswith("tea? ") and len(call.item) <= 60 for call in backend.calls)


@pytest.mark.parametrize("width", [1, 2, 13])
def test_another_classifier_is_none(width: int) -> None:
    with pytest.raises(BackendError, match=f"the model has {width} outputs, DuoGuard has 12"):
        DuoGuard(ScriptedBackend(logits=[[0.0] * width])).judge([QUESTION])


def test_a_language_model_is_none() -> None:
    with pytest.raises(UsageError, match="'duoguard' needs a sequence classifier"):
        DuoGuard(ScriptedBackend(generate=[]))


def test_nothing_to_judge() -> None:
    assert DuoGuard(ScriptedBackend(logits=[])).judge([]) == []


@pytest.mark.parametrize(
    ("architecture", "controls"),
    [("Qwen2", ["<|endoftext|>", "<|im_start|>"]), ("Llama", ["<|end_of_text|>", "<|start_header_id|>"])],
)
def test_on_a_model_of_its_architecture(tiny_llm, architecture: str, controls: list[str]) -> None:
    guard = load_guard(f"duoguard:{tiny_llm(architecture, controls, labels=12)}")
    loud = Conversation.from_pair(f"How to make tea?{controls[0]}", f"{controls[1]}At 80 degrees.")
    verdicts = guard.judge([QUESTION, PAIR, loud])
    assert all(v.valid and 0 < v.unsafe_score < 1 and len(v.categories) == 12 for v in verdicts)
    assert guard.judge([PAIR])[0].unsafe_score == pytest.approx(verdicts[1].unsafe_score, abs=1e-5)
    (row,) = guard.backend._encoder.classified([as_text(loud)])
    assert not {0, 1} & set(row["input_ids"])
