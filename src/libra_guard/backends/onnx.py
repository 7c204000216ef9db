"""ONNX Runtime: classifiers in a folder of ``model.onnx``, ``config.json`` and, where tokens are used, ``tokenizer.json``.

The model's own input names say what it reads: ``input_ids`` and ``attention_mask`` for an encoder, ``ngram_ids`` and
``ngram_weights`` for hashed n-grams, or both. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from libra_guard.backends.base import Backend, Span, Text
from libra_guard.backends.control_tokens import neutralise
from libra_guard.backends.ngrams import NgramFeatures
from libra_guard.errors import BackendError, UsageError
from libra_guard.records import Method

_TOKENS = {"input_ids", "attention_mask", "token_type_ids"}
_NGRAMS = {"ngram_ids", "ngram_weights"}


class OnnxBackend(Backend):
    """Runs one classifier on the CPU.

    Each text is run by itself, several side by side: dynamic quantisation takes its scale from the whole batch, so in a
    batch a verdict would depend on its neighbours; and nothing is padded.

    Args:
        model: The folder.
        threads: Texts judged side by side; by default the number of usable cores.

    Raises:
        UsageError: The folder lacks a file, or the model asks for inputs that this backend does not know.
    """

    name = "onnx"
    capabilities = frozenset({Method.LOGITS})

    def __init__(self, model: str | Path, *, threads: int | None = None) -> None:
        self.folder = Path(model)
        path = self.folder / "model.onnx"
        if not path.is_file():
            raise UsageError(f"{self.folder}: no model.onnx here; an ONNX guard is a folder that holds one")
        self.config = _read_config(self.folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises several types that share no base of its own
            raise BackendError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        self._inputs = {i.name for i in self._session.get_inputs()}
        if unknown := self._inputs - _TOKENS - _NGRAMS:
            raise UsageError(f"{path}: unknown inputs {', '.join(sorted(unknown))}")
        self._tokenizer = self._load_tokenizer() if "input_ids" in self._inputs else None
        self._ngrams = NgramFeatures(**self.config.get("ngrams", {})) if self._inputs & _NGRAMS else None
        self.context = int(self.config.get("max_length", 512)) if self._tokenizer else None
        self._threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None

    def logits(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        """See ``Backend.logits``."""
        if not texts:
            return np.zeros((0, self._session.get_outputs()[0].shape[-1]))
        # Longest first, so that no thread is left alone with a long text at the end.
        order = sorted(range(len(texts)), key=lambda i: -_size(texts[i]))
        ordered = [texts[i] for i in order]
        run = self._pool.map if self._pool and len(texts) > 1 else map
        rows = list(run(self._run, ordered))
        out = np.empty((len(texts), rows[0].shape[-1]))
        out[order] = rows
        return out

    def spans(self, texts: Sequence[str]) -> list[list[Span]]:
        """See ``Backend.spans``."""
        if self._tokenizer is None:
            return super().spans(texts)
        return [
            [Span(*o) for o in e.offsets] for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ]

    def provenance(self) -> dict[str, Any]:
        """See ``Backend.provenance``."""
        digest = hashlib.sha256((self.folder / "model.onnx").read_bytes()).hexdigest()
        return {
            "backend": self.name,
            "model": str(self.config.get("name", self.folder.name)),
            "model_sha256": digest,
            "onnxruntime": onnxruntime.__version__,
        }

    def _load_tokenizer(self) -> Tokenizer:
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise UsageError(f"{self.folder}: no tokenizer.json beside model.onnx")
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._control = tuple(t.content for t in tokenizer.get_added_tokens_decoder().values())
        return tokenizer

    def _run(self, text: Text) -> NDArray[np.float32]:
        feed: dict[str, NDArray[Any]] = {}
        if self._tokenizer is not None:
            parts = [neutralise(t, self._control) for t in ((text,) if isinstance(text, str) else text)]
            encoded = self._tokenizer.encode(*parts)
            if self.context is not None and len(encoded.ids) > self.context:
                raise BackendError(f"a text of {len(encoded.ids)} tokens where the model takes {self.context}")
            feed["input_ids"] = np.array([encoded.ids], dtype=np.int64)
            feed["attention_mask"] = np.ones_like(feed["input_ids"])
            feed["token_type_ids"] = np.array([encoded.type_ids], dtype=np.int64)
        if self._ngrams is not None:
            ids, weights = self._ngrams(text)
            feed["ngram_ids"], feed["ngram_weights"] = ids[None], weights[None]
        output = self._session.run(None, {k: v for k, v in feed.items() if k in self._inputs})[0]
        return np.asarray(output[0], dtype=np.float32)


def _size(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder}: no config.json beside model.onnx") from None
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path}: an object is needed")
    return config
