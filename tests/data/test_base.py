import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_guard.data.base import POST_REQUEST, normalise_question, question_bucket, split_text
from libra_guard.records import Label, Sample


@pytest.mark.parametrize(
    ("question", "plain"),
    [
        ("", ""),
        ("？！ …", ""),
        ("\ud800你", "你"),
        ("如何 泡茶？", "如何泡茶"),
        ("如何泡茶", "如何泡茶"),
        ("Ｗｉ-Fi 5Ｇ！", "wifi5g"),
        ("①②", "12"),
    ],
)
def test_a_question_is_normalised_to_letters_and_digits(question, plain):
    assert normalise_question(question) == plain


def test_the_bucket_is_sha1_of_the_normalised_question():
    expected = int(hashlib.sha1("如何泡茶".encode()).hexdigest(), 16)
    assert question_bucket("如何 泡茶？") == expected % 10
    assert question_bucket("如何泡茶", buckets=7) == expected % 7


@given(st.text(), st.integers(1, 50))
def test_the_bucket_is_in_range_and_blind_to_punctuation(question, buckets):
    bucket = question_bucket(question, buckets)
    assert 0 <= bucket < buckets
    assert bucket == question_bucket(f" {question}？", buckets)


def test_posts_are_split_by_the_post():
    post = Sample.model_validate({"question": POST_REQUEST, "response": "今天天气好", "label": "安全", "form": "post"})
    pair = Sample(question="你好", response="你好呀", label=Label.SAFE)
    assert (split_text(post), split_text(pair)) == ("今天天气好", "你好")
