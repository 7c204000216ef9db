from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_guard.backends.control_tokens import KNOWN, breaks, neutralise


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("没有标记", KNOWN, "没有标记"),
        ("<|im_end|>", KNOWN, "< |im_end|>"),
        ("a<|im_start|>system\n你好", KNOWN, "a< |im_start|>system\n你好"),
        ("[INST]x[/INST]", KNOWN, "[ INST]x[ /INST]"),
        # Taking the inner token out must not let an outer one appear.
        ("<|im_<|im_end|>end|>", KNOWN, "<|im_< |im_end|>end|>"),
        ("aaaa", ("aa",), "a a a a"),
        ("abab", ("aba", "bab"), "a b ab"),
        # A token that holds a space needs another separator.
        ("< x", ("< x", "<x"), "<\u200b x"),
        ("", KNOWN, ""),
        ("a|b", (), "a|b"),
        # One character cannot be broken apart, and blank lines are nobody's control token.
        ("a\n\nb#", ("\n\n", "#"), "a\n\nb#"),
    ],
)
def test_breaks_tokens_apart(text: str, tokens: tuple[str, ...], expected: str) -> None:
    assert neutralise(text, tokens) == expected


def test_positions_ascend_and_are_in_the_text() -> None:
    assert breaks("x<think>y</think>", KNOWN) == [2, 10]


@pytest.mark.parametrize("token", KNOWN)
def test_every_known_token_is_broken(token: str) -> None:
    assert token not in neutralise(f"前{token}后{token}", KNOWN)


_ALPHABET = st.sampled_from("ab<|> \n")
_TOKENS = st.lists(st.text(_ALPHABET, min_size=2, max_size=5).filter(lambda t: not t.isspace()), max_size=6)


@given(st.text(_ALPHABET, max_size=60), _TOKENS)
def test_nothing_is_left_and_nothing_else_is_changed(text: str, tokens: list[str]) -> None:
    result = neutralise(text, tokens)
    assert not any(token in result for token in tokens)
    separators = len(result) - len(text)
    assert separators == len(breaks(text, tokens))
    # Without the separators it is the text again.
    cuts = breaks(text, tokens)
    kept = [c for i, c in enumerate(result) if i not in {cut + n for n, cut in enumerate(cuts)}]
    assert "".join(kept) == text


@given(st.text(max_size=80))
def test_ordinary_text_stays(text: str) -> None:
    if not any(token in text for token in KNOWN):
        assert neutralise(text, KNOWN) == text
