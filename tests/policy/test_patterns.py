"""Patterns that are none, that could take long, and those that are taken."""

from __future__ import annotations

import re

import pytest

from libra_guard.policy.patterns import LONGEST, WIDEST, check_pattern, compiled, occurs


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "not a regular expression: missing )"),
        ("[a", "not a regular expression: unterminated character set"),
        ("a{2,1}", "not a regular expression: min repeat greater than max"),
        ("(?z)a", "not a regular expression"),
        ("(" * 200, "not a regular expression"),
        ("a" * (LONGEST + 1), "501 characters; at most 500"),
        ("", "the pattern is empty"),
        ("\ud800", "a lone surrogate"),
        ("x?", "matches the empty text"),
        ("a|", "matches the empty text"),
        ("^", "matches the empty text"),
        ("a*b", "a repeat without end"),
        ("a+?b", "a repeat without end"),
        ("a++b", "a repeat without end"),
        ("(?=a{3,})b", "a repeat without end"),
        ("(?:(?>a+))b", "a repeat without end"),
        ("(x|a+)b", "a repeat without end"),
        ("(a+)+b", "a repeat without end"),
        ("a{0,99999999999}b", "not a regular expression"),
        ("a{1000}", "more than 200 times"),
        ("(?=a{0,201})b", "more than 200 times"),
        ("(a{100}){3}", "more than 200 characters"),
        ("(?=a{150}a{150})b", "more than 200 characters"),
        ("(?<!a{150}a{150})b", "more than 200 characters"),
        ("a{150}.{0,80}", "more than 200 characters"),
        ("(a{0,20}){0,9}b", "more than 500 ways from one place"),
        (".{0,30}a.{0,30}b", "more than 500 ways from one place"),
        # Counted out, this would be a number of gigabytes.
        ("(((((a|b){0,200}){0,200}){0,200}){0,200})c", "more than 200 characters"),
        ("(aa|a){9}b", "more than 500 ways from one place"),
        (r".{0,20}.{0,20}\w{150}z", "441 ways, up to 191 characters each"),
        (".{0,80}z", "81 ways, up to 81 characters each"),
        ("a{50}(?=b{100}(?=c{100}))", "more than 200 characters"),
        ("(?:(?=a{50})a){9}", "more than 200 characters"),
        (r"(a)\1", "references to groups"),
        (r"(a)?(?(1)b|c)", "references to groups"),
        ("（枪）", "'（' is never in a text as it is matched (NFKC): '('"),
        ("(?m)^a", "flags other than"),
        ("(?s)a.b", "flags other than"),
    ],
)
def test_patterns_that_are_not_taken(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(买|卖|出售).{0,8}(枪支|子弹)", "卖一些子弹"),
        ("枪支?", "枪"),
        (r"\bvpn\b", "A VPN here"),
        ("(?i)vpn", "VPN"),
        ("^你好$", "你好"),
        ("(aa|a){8}b", "a" * 12 + "b"),
        ("[0-9]{11}", "13800138000"),
        ("(?<!不)可以买", "可以买"),
        ("a|b(?!)", "a"),
        (r"a\b$", "a\n"),
    ],
)
def test_patterns_that_are(pattern: str, text: str) -> None:
    assert compiled(pattern).search(text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("甲.{0,60}乙", "甲" + "丙" * 60 + "乙"),
        ("甲.{0,60}乙", "甲" + "丙" * 61 + "乙"),
        (r"\bvpn\b", "vpn"),
        (r"\bvpn\b", "vpns"),
        ("(?<=甲)乙(?!丙)", "甲乙"),
        ("(?<=甲)乙(?!丙)", "甲乙丙"),
        ("甲(?=.{198}乙)", "甲" + "丁" * 198 + "乙"),
        ("乙$", "乙\n"),
        ("^乙", "乙"),
    ],
)
def test_what_stands_across_pieces_is_found_as_in_one(pattern: str, text: str) -> None:
    found = compiled(pattern)
    for before in (0, 1, 700, 799, 800, *range(996, 1004), 1940, 1999, 2001):
        for after in (0, 1, WIDEST, 1000):
            whole = "戊" * before + " " * bool(before) + text + " 己" * after
            assert occurs(found, whole) == bool(found.search(whole))
