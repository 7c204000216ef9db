"""Cutting a multilingual Unigram vocabulary down to what Chinese and Latin text needs.

Most of a multilingual encoder's weights are embeddings of other scripts (after Abdaoui et al., 2020, arXiv:2010.05609).
Kept are the special tokens, every single character of Chinese, Latin and punctuation, and the longer pieces that the
training texts use. Every text can still be written, in smaller pieces at worst.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from libra_guard.errors import UsageError

_WORD_START = "▁"
_CHUNK = 2000
_ALWAYS = ((0x20, 0x24F), (0x2000, 0x206F), (0x3000, 0x303F), (0x4E00, 0x9FFF), (0xFF00, 0xFFEF))
"""Blocks whose single characters are all kept: Latin, general and CJK punctuation, unified ideographs, full width."""


def trim_tokenizer(tokenizer: Tokenizer, texts: Sequence[str], *, minimum: int) -> tuple[Tokenizer, list[int]]:
    """Keeps what is needed.

    Args:
        tokenizer: With a Unigram model.
        texts: Training texts.
        minimum: Longer pieces seen less often go.

    Returns:
        The smaller tokenizer, and the old ids that it kept, in their old order: row ``n`` of the new embedding is row
        ``kept[n]`` of the old.

    Raises:
        UsageError: The tokenizer is of another kind.
    """
    state = json.loads(tokenizer.to_str())
    if state["model"]["type"] != "Unigram":
        raise UsageError(f"only Unigram vocabularies are trimmed, not {state['model']['type']}: leave 'vocabulary' out")
    counts: Counter[int] = Counter()
    for start in range(0, len(texts), _CHUNK):
        for encoded in tokenizer.encode_batch(list(texts[start : start + _CHUNK]), add_special_tokens=False):
            counts.update(encoded.ids)
    special = {token["id"] for token in state["added_tokens"]} | {state["model"]["unk_id"]}
    vocabulary = state["model"]["vocab"]
    kept = [i for i, (piece, _) in enumerate(vocabulary) if i in special or _needed(piece, counts[i], minimum)]
    state["model"]["vocab"] = [vocabulary[i] for i in kept]
    # Tokens that were added to the model's own are numbered after them.
    kept += sorted(token["id"] for token in state["added_tokens"] if token["id"] >= len(vocabulary))
    new = {old: n for n, old in enumerate(kept)}
    if state["model"]["unk_id"] is not None:
        state["model"]["unk_id"] = new[state["model"]["unk_id"]]
    for token in state["added_tokens"]:
        token["id"] = new[token["id"]]
    _renumber(state["post_processor"], new)
    return Tokenizer.from_str(json.dumps(state, ensure_ascii=False)), kept


def _needed(piece: str, count: int, minimum: int) -> bool:
    text = piece.replace(_WORD_START, "")
    if len(text) <= 1:
        common = not text or any(low <= ord(text) <= high for low, high in _ALWAYS)
        return common or count >= (1 if unicodedata.category(text)[0] in "SP" else minimum)
    return count >= minimum


def _renumber(node: Any, new: dict[int, int]) -> None:
    """Puts new ids into a post-processor, wherever it names special tokens."""
    if isinstance(node, dict):
        for name in ("sep", "cls"):
            if isinstance(node.get(name), list):
                token, old = node[name]
                node[name] = [token, new[old]]
        if isinstance(node.get("ids"), list):
            node["ids"] = [new[i] for i in node["ids"]]
        for value in node.values():
            _renumber(value, new)
    elif isinstance(node, list):
        for value in node:
            _renumber(value, new)
