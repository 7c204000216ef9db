"""Requests and answers for the API's description, as the server with Libra-Guard-Mini has them."""

from __future__ import annotations

import json
from typing import Any

from libra_guard import __version__
from libra_guard.serve.categories import OPENAI
from libra_guard.taxonomy import SCENARIOS

_ID = "req-5f0c2b7e9a1d4c3688e7b0aa"
_CRIME = SCENARIOS[0]
_QUESTION = "如何泡一杯绿茶？"
_HARMFUL = "教我制作假钞"
_SAFE_ANSWER = (
    "抱歉，这里涉及可能违法或伤人的内容，我不能提供。如果想了解相关的法律规定、后果，或者怎样防范，我可以讲给你听。"
    "如果你遇到了麻烦，或者正被人逼迫，可以拨打 110 报警，法律上的问题可以拨打 12348 咨询。"
)


def _scores(*values: float) -> dict[str, float]:
    return dict(zip((scenario.name for scenario in SCENARIOS), values, strict=True))


def _verdict(label: str, score: float, scores: dict[str, float], analysis: str | None = None) -> dict[str, Any]:
    found = {"label": label, "unsafe_score": score, "categories": scores, "analysis": analysis, "raw": None}
    return {**found, "valid": True, "guard": "mini", "method": "logits", "windows": 1, "notes": []}


def _decision(action: str, reason: str) -> dict[str, Any]:
    blocked = action == "block"
    found: dict[str, Any] = {"action": action, "would": action, "scenarios": [_CRIME.name] if blocked else []}
    found |= {"guessed": blocked, "likely": blocked, "reason": reason}
    return {**found, "policy": "default", "mode": "enforce", "listed": None}


_HARM = _scores(0.352108, 0.001968, 0.083132, 0.01319, 0.000964, 0.015658, 0.011859)
_SAFE = _verdict("安全", 0.010865, _scores(0.003754, 0.001218, 0.002129, 0.000886, 7.6e-05, 0.002181, 0.001729))
_BLOCK = _decision("block", "the guard says 不安全, unsafe score 0.530")
_OPENAI_SCORES = (
    *(0.0006, 0.0003, 0.002, 0.0003, 0.2817, 0.0704, 0.0119, 0.0059, 0.0119),
    *(0.0235, 0.0235, 0.0235, 0.0235),
)

_MODERATION: Any = {
    "text": {"summary": "A text", "value": {"input": _QUESTION}},
    "texts": {
        "summary": "Several texts, and OpenAI's name for a model",
        "value": {"input": [_QUESTION, _HARMFUL], "model": "omni-moderation-latest"},
    },
    "parts": {"summary": "The parts of one input", "value": {"input": [{"type": "text", "text": _QUESTION}]}},
}
_MODERATION_ANSWER = {
    "id": f"modr-{_ID}",
    "model": "mini",
    "results": [
        {
            "flagged": True,
            "categories": dict.fromkeys(OPENAI, False) | {"illicit": True},
            "category_scores": dict(zip(OPENAI, _OPENAI_SCORES, strict=True)),
            "category_applied_input_types": {code: ["text"] for code in OPENAI},
            "libra": {
                "label": "不安全",
                "unsafe_score": 0.529941,
                "scenarios": _HARM,
                "scenarios_zh": [_CRIME.name_zh],
                "decision": _BLOCK,
                "guard": "mini",
                "target": "prompt",
                "notes": [],
            },
        }
    ],
}
_MESSAGES = [
    {"role": "user", "content": _QUESTION},
    {"role": "assistant", "content": "水温八十度左右，两三分钟即可。"},
    {"role": "user", "content": _HARMFUL},
]
_GUARD: Any = {
    "answer": {
        "summary": "A question and its answer, which is judged",
        "value": {"conversations": [{"question": _QUESTION, "response": "水温八十度左右，两三分钟即可。"}]},
    },
    "question": {
        "summary": "One question, with reasons",
        "value": {"conversation": {"question": _HARMFUL}, "explain": True},
    },
    "messages": {
        "summary": "Messages, of which the last is judged, by a threshold and a policy of one's own choice",
        "value": {"conversation": {"messages": _MESSAGES}, "threshold": 0.4, "policy": "strict", "language": "en"},
    },
}
_GUARD_ANSWER = {
    "id": f"guard-{_ID}",
    "guard": "mini",
    "policy": "default",
    "results": [
        {
            "verdict": _verdict("不安全", 0.529941, _HARM, "该问题不安全（不安全得分 0.53，阈值 0.51）。"),
            "decision": _BLOCK,
            "target": "prompt",
            "threshold": 0.51,
            "answer": _SAFE_ANSWER,
        }
    ],
}
_STATE = {
    "position": 10,
    "before": "水温要在八十度左右。",
    "repeated": 0,
    "pending": "先温",
    "half": None,
    "credit": 27.0,
    "recalled": 0,
    "unread": 10,
    "worst": 0.1,
}
_STREAM: Any = {
    "first": {
        "summary": "The beginning of an answer",
        "value": {"question": "怎么泡绿茶？", "text": "水温要在八十度左右。先温"},
    },
    "last": {
        "summary": "Its end, with the state that came back",
        "value": {"question": "怎么泡绿茶？", "text": "杯，再投茶。", "state": _STATE, "end": True},
    },
}
_STREAM_ANSWER = {
    "released": "水温要在八十度左右。",
    "stopped": False,
    "answer": None,
    "windows": [
        {
            "start": 0,
            "end": 10,
            "verdict": _SAFE,
            "decision": _decision("pass", "the guard says 安全, unsafe score 0.011"),
        }
    ],
    "first_hit": None,
    "state": _STATE,
}
_CHAT: Any = {
    "whole": {
        "summary": "An answer as a whole",
        "value": {"model": "qwen3-8b", "messages": [{"role": "user", "content": _QUESTION}]},
    },
    "stream": {
        "summary": "A stream",
        "value": {"model": "qwen3-8b", "messages": [{"role": "user", "content": _QUESTION}], "stream": True},
    },
}
_NOTE = {
    "stage": "prompt",
    **_BLOCK,
    "verdict": {name: value for name, value in _verdict("不安全", 0.529941, _HARM).items() if name != "raw"},
}
_CHAT_ANSWER = {
    "id": "chatcmpl-libra-2c1f7a90d6e34b0f8a5b9c3e7d21f604",
    "object": "chat.completion",
    "created": 1_760_000_000,
    "model": "qwen3-8b",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": _SAFE_ANSWER},
            "logprobs": None,
            "finish_reason": "content_filter",
        }
    ],
    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    "libra": _NOTE,
}
_PASSED = {
    "stage": "response",
    **_decision("pass", "the guard says 安全, unsafe score 0.011"),
    "verdict": {name: value for name, value in _SAFE.items() if name != "raw"},
    "choice": 0,
}
_CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_760_000_000, "model": "qwen3-8b"}
_CHUNKS = (
    {"index": 0, "delta": {"role": "assistant", "content": "水温要在八十度左右。"}, "finish_reason": None},
    {"index": 0, "delta": {}, "finish_reason": "stop"},
)
_CHAT_EVENTS = (
    "".join(
        f"data: {json.dumps({**_CHUNK, 'choices': [choice], **more}, ensure_ascii=False)}\n\n"
        for choice, more in zip(_CHUNKS, ({}, {"libra": _PASSED}), strict=True)
    )
    + "data: [DONE]\n\n"
)
_MODEL = {"id": "qwen3-8b", "object": "model", "created": 1_760_000_000, "owned_by": "vllm"}
_GUARDS = {
    "object": "list",
    "data": [
        {
            "id": "mini",
            "object": "guard",
            "default": True,
            "targets": ["prompt", "response"],
            "thresholds": {"prompt": 0.51, "response": 0.4},
            "categories": [{"code": one.name, "name": one.name, "name_zh": one.name_zh} for one in SCENARIOS],
            "multi_turn": False,
        }
    ],
    "max_conversations": 100,
    "max_messages": 200,
    "max_chars": 20_000,
    "queue_chars": 1_000_000,
    "max_body_bytes": 1_000_000,
}
_POLICIES = [
    {"id": name, "object": "policy", "default": name == "default", "mode": mode, "guard": None, "problem": None}
    for name, mode in (("default", "enforce"), ("monitor", "monitor"), ("strict", "enforce"))
]

REQUESTS: dict[str, dict[str, Any]] = {
    "createModeration": _MODERATION,
    "judgeConversations": _GUARD,
    "judgeStream": _STREAM,
    "createChatCompletion": _CHAT,
}
"""``operationId`` → bodies by name."""
ANSWERS: dict[str, dict[str, Any]] = {
    "createModeration": {"application/json": _MODERATION_ANSWER},
    "judgeConversations": {"application/json": _GUARD_ANSWER},
    "judgeStream": {"application/json": _STREAM_ANSWER},
    "createChatCompletion": {"application/json": _CHAT_ANSWER, "text/event-stream": _CHAT_EVENTS},
    "listModels": {"application/json": {"object": "list", "data": [_MODEL]}},
    "retrieveModel": {"application/json": _MODEL},
    "listGuards": {"application/json": _GUARDS},
    "listPolicies": {"application/json": {"object": "list", "data": _POLICIES}},
    "getHealth": {"application/json": {"status": "alive", "version": __version__}},
    "getReadiness": {"application/json": {"status": "ready", "version": __version__}},
    "getMetrics": {"text/plain": 'libra_requests_total{method="POST",route="/v1/guard",status="200"} 2.0\n'},
}
"""``operationId`` → what is answered with 200, by media type."""
