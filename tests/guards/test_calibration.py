"""Calibration files, bad ones first; the maps; whom a calibration serves; and how it comes to a guard."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_guard import Conversation, load_guard
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import UsageError
from libra_guard.guards import registry
from libra_guard.guards.calibration import Calibration, Identity, Isotonic, Platt, ScoreMap, Temperature, logit
from libra_guard.io import model_hash
from libra_guard.records import Label

PAIR = Conversation.from_pair("如何泡茶？", "水温八十度。")
TABLE = Isotonic(x=[0.2, 0.4, 0.8], y=[0.1, 0.5, 0.9])
MAPS: list[ScoreMap] = [Identity(), Temperature(temperature=2.5), Platt(temperature=0.3, bias=-2.0), TABLE]


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def halving(**more: Any) -> Calibration:
    """Scores of answers become half of themselves."""
    return Calibration(response=Isotonic(x=[0, 1], y=[0, 0.5], **more))


# Files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[]", "an object is needed, not a list"),
        ({}, "needs 'response' or 'prompt', or both"),
        ({"response": None}, "needs 'response' or 'prompt', or both"),
        ({"response": {"method": "none"}, "answer": {}}, "answer: there is no such key"),
        ({"response": {}}, "Unable to extract tag using discriminator 'method'"),
        ({"response": {"method": "magic"}}, "Input tag 'magic' found using 'method' does not match"),
        ({"response": {"method": "none", "bias": 1}}, "response.none.bias: there is no such key"),
        ({"response": {"method": "none", "threshold": 1.1}}, "threshold: Input should be less than or equal to 1"),
        ({"prompt": {"method": "none", "threshold": "0.5"}}, "prompt.none.threshold: Input should be a valid number"),
        ({"prompt": {"method": "none", "threshold": True}}, "prompt.none.threshold: Input should be a valid number"),
        ('{"response": {"method": "none", "threshold": NaN}}', "threshold: Input should be"),
        ({"response": {"method": "temperature"}}, "temperature: Field required"),
        ({"response": {"method": "temperature", "temperature": 0}}, "temperature: Input should be greater than 0"),
        ({"response": {"method": "temperature", "temperature": -1}}, "temperature: Input should be greater than 0"),
        ('{"response": {"method": "temperature", "temperature": Infinity}}', "should be a finite number"),
        ({"response": {"method": "temperature", "temperature": 1, "bias": 1}}, "temperature.bias: there is no such"),
        ({"response": {"method": "platt", "temperature": 1}}, "platt.bias: Field required"),
        ({"response": {"method": "platt", "temperature": 0, "bias": 1}}, "temperature: Input should be greater than 0"),
        ('{"response": {"method": "platt", "temperature": 1, "bias": NaN}}', "should be a finite number"),
        ({"response": {"method": "isotonic", "x": [], "y": []}}, "x: List should have at least 1 item"),
        ({"response": {"method": "isotonic", "x": [0.1], "y": [0, 1]}}, "x has 1 points, y has 2"),
        ({"response": {"method": "isotonic", "x": [0.1, 0.1], "y": [0, 1]}}, "x must rise"),
        ({"response": {"method": "isotonic", "x": [0.1, 0.2], "y": [0.5, 0.4]}}, "y must not fall"),
        ({"response": {"method": "isotonic", "x": [0.1, 2], "y": [0, 1]}}, "x.1: Input should be less than"),
        ({"response": {"method": "isotonic", "x": ["a"], "y": [0]}}, "x.0: Input should be a valid number"),
        (
            {"response": {"method": "isotonic", "x": [0, 1], "y": [0.1, 0.4], "threshold": 0.400001}},
            "response: scores become 0.1 to 0.4: from 0.400001 on, every text is safe",
        ),
        (
            {"prompt": {"method": "isotonic", "x": [0.5], "y": [0.7], "threshold": 0.7}},
            "prompt: scores become 0.7 to 0.7: from 0.7 on, every text is unsafe",
        ),
        ({"response": {"method": "none", "threshold": 0}}, "scores become 0 to 1: from 0 on, every text is unsafe"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "c.json", content)
    with pytest.raises(UsageError) as caught:
        Calibration.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json: cannot be read: No such file"):
        Calibration.read(tmp_path / "none.json")


def test_a_threshold_that_the_highest_score_alone_reaches(tmp_path: Path) -> None:
    table = {"method": "isotonic", "x": [0, 1], "y": [0.1, 0.4], "threshold": 0.4}
    found = Calibration.read(write(tmp_path / "c.json", {"response": table}))
    assert found.response is not None
    assert found.response.threshold == 0.4


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = Calibration(response=MAPS[2], prompt=TABLE, fitted_on={"guard": "mini"}, provenance={"rows": None})
    path = write(tmp_path / "c.json", made.text())
    found = Calibration.read(path)
    assert found.model_dump() == made.model_dump()
    assert found.sha256 == made.sha256 == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert "prompt" not in json.loads(halving().text())


def test_the_hash_is_that_of_the_file_however_it_is_written(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", json.dumps(json.loads(halving().text())))
    assert Calibration.read(path).sha256 == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


# Maps


@pytest.mark.parametrize("found", MAPS, ids=str)
@given(scores=st.lists(st.floats(0, 1), min_size=2))
def test_every_map_keeps_the_order_and_the_range(found: ScoreMap, scores: list[float]) -> None:
    mapped = found.apply(np.sort(scores))
    assert ((mapped >= 0) & (mapped <= 1)).all()
    assert (np.diff(mapped) >= 0).all()


def test_a_temperature_keeps_scores_apart_that_differ() -> None:
    scores = np.linspace(0.001, 0.999, 500)
    assert (np.diff(Platt(temperature=3.0, bias=0.5).apply(scores)) > 0).all()


@pytest.mark.parametrize(
    ("found", "score", "expected"),
    [
        (Temperature(temperature=2.0), 0.9, 0.75),
        (Temperature(temperature=1.0), 0.123457, 0.123457),
        (Platt(temperature=1.0, bias=float(np.log(3))), 0.5, 0.75),
        (Platt(temperature=2.0, bias=-float(np.log(3))), 0.9, 0.5),
        (Temperature(temperature=2.0), 0.0, 0.000999),
        (Temperature(temperature=2.0), 1.0, 0.999001),
        (Temperature(temperature=0.01), 0.0, 0.0),
        (TABLE, 0.0, 0.1),
        (TABLE, 0.3, 0.3),
        (TABLE, 0.6, 0.7),
        (TABLE, 1.0, 0.9),
        (Identity(), 0.12345678, 0.123457),
    ],
)
def test_values(found: ScoreMap, score: float, expected: float) -> None:
    assert float(found.apply(score)) == expected


def test_logit_of_nothing_and_all() -> None:
    assert logit(np.array([0.0, 1e-9, 0.5, 1.0])) == pytest.approx([-13.815510, -13.815510, 0, 13.815510], abs=1e-5)


# Whom it serves


FITTED = {"guard": "libra", "model": "a", "model_hash": "1", "prompt_sha256": "p", "threshold": 0.5}
HUB = {"guard": "libra", "model": "o/m", "adapter": None, "revision": "r", "prompt_sha256": "p"}
TUNED = HUB | {"adapter": "o/lora"}
BASED = FITTED | {"model": "lora", "base": "b", "base_hash": "2"}


@pytest.mark.parametrize(
    ("fitted", "now", "key"),
    [
        (FITTED, {"guard": "xguard"}, "guard: libra, and this guard has xguard"),
        (FITTED, {"model_hash": "2"}, "model_hash: 1, and this guard has 2"),
        (FITTED, {"model_hash": None}, "model_hash: 1, and this guard has None"),
        (FITTED, {"prompt_sha256": "q"}, "prompt_sha256: p, and this guard has q"),
        (FITTED, {"adapter": "c", "adapter_hash": "3"}, "adapter_hash: None, and this guard has 3"),
        (FITTED, {"adapter": "o/lora"}, "adapter: None, and this guard has o/lora"),
        (FITTED, {"base": "o/base"}, "base: None, and this guard has o/base"),
        (FITTED, {"policies": {"a": "b"}}, "policies: None, and this guard has .*b"),
        (BASED, {"base_hash": "3"}, "base_hash: 2, and this guard has 3"),
        (BASED, {"base_hash": None}, "base_hash: 2, and this guard has None"),
        (HUB, {"model": "o/n"}, "model: o/m, and this guard has o/n"),
        (HUB, {"revision": "s"}, "revision: r, and this guard has s"),
        (HUB, {"revision": None}, "revision: r, and this guard has None"),
        (HUB, {"model_hash": "1"}, "model_hash: None, and this guard has 1"),
        (HUB, {"adapter": "o/lora"}, "adapter: None, and this guard has o/lora"),
        (HUB, {"adapter": "c", "adapter_hash": "3"}, "adapter_hash: None, and this guard has 3"),
        (TUNED, {"adapter": "o/dora"}, "adapter: o/lora, and this guard has o/dora"),
        (TUNED, {"adapter": None}, "adapter: o/lora, and this guard has None"),
        ({"guard": "libra", "model": "a"}, {"prompt_sha256": "q"}, "prompt_sha256: None, and this guard has q"),
    ],
)
def test_another_guard_or_model(fitted: dict[str, Any], now: dict[str, Any], key: str) -> None:
    with pytest.raises(UsageError, match=f"fitted on another {key}"):
        Calibration(response=TABLE, fitted_on=fitted).check(fitted | now)


@pytest.mark.parametrize(
    ("fitted", "now"),
    [
        (FITTED, {"model": "b", "threshold": 0.9, "dtype": "float16"}),
        (BASED, {"model": "c", "base": "d"}),
        (HUB, {"device": "cuda:0", "torch": "2"}),
        (TUNED, {}),
    ],
)
def test_the_same_model_elsewhere(fitted: dict[str, Any], now: dict[str, Any]) -> None:
    Calibration(response=TABLE, fitted_on=fitted).check(fitted | now)


def test_what_tells_nothing_is_not_checked() -> None:
    Calibration(response=TABLE).check(FITTED)


def test_a_server_s_model_is_known_by_its_name() -> None:
    served = {"guard": "libra", "model": "a"}
    Calibration(response=TABLE, fitted_on=served).check(served | {"base_url": "http://other"})
    with pytest.raises(UsageError, match="fitted on another model: a, and this guard has b"):
        Calibration(response=TABLE, fitted_on=served).check(served | {"model": "b"})


# Loading


def test_words_have_no_scores(tmp_path: Path) -> None:
    words = write(tmp_path / "words.txt", "毒品\n")
    scale = write(tmp_path / "c.json", halving().text())
    with pytest.raises(UsageError, match=r"c\.json: the guard 'words' gives no scores [^;]*; leave it out with"):
        load_guard(f"words:{words}", calibration=scale)


@pytest.fixture
def folder(tokens_folder: Path, tmp_path: Path) -> Path:
    """A model of one's own, with a calibration beside it."""
    copied = Path(shutil.copytree(tokens_folder, tmp_path / "model"))
    fitted_on = load_guard(f"mini:{copied}").provenance()
    scale = Calibration(response=Isotonic(x=[0, 1], y=[0, 0.5], threshold=0.4), fitted_on=fitted_on)
    write(copied / "calibration.json", scale.text())
    return copied


def test_beside_the_model_it_is_found(folder: Path) -> None:
    judge = load_guard(f"mini:{folder}")
    assert judge.calibration is not None
    assert judge.calibration.sha256 == Calibration.read(folder / "calibration.json").sha256
    (verdict,) = judge.judge([Conversation.from_pair("水", "毒")])
    assert verdict.unsafe_score is not None
    assert 0.4 < verdict.unsafe_score < 0.5
    assert verdict.label is Label.UNSAFE


@pytest.mark.parametrize("off", [None, False])
def test_it_can_be_left_out(folder: Path, off: Any) -> None:
    judge = load_guard(f"mini:{folder}", calibration=off)
    assert (judge.calibration, judge.threshold) == (None, 0.5)


def test_it_is_no_part_of_the_model(folder: Path, tokens_folder: Path) -> None:
    assert model_hash(folder) == model_hash(tokens_folder)


def test_a_model_whose_card_is_written_again_keeps_it(folder: Path) -> None:
    for card in ("# A guard", "# A guard\n"):
        write(folder / "README.md", card)
        assert load_guard(f"mini:{folder}").calibration is not None


def test_a_file_elsewhere_goes_before(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.json", Calibration(response=Identity(threshold=0.7)).text())
    assert load_guard(f"mini:{folder}", calibration=str(other)).threshold == 0.7


def test_a_threshold_given_goes_before(folder: Path) -> None:
    judge = load_guard(f"mini:{folder}", threshold=0.45)
    assert judge.calibration is not None
    assert (judge.threshold, judge.question_threshold) == (0.45, 0.45)


@pytest.mark.parametrize("spec", ["ngram", "mini"])
def test_of_another_guard_or_model(folder: Path, spec: str) -> None:
    if spec == "mini":
        (folder / "config.json").write_text((folder / "config.json").read_text("utf-8") + " ", encoding="utf-8")
    key = {"ngram": "guard: mini, and this guard has ngram", "mini": "model_hash: sha256:"}[spec]
    with pytest.raises(UsageError) as caught:
        load_guard(f"{spec}:{folder}")
    assert str(caught.value).startswith(f"{folder / 'calibration.json'}: fitted on another {key}")
    assert str(caught.value).endswith("fit one with 'libra calibrate', or leave it out with calibration=null")
    assert load_guard(f"{spec}:{folder}", calibration=None).calibration is None


@pytest.mark.parametrize("given", [5, ["a"]])
def test_what_names_no_file(given: Any) -> None:
    with pytest.raises(UsageError, match="write the name of a file, or null"):
        load_guard("mini", calibration=given)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_guard("mini", calibration=tmp_path / "none.json")


def test_who_takes_none_names_none(tmp_path: Path) -> None:
    words = write(tmp_path / "words.txt", "毒品\n")
    with pytest.raises(UsageError, match="there is no option 'threshold': the guard 'words' has none; the backend"):
        load_guard(f"words:{words}", threshold=0.3)


def test_a_misspelt_option_is_told_of_it() -> None:
    with pytest.raises(UsageError, match="the guard 'mini' has threshold, language, calibration; the backend"):
        load_guard("mini", calibraton="x")


@pytest.fixture
def language_model(tiny_llm: Callable[..., Path], tmp_path: Path) -> Path:
    """A language model of one's own, with a calibration beside it."""
    made = tiny_llm("Qwen2", ["<|im_end|>"], chat_template="{{ messages[0].content }}")
    copied = Path(shutil.copytree(made, tmp_path / "llm"))
    write(copied / "calibration.json", halving(threshold=0.4).text())
    return copied


def test_beside_a_language_model_it_is_found(language_model: Path) -> None:
    before, after = (load_guard(f"qwen3guard:{language_model}", calibration=on) for on in (None, True))
    (raw,), (calibrated,) = before.judge([PAIR]), after.judge([PAIR])
    assert raw.unsafe_score is not None
    assert calibrated.unsafe_score == pytest.approx(raw.unsafe_score / 2, abs=1e-6)
    assert after.threshold == 0.4


def test_a_threshold_that_a_model_was_taught_goes_behind(language_model: Path) -> None:
    write(language_model / "libra_guard.json", {"threshold": 0.9})
    spec = f"libra:{language_model}"
    assert [load_guard(spec, calibration=on).threshold for on in (None, True)] == [0.9, 0.4]


def test_a_model_that_writes_its_labels_leaves_it_unused(language_model: Path) -> None:
    judge = load_guard(f"qwen3guard:{language_model}", method="generate")
    assert (judge.calibration, judge.threshold) == (None, 0.5)
    with pytest.raises(UsageError, match="gives no scores here"):
        load_guard(f"qwen3guard:{language_model}", method="generate", calibration=language_model / "calibration.json")


def test_an_adapter_has_its_own(language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What an adapter makes of the model is not what the model's own calibration was fitted on.
    monkeypatch.setattr(registry, "load_backend", lambda *_, **__: ScriptedBackend(choose={"": [1, 0, 0]}))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    spec = f"qwen3guard:{language_model}"
    assert load_guard(spec, adapter=str(adapter)).calibration is None
    write(adapter / "calibration.json", halving(threshold=0.3).text())
    assert load_guard(spec, adapter=str(adapter)).threshold == 0.3
