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
        (None, r"script\.json: cannot be read: No such file"),
        ("{", r"script\.json: not JSON"),
        ("[]", r"script\.json: an object is needed, not a list"),
        ("{}", "the script is empty"),
        ('{"chose": []}', r"script\.json: a script has generate, choose and logits, and no 'chose'"),
        ('{"choose": 5}', r"script\.json: choose: a list or an object of answers is needed, not 5"),
        ('{"generate": "x"}', r"script\.json: generate: a list or an object of answers is needed, not 'x'"),
        ('{"generate": {"茶": 5}}', r"script\.json: generate: '茶': Input should be a valid string, not 5"),
        ('{"choose": {"茶": 5}}', r"choose: '茶': Input should be a valid list, not 5"),
        ('{"choose": [[0.5, 1.5]]}', r"choose: 0, 1: .*a probability lies in \[0, 1\], not 1\.5"),
        ('{"choose": {"": {"安全": -0.1}}}', r"choose: '', '安全': .*a probability lies in \[0, 1\], not -0\.1"),
        ('{"choose": {"": {"安全": "0.1"}}}', r"choose: '', '安全': Input should be a valid number, not '0\.1'"),
        ('{"choose": {"": {"安全": true}}}', r"choose: '', '安全': Input should be a valid number, not True"),
        ('{"logits": [[0.5, null]]}', r"logits: 0, 1: Input should be a valid number, not None"),
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


def test_a_file_may_say_that_a_probability_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text('{"choose": {"": {"安全": NaN, "不安全": 1}}, "logits": null}', encoding="utf-8")
    scores = ScriptedBackend(path).choose([ASK], ["安全", "不安全"])
    np.testing.assert_array_equal(scores, [[np.nan, 1.0]])


@pytest.mark.parametrize(
    "said", [[0.5], [0.5, 0.5, 0.5], [0.5, 2], [-1, 0], 0.5, None, "yes", {"安全": 7}, {"安全": "x"}]
)
def test_what_is_no_probability_is_a_failure(said: object) -> None:
    with pytest.raises(BackendError, match=r"a probability in \[0, 1\] for each of 安全, 不安全"):
        ScriptedBackend(choose=lambda *_: said).choose([ASK], ["安全", "不安全"])


def test_logits_of_several_lengths_are_a_failure() -> None:
    with pytest.raises(BackendError, match="no table of numbers"):
        ScriptedBackend(logits=[[1.0], [1.0, 2.0]]).logits(["a", "b"])


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
