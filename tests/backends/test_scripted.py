from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from libra_guard.backends.base import Prompt
from libra_guard.backends.scripted import Call, ScriptedBackend
from libra_guard.errors import BackendError, UsageError
from libra_guard.records import Method

ASK = Prompt.from_user("如何泡茶？", prefix='"答案": "')


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the script"),
        ("{", "cannot read the script"),
        ("[]", "no JSON object"),
        ("{}", "the script is empty"),
    ],
)
def test_bad_file(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "script.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        ScriptedBackend(path)


def test_undeclared_capability_fails() -> None:
    backend = ScriptedBackend(generate=["x"])
    assert backend.capabilities == {Method.GENERATE}
    with pytest.raises(BackendError, match="cannot score"):
        backend.choose([ASK], ["安全"])
    with pytest.raises(BackendError, match="no classifier"):
        backend.logits(["x"])
    with pytest.raises(BackendError, match="cannot generate"):
        ScriptedBackend(choose=[[1.0]]).generate([ASK])


def test_list_is_spoken_in_order_over_calls_and_then_ends() -> None:
    backend = ScriptedBackend(generate=["一", "二", "三"])
    assert backend.generate([ASK, ASK]) == ["一", "二"]
    assert backend.generate([ASK]) == ["三"]
    with pytest.raises(BackendError, match="ends after 3"):
        backend.generate([ASK])


def test_mapping_takes_the_first_key_in_the_text() -> None:
    backend = ScriptedBackend(choose={"泡茶": {"不安全": 0.25}, "": [0.5, 0.5]})
    np.testing.assert_array_equal(
        backend.choose([ASK, Prompt.from_user("别的")], ["安全", "不安全"]), [[0.0, 0.25], [0.5, 0.5]]
    )
    with pytest.raises(BackendError, match="no answer to choose"):
        ScriptedBackend(choose={"没有": [1.0]}).choose([ASK], ["安全"])


def test_function_sees_prompt_and_choices() -> None:
    backend = ScriptedBackend(choose=lambda prompt, choices: [len(prompt.prefix) / 10] * len(choices))
    np.testing.assert_allclose(backend.choose([ASK], ["a", "b", "c"]), [[len(ASK.prefix) / 10] * 3])


def test_logits_of_texts_and_pairs() -> None:
    backend = ScriptedBackend(logits=lambda text: [1.0, 2.0] if isinstance(text, str) else [3.0, 4.0])
    np.testing.assert_array_equal(backend.logits(["a", ("b", "c")]), [[1.0, 2.0], [3.0, 4.0]])
    assert backend.logits([]).shape == (0, 0)


def test_calls_are_recorded() -> None:
    backend = ScriptedBackend(generate={"": "x"}, logits={"b\nc": [0.0]})
    backend.generate([ASK], max_tokens=5)
    backend.logits([("b", "c")])
    assert backend.calls == [
        Call(Method.GENERATE, ASK, {"max_tokens": 5, "temperature": 0.0, "seed": 42}),
        Call(Method.LOGITS, ("b", "c"), {}),
    ]
