"""ONNX Runtime: classifiers in a folder of ``model.onnx``, ``config.json`` and, where needed, ``tokenizer.json``.

The model's own input names say what it reads: ``input_ids`` and ``attention_mask`` for an encoder, ``ngram_ids`` and
``ngram_weights`` for hashed n-grams, or both. Needs no torch.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from libra_guard.backends._options import at_least
from libra_guard.backends.base import Backend, Span, Text
from libra_guard.backends.classifier_config import ClassifierConfig
from libra_guard.backends.control_tokens import breaks, neutralise
from libra_guard.backends.ngrams import NgramFeatures
from libra_guard.configuration import read_object
from libra_guard.errors import BackendError, RefusedError, UsageError
from libra_guard.io import model_hash
from libra_guard.records import Method

_TOKENS = {"input_ids", "attention_mask", "token_type_ids"}
_NGRAMS = {"ngram_ids", "ngram_weights"}
_SLOWER = ["SkipLayerNormFusion"]
"""The fused sum and normalisation takes ten times as long as the two by themselves; see docs/log.md."""


class OnnxBackend(Backend):
    """Runs one classifier on the CPU.

    Each text is run by itself, several side by side: dynamic quantisation takes its scale from the whole batch, so in a
    batch a verdict would depend on its neighbours; and nothing is padded.

    Args:
        model: The folder.
        threads: Texts judged side by side; by default the number of usable cores.

    Raises:
        UsageError: The folder lacks a file, its config.json has a wrong value, the model asks for inputs that this
            backend does not know, or there are to be no threads.
        BackendError: ONNX Runtime cannot load the model.
    """

    name = "onnx"
    capabilities = frozenset({Method.LOGITS})

    def __init__(self, model: str | Path, *, threads: int | None = None) -> None:
        at_least(1, threads=threads)
        self.folder = Path(model)
        path = self.folder / "model.onnx"
        if not path.is_file():
            raise UsageError(f"{self.folder}: no model.onnx here; an ONNX guard is a folder that holds one")
        self.config = _read_config(self.folder)
        known = ClassifierConfig.of(self.config, self.folder / "config.json")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOWER
            )
        except Exception as error:  # onnxruntime raises several types that share no base of its own
            raise BackendError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        self._inputs = {i.name for i in self._session.get_inputs()}
        if unknown := self._inputs - _TOKENS - _NGRAMS:
            raise UsageError(f"{path}: unknown inputs {', '.join(sorted(unknown))}")
        self._tokenizer = self._load_tokenizer() if "input_ids" in self._inputs else None
        self._ngrams = self._load_ngrams(known) if self._inputs & _NGRAMS else None
        self.context = known.max_length if self._tokenizer else None
        self._threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None

    def logits(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        """See ``Backend.logits``."""
        if not texts:
            width = self._session.get_outputs()[0].shape[-1]
            return np.zeros((0, width if isinstance(width, int) else 0))
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
        inert = [neutralise(text, self._control) for text in texts]
        encoded = self._tokenizer.encode_batch(inert, add_special_tokens=False)
        return [
            _in_original([Span(*o) for o in e.offsets], breaks(text, self._control))
            for text, e in zip(texts, encoded, strict=True)
        ]

    def provenance(self) -> dict[str, Any]:
        """See ``Backend.provenance``."""
        return {
            "backend": self.name,
            "model": str(self.config.get("name", self.folder.name)),
            "model_hash": model_hash(self.folder),
            "onnxruntime": onnxruntime.__version__,
        }

    def _load_tokenizer(self) -> Tokenizer:
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise UsageError(f"{self.folder}: no tokenizer.json beside model.onnx")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain exceptions
            raise UsageError(f"{path}: not a tokenizer: {error}") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # Special tokens are looked for after normalising, which may make one out of other characters.
        tokenizer.encode_special_tokens = True
        self._control = tuple(t.content for t in tokenizer.get_added_tokens_decoder().values())
        return tokenizer

    def _load_ngrams(self, known: ClassifierConfig) -> NgramFeatures:
        try:
            return NgramFeatures(**known.ngrams)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{self.folder / 'config.json'}: ngrams: {error}") from None

    def inputs(self, text: Text) -> dict[str, NDArray[Any]]:
        """What the model is given for a text, by the names of its inputs.

        Raises:
            RefusedError: The text is longer than the model's context.
        """
        feed: dict[str, NDArray[Any]] = {}
        if self._tokenizer is not None:
            first, *second = (neutralise(t, self._control) for t in ((text,) if isinstance(text, str) else text))
            encoded = self._tokenizer.encode(first, second[0] if second else None)
            if self.context is not None and len(encoded.ids) > self.context:
                raise RefusedError(f"a text of {len(encoded.ids)} tokens where the model takes {self.context}")
            feed["input_ids"] = np.array([encoded.ids], dtype=np.int64)
            feed["attention_mask"] = np.ones_like(feed["input_ids"])
            feed["token_type_ids"] = np.array([encoded.type_ids], dtype=np.int64)
        if self._ngrams is not None:
            ids, weights = self._ngrams(text)
            feed["ngram_ids"], feed["ngram_weights"] = ids[None], weights[None]
        return {k: v for k, v in feed.items() if k in self._inputs}

    def _run(self, text: Text) -> NDArray[np.float32]:
        feed = self.inputs(text)
        try:
            output = self._session.run(None, feed)[0]
        except Exception as error:  # onnxruntime raises several types that share no base of its own
            raise BackendError(f"{self.folder}: the model failed: {error}") from error
        return np.asarray(output[0], dtype=np.float32)


def _in_original(spans: list[Span], cuts: Sequence[int]) -> list[Span]:
    """Spans in a neutralised text as spans in the text without its separators, which were put in at ``cuts``."""
    separators = [cut + i for i, cut in enumerate(cuts)]
    return [Span(s.start - bisect_left(separators, s.start), s.end - bisect_left(separators, s.end)) for s in spans]


def _size(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise UsageError(f"{folder}: no config.json beside model.onnx")
    return read_object(path)
