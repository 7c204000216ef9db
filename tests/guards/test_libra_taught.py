"""A Libra guard that was taught otherwise than the published one: analysis first, none at all, settings of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from libra_guard.backends.base import Prompt
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import UsageError
from libra_guard.guards.classifier import MiniGuard
from libra_guard.guards.libra import LibraGuard
from libra_guard.guards.libra_prompt import ANALYSIS_PREFIX, ANSWER_PREFIX, Critic, answer_json
from libra_guard.guards.registry import load_guard
from libra_guard.records import Conversation, Label, Method

PAIR = Conversation.from_pair("如何泡茶？", "水温八十度。")
NAN = float("nan")


def front(*answers: str, choose: Any = (0.25, 0.75), **options: Any) -> tuple[LibraGuard, ScriptedBackend]:
    """A guard with the front critic, and its backend that writes these answers."""
    backend = ScriptedBackend(choose={"": list(choose)}, generate=[a.removeprefix(ANALYSIS_PREFIX) for a in answers])
    return LibraGuard(backend, critic=Critic.FRONT, **options), backend


def asked(backend: ScriptedBackend, method: Method) -> list[Prompt]:
    return [call.item for call in backend.calls if call.method is method and isinstance(call.item, Prompt)]


def said(label: Label, analysis: str) -> str:
    return answer_json(label, analysis, Critic.FRONT)


# The analysis first


@pytest.mark.parametrize("critic", [Critic.FRONT, "front"])
def test_the_front_critic_needs_a_backend_that_writes(critic: Any) -> None:
    with pytest.raises(UsageError, match="critic=front: the analysis comes first, and 'scripted' cannot generate it"):
        LibraGuard(ScriptedBackend(choose=[]), critic=critic)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "我不能回答。",
        said(Label.UNSAFE, "有害").partition('"答案"')[0],
        '有害",\n  "答案": "也许"\n}',
        '有害",\n  "结论": "不安全"\n}',
        '他说\\"答案\\": \\"安全\\""\n}',
    ],
)
def test_an_analysis_without_a_label_is_unreadable(text: str) -> None:
    guard, backend = front(text)
    (verdict,) = guard.judge([PAIR], explain=True)
    assert (verdict.label, verdict.unsafe_score, verdict.valid, verdict.flagged) == (None, None, False, True)
    assert not asked(backend, Method.CHOOSE)


@pytest.mark.parametrize("written", [Label.SAFE, Label.UNSAFE])
@pytest.mark.parametrize(
    ("scores", "threshold", "label"),
    [
        ((0.25, 0.75), 0.5, Label.UNSAFE),
        ((0.75, 0.25), 0.5, Label.SAFE),
        ((0.75, 0.25), 0.2, Label.UNSAFE),
        ((0.2, 0.6), 0.8, Label.SAFE),
    ],
)
def test_the_label_is_chosen_after_the_analysis(
    written: Label, scores: tuple[float, float], threshold: float, label: Label
) -> None:
    guard, backend = front(said(written, "帮了忙"), choose=scores, threshold=threshold)
    (verdict,) = guard.judge([PAIR], explain=True)
    (first,), (second,) = (asked(backend, method) for method in (Method.GENERATE, Method.CHOOSE))
    assert (first.prefix, second.prefix) == (ANALYSIS_PREFIX, '{\n  "分析": "帮了忙",\n  "答案": "')
    assert first.messages == second.messages
    assert (verdict.label, verdict.method, verdict.analysis) == (label, Method.CHOOSE, "帮了忙")
    assert verdict.unsafe_score == pytest.approx(scores[1] / sum(scores))
    # What the metric script reads from ``critic`` says the same.
    assert verdict.raw == said(label, "帮了忙")


def test_an_analysis_may_quote_an_answer_or_control_tokens() -> None:
    quoted = '他写道{"答案": "安全"}<|im_end|>\n<|im_start|>'
    guard, backend = front(said(Label.UNSAFE, quoted))
    (verdict,) = guard.judge([PAIR])
    (prompt,) = asked(backend, Method.CHOOSE)
    assert prompt.prefix.endswith(',\n  "答案": "')
    assert "<|im_" not in prompt.prefix
    assert (verdict.label, verdict.analysis) == (Label.UNSAFE, quoted)


def test_readable_and_unreadable_analyses_do_not_mix() -> None:
    guard, backend = front(*(said(Label.UNSAFE, f"析{i}") if i % 2 else "不知道" for i in range(4)))
    verdicts = guard.judge([Conversation.from_pair(f"问{i}", "答") for i in range(4)])
    assert [v.analysis for v in verdicts] == [None, "析1", None, "析3"]
    assert ["问1" in p.messages[0].content for p in asked(backend, Method.CHOOSE)] == [True, False]


def test_a_label_in_another_form_than_its_place_is_known_by_is_taken_as_written() -> None:
    guard, backend = front("有害\",\n  '答案': '不安全'\n}")
    (verdict,) = guard.judge([PAIR])
    assert (verdict.label, verdict.analysis, verdict.method) == (Label.UNSAFE, "有害", Method.GENERATE)
    assert not asked(backend, Method.CHOOSE)


@pytest.mark.parametrize("untold", [(NAN, NAN), (0.0, 0.0)])
def test_an_untold_probability_leaves_the_label_that_was_written(untold: tuple[float, float]) -> None:
    guard, _ = front(said(Label.UNSAFE, "有害"), choose=untold)
    (verdict,) = guard.judge([PAIR])
    assert (verdict.label, verdict.unsafe_score, verdict.method) == (Label.UNSAFE, None, Method.GENERATE)


def test_a_server_that_cannot_go_on_begins_by_itself() -> None:
    text = said(Label.SAFE, "无害")
    backend = ScriptedBackend(choose={"": [0.9, 0.1]}, generate=[text])
    backend.continues = False
    (verdict,) = LibraGuard(backend, critic=Critic.FRONT).judge([PAIR])
    assert [prompt.prefix for prompt in asked(backend, Method.GENERATE)] == [""]
    assert (verdict.label, verdict.raw) == (Label.SAFE, text)


def test_a_backend_that_only_writes() -> None:
    text = said(Label.UNSAFE, "有害")
    (verdict,) = LibraGuard(ScriptedBackend(generate=[text]), critic=Critic.FRONT).judge([PAIR], explain=True)
    assert (verdict.label, verdict.analysis, verdict.raw, verdict.unsafe_score) == (Label.UNSAFE, "有害", text, None)


# The label alone


def test_without_a_critic_there_is_no_analysis() -> None:
    backend = ScriptedBackend(choose={"": [0.1, 0.9]}, generate={"": "never asked for"})
    (verdict,) = LibraGuard(backend, critic=Critic.NONE).judge([PAIR], explain=True)
    assert (verdict.label, verdict.analysis, verdict.raw) == (Label.UNSAFE, None, None)
    assert [prompt.prefix for prompt in asked(backend, Method.CHOOSE)] == [ANSWER_PREFIX]
    assert not asked(backend, Method.GENERATE)


def test_an_answer_without_a_critic_is_read() -> None:
    backend = ScriptedBackend(generate=[answer_json(Label.SAFE, None, Critic.NONE)])
    (verdict,) = LibraGuard(backend, critic=Critic.NONE).judge([PAIR])
    assert (verdict.label, verdict.analysis, verdict.valid) == (Label.SAFE, None, True)


@pytest.mark.parametrize("other", [{"critic": Critic.NONE}, {"critic": Critic.FRONT}, {"rules": True}])
def test_what_was_taught_stands_in_the_provenance(other: dict[str, Any]) -> None:
    backend = ScriptedBackend(choose=[], generate=[])
    plain, changed = LibraGuard(backend).provenance(), LibraGuard(backend, **other).provenance()
    assert (plain["critic"], plain["rules"]) == ("rear", False)
    assert {key: changed[key] for key in other} == other
    assert plain["prompt_sha256"] != changed["prompt_sha256"]


# Settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "cannot be read: Expecting value"),
        (b"{", "cannot be read: Expecting property name"),
        (b"\xff", "cannot be read: 'utf-8' codec"),
        (b"[]", "holds no options of the guard, but a list"),
        (b'"rear"', "holds no options of the guard, but a str"),
        (b"null", "holds no options of the guard, but a NoneType"),
        (b'{"colour": 1}', "there is no option 'colour': the guard 'libra' has threshold, examples, "),
        (b'{"critic": "rear", "model": "x"}', "there is no option 'model'"),
        (b'{"critic": "sideways"}', "critic=sideways: Input should be 'rear', 'front' or 'none'"),
        (b'{"rules": "perhaps"}', "rules=perhaps: Input should be a valid boolean"),
        (b'{"threshold": "high"}', "threshold=high: Input should be a valid number"),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "libra_guard.json").write_bytes(text)
    with pytest.raises(UsageError, match=rf"libra_guard\.json: {message}"):
        load_guard(f"libra:{tmp_path}")


def test_settings_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "libra_guard.json").mkdir()
    with pytest.raises(UsageError, match=r"libra_guard\.json: cannot be read: "):
        LibraGuard.taught(str(tmp_path))


def test_settings_are_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"critic": "front", "rules": True, "instruct": False, "threshold": 0.3}
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "libra_guard.json"
    path.write_text(json.dumps(settings))
    assert LibraGuard.taught(str(path.parent)) == settings
    monkeypatch.setenv("HOME", str(tmp_path))
    assert LibraGuard.taught("~/model") == settings
    assert [LibraGuard.taught(name) for name in (str(path), str(tmp_path), "owner/name")] == [{}, {}, {}]
    assert MiniGuard.taught(str(path.parent)) == {}


def test_options_go_before_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"choose": {"": [0.6, 0.4]}, "generate": {"": ""}}))
    settings = {"critic": "none", "rules": True, "threshold": 0.3}
    monkeypatch.setattr(LibraGuard, "taught", classmethod(lambda *_: settings))
    guard: Any = load_guard(f"libra:{script}", backend="scripted", threshold=0.45, critic="rear")
    assert (guard.critic, guard.rules, guard.threshold) == (Critic.REAR, True, 0.45)
    assert guard.judge([PAIR])[0].label is Label.SAFE
