"""User text is data: strings that a model would read as control tokens are broken apart before they reach it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

KNOWN: tuple[str, ...] = (
    # ChatML and the Qwen family
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>", "<|endofprompt|>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    # Llama 3 and 4
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|python_tag|>", "<|finetune_right_pad_id|>", "<|header_start|>", "<|header_end|>", "<|eot|>", "<|eom|>"),
    # Llama 2 and Mistral
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<unk>", "<pad>"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    *("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]"),
    # Gemma
    *("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<start_of_image>", "<end_of_image>"),
    # gpt-oss
    *("<|startoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>"),
    *("<|return|>", "<|call|>"),
    # DeepSeek (its bars and blanks are not ASCII)
    *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"),
    # GLM, Phi, InternLM, Granite, Cohere
    *("[gMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<eoh>", "<eoa>"),
    *("<|start_of_role|>", "<|end_of_role|>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    *("<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
)
"""Control tokens of common model families, for servers whose tokenizer cannot be seen."""


class _Table(NamedTuple):
    firsts: re.Pattern[str]
    by_first: dict[str, tuple[str, ...]]
    separator: str


def breaks(text: str, tokens: Sequence[str]) -> list[int]:
    """Positions in ``text`` that a separator must precede for no token to be left, ascending."""
    table = _table(tuple(tokens))
    starts = (match.start() for match in table.firsts.finditer(text))
    return [start + 1 for start in starts if text.startswith(table.by_first[text[start]], start)]


def neutralise(text: str, tokens: Sequence[str]) -> str:
    """Breaks every control token in a text apart, with a space after its first character.

    All occurrences are broken, overlapping ones too, so one pass leaves none: the separator is a character of no
    token, hence a token in the result would stand between two separators and so, unbroken, in ``text``.

    Args:
        text: The user's text.
        tokens: Texts of the control tokens. One character cannot be broken apart, and white space does not
            structure a prompt: such tokens are left alone.

    Returns:
        The text, byte for byte as it was but for the separators.
    """
    cuts = breaks(text, tokens)
    if not cuts:
        return text
    ends = [*cuts[1:], len(text)]
    separator = _table(tuple(tokens)).separator
    return text[: cuts[0]] + "".join(separator + text[a:b] for a, b in zip(cuts, ends, strict=True))


@lru_cache(maxsize=32)
def _table(tokens: tuple[str, ...]) -> _Table:
    """Tokens by first character, for vocabularies of thousands of them."""
    by_first: dict[str, tuple[str, ...]] = {}
    for token in dict.fromkeys(tokens):
        if len(token) > 1 and not token.isspace():
            by_first[token[0]] = (*by_first.get(token[0], ()), token)
    # Without a token the pattern matches nothing.
    firsts = re.compile("[" + re.escape("".join(by_first)) + "]" if by_first else r"(?!)")
    used = {character for many in by_first.values() for token in many for character in token}
    # A token may hold a space itself; private-use characters are the last resort.
    candidates = (" ", "\u200b", *map(chr, range(0xE000, 0xF900)))
    return _Table(firsts, by_first, next(c for c in candidates if c not in used))
