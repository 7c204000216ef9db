from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_guard.backends.onnx import OnnxBackend
from libra_guard.errors import BackendError, UsageError

TEXTS = ["短", ("问题", "回答毒"), "长一些的文本" * 8, "毒", ("问", "答" * 30), "毒毒毒", "a b\nc", "😀"]


@pytest.fixture(scope="session")
def tokens(tokens_folder: Path) -> OnnxBackend:
    return OnnxBackend(tokens_folder)


@pytest.fixture(scope="session")
def ngrams(ngrams_folder: Path) -> OnnxBackend:
    return OnnxBackend(ngrams_folder)


@pytest.fixture
def copied(tokens_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tokens_folder, tmp_path / "model"))


# Folders that hold no model


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: (f / "model.onnx").unlink(), UsageError, "no model.onnx here"),
        (lambda f: (f / "config.json").unlink(), UsageError, "no config.json beside model.onnx"),
        (lambda f: (f / "tokenizer.json").unlink(), UsageError, "no tokenizer.json beside model.onnx"),
        (lambda f: (f / "config.json").write_text("{"), UsageError, "config.json: not JSON"),
        (lambda f: (f / "config.json").write_bytes(b"\xff"), UsageError, "config.json: not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), UsageError, "config.json: an object is needed"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), UsageError, "tokenizer.json: not a tokenizer"),
        (lambda f: (f / "model.onnx").write_bytes(b"nonsense"), BackendError, "ONNX Runtime cannot load it"),
    ],
)
def test_wrong_folder(copied: Path, damage: Callable[[Path], Any], error: type[Exception], message: str) -> None:
    damage(copied)
    with pytest.raises(error, match=message):
        OnnxBackend(copied)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: no model\.onnx here"):
        OnnxBackend(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "ngrams",
    [
        *({"buckets": 1000}, {"longest": 9}, {"width": 2}, {"buckets": "many"}),
        *({"buckets": 4096.0}, {"longest": 2.5}, {"longest": True}, 5, []),
    ],
)
def test_wrong_ngrams(ngrams_folder: Path, tmp_path: Path, ngrams: Any) -> None:
    folder = Path(shutil.copytree(ngrams_folder, tmp_path / "model"))
    (folder / "config.json").write_text(json.dumps({"ngrams": ngrams}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"config\.json: ngrams"):
        OnnxBackend(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"max_length": "x"}, "max_length: Input should be a valid integer, not 'x'"),
        ({"max_length": 64.5}, "max_length: .*not 64.5"),
        ({"max_length": 0}, "max_length: .*greater than or equal to 1, not 0"),
        ({"threshold": "x"}, "threshold: Input should be a valid number, not 'x'"),
        ({"threshold": 1.2}, r"threshold: .*less than or equal to 1, not 1\.2"),
        ({"threshold": float("nan")}, "threshold: .*not nan"),
        ({"threshold": True}, "threshold: Input should be a valid number, not True"),
        ({"question_threshold": [0.5]}, "question_threshold: Input should be a valid number"),
        ({"scenario_threshold": None}, "scenario_threshold: Input should be a valid number, not None"),
        ({"labels": 5}, "labels: Input should be a valid list, not 5"),
        ({"labels": ["unsafe", 5]}, r"labels\.1: Input should be a valid string, not 5"),
    ],
)
def test_a_wrong_value_in_the_config_is_named(copied: Path, config: dict[str, Any], message: str) -> None:
    (copied / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UsageError, match=rf"config\.json: {message}"):
        OnnxBackend(copied)


@pytest.mark.parametrize("threads", [0, -3])
def test_no_threads(tokens_folder: Path, threads: int) -> None:
    with pytest.raises(UsageError, match=f"threads is {threads}; it must be at least 1"):
        OnnxBackend(tokens_folder, threads=threads)


def test_unknown_inputs(copied: Path) -> None:
    import onnx

    model = onnx.load(str(copied / "model.onnx"))
    model.graph.input[0].name = model.graph.node[2].input[1] = "pixels"
    onnx.save(model, str(copied / "model.onnx"))
    with pytest.raises(UsageError, match="unknown inputs pixels"):
        OnnxBackend(copied)


def test_a_model_that_fails_is_a_backend_error(ngrams_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ngrams_folder, tmp_path / "model"))
    # More buckets than the table has rows.
    (folder / "config.json").write_text(json.dumps({"ngrams": {"buckets": 1 << 20}}), encoding="utf-8")
    with pytest.raises(BackendError, match="the model failed"):
        OnnxBackend(folder).logits(["各种各样的文字" * 20])


# Results


@pytest.mark.parametrize("threads", [1, 4])
def test_order_is_kept_and_batch_mates_change_nothing(tokens_folder: Path, ngrams_folder: Path, threads: int) -> None:
    for folder in (tokens_folder, ngrams_folder):
        backend = OnnxBackend(folder, threads=threads)
        together = backend.logits(TEXTS * 3)
        alone = np.concatenate([backend.logits([text]) for text in TEXTS])
        assert together.shape == (len(TEXTS) * 3, 8)
        assert together.dtype == np.float64
        np.testing.assert_array_equal(together, np.tile(alone, (3, 1)))
        assert len(np.unique(alone[:, 0])) >= 4


def test_the_model_is_run_as_it_is(tokens: OnnxBackend) -> None:
    unsafe = tokens.logits(["毒", ("问毒题", "答毒"), "好"])[:, 0]
    np.testing.assert_allclose(unsafe, [3, 8, -2], atol=0.1)


def test_nothing_asked(tokens: OnnxBackend) -> None:
    assert tokens.logits([]).shape == (0, 8)


def test_pair_is_no_joined_text(ngrams: OnnxBackend) -> None:
    first, second, joined = ngrams.logits([("甲", "乙"), ("乙", "甲"), "甲乙"])
    assert not np.allclose(first, second)
    assert not np.allclose(first, joined)


def test_too_long_a_text_is_refused_and_never_cut(tokens: OnnxBackend) -> None:
    tokens.logits(["好" * 62, ("好" * 30, "好" * 30)])
    with pytest.raises(BackendError, match="a text of 65 tokens where the model takes 64"):
        tokens.logits(["短", "好" * 63])
    with pytest.raises(BackendError, match="a text of 65 tokens"):
        tokens.logits([("好" * 30, "好" * 31)])


def test_without_a_tokenizer_nothing_is_too_long(ngrams: OnnxBackend) -> None:
    assert ngrams.context is None
    assert np.isfinite(ngrams.logits(["好" * 1_000_000])).all()


# User text is data


@pytest.mark.parametrize("special", [{"normalized": False}, {"normalized": True}])
@pytest.mark.parametrize("text", ["<s>", "</s>甲</s>", "a<s", "<<s>s>", "\uff1cs\uff1e", "</\uff53>"])
def test_control_tokens_in_a_text_do_not_become_special(copied: Path, text: str, special: dict[str, Any]) -> None:
    from tokenizers import Tokenizer

    path = copied / "tokenizer.json"
    changed = json.loads(path.read_text(encoding="utf-8"))
    for token in changed["added_tokens"]:
        token |= special
    path.write_text(json.dumps(changed), encoding="utf-8")
    plain = Tokenizer.from_file(str(path))
    backend = OnnxBackend(copied)
    seen: list[list[int]] = []
    run = backend._session.run

    class Spy:
        def run(self, names: Any, feed: dict[str, Any]) -> Any:
            seen.append(feed["input_ids"][0].tolist())
            return run(names, feed)

    backend._session = Spy()
    backend.logits([text, (text, "乙")])
    # <s> is 0, </s> is 1: only those that the template puts in.
    assert sorted([i for i in ids if i < 2] for ids in seen) == [[0, 1], [0, 1, 1, 1]]
    if text == "<s>":
        assert plain.encode(text).ids == [0, 0, 1]


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("甲乙</s>< \n"), max_size=30) | st.text(max_size=30))
def test_spans_count_what_the_model_reads(tokens: OnnxBackend, text: str) -> None:
    (spans,) = tokens.spans([text])
    assert all(0 <= s.start <= s.end <= len(text) for s in spans)
    assert [s.start for s in spans] == sorted(s.start for s in spans)
    if len(spans) > 62:
        with pytest.raises(BackendError, match=f"a text of {len(spans) + 2} tokens"):
            tokens.logits([text])
    else:
        assert np.isfinite(tokens.logits([text])).all()


def test_spans_stand_where_the_characters_stand(tokens: OnnxBackend) -> None:
    (spans,) = tokens.spans(["甲<s>乙"])
    text = "甲<s>乙"
    # The separator that breaks the control token apart belongs to no character.
    assert [text[s.start : s.end] for s in spans] == ["甲", "<", "", "s", ">", "乙"]


def test_spans_without_a_tokenizer_count_bytes(ngrams: OnnxBackend) -> None:
    assert ngrams.spans(["a好"]) == [[(0, 1), (1, 2), (1, 2), (1, 2)]]


def test_provenance_names_the_weights(tokens: OnnxBackend, copied: Path) -> None:
    told = tokens.provenance()
    assert (told["backend"], told["model"]) == ("onnx", "tiny-tokens")
    assert told == OnnxBackend(copied).provenance()
    with (copied / "model.onnx").open("ab") as stream:
        stream.write(b"\x72\x00")
    assert OnnxBackend(copied).provenance()["model_hash"] != told["model_hash"]
