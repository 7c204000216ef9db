from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from libra_guard.errors import UsageError
from libra_guard.train.vocabulary import trim_tokenizer

CHARACTERS = "我们你好吗今天气绿茶abction,.，。！1"
LONG = ["▁我们", "你好", "今天", "天气", "绿茶", "tion", "▁привет", "мир"]
TEXTS = ["我们今天好吗", "你好，绿茶tion", "今天天气，你好。"]
"""Of the longer pieces 今天 and 你好 stand twice in them; 我们, 绿茶 and tion once; привет never."""


def build(post_processor: str = "template", *, mask: bool = True) -> Tokenizer:
    """Foreign pieces stand before the special tokens, so that trimming moves the ids of all of them."""
    foreign = ["▁привет", "мир", "п", "и"]
    pieces = [*foreign[:2], "<s>", foreign[2], "<pad>", "</s>", "<unk>", "▁", *CHARACTERS, *LONG[:-2], foreign[3]]
    scores = [(p, -2.0 - 8.0 * (len(p) == 1) - 0.01 * i) for i, p in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=6))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    if mask:
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = {
        "template": processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 5)]
        ),
        "roberta": processors.RobertaProcessing(("</s>", 5), ("<s>", 2)),
        "bert": processors.BertProcessing(("</s>", 5), ("<s>", 2)),
    }[post_processor]
    return tokenizer


@pytest.fixture(scope="module")
def trimmed() -> tuple[Tokenizer, Tokenizer, list[int]]:
    tokenizer = build()
    return tokenizer, *trim_tokenizer(tokenizer, TEXTS, minimum=2)


@pytest.mark.parametrize("model", [models.BPE(), models.WordLevel({"a": 0}, unk_token="a")])
def test_other_kinds_are_refused(model: models.Model) -> None:
    with pytest.raises(UsageError, match=f"only Unigram .* not {type(model).__name__}: leave 'vocabulary' out"):
        trim_tokenizer(Tokenizer(model), TEXTS, minimum=1)


def test_kept_rows_are_the_old_rows(trimmed: tuple[Tokenizer, Tokenizer, list[int]]) -> None:
    old, new, kept = trimmed
    assert kept == sorted(set(kept))
    assert len(kept) == new.get_vocab_size() < old.get_vocab_size()
    assert [new.id_to_token(i) for i in range(len(kept))] == [old.id_to_token(i) for i in kept]


def test_what_goes_and_what_stays(trimmed: tuple[Tokenizer, Tokenizer, list[int]]) -> None:
    vocabulary = set(trimmed[1].get_vocab())
    assert {"<s>", "<pad>", "</s>", "<unk>", "<mask>", "▁", "今天", "你好", *CHARACTERS} <= vocabulary
    assert not vocabulary & {"▁привет", "мир", "п", "и", "▁我们", "绿茶", "tion", "天气"}


@pytest.mark.parametrize("processor", ["template", "roberta", "bert"])
@pytest.mark.parametrize("mask", [True, False])
def test_special_tokens_keep_their_places_under_new_ids(processor: str, mask: bool) -> None:
    old = build(processor, mask=mask)
    new, _ = trim_tokenizer(old, TEXTS, minimum=2)
    assert new.token_to_id("</s>") != old.token_to_id("</s>")
    for texts in (("今天你好",), ("今天", "你好")):
        before, after = old.encode(*texts), new.encode(*texts)
        assert after.tokens == before.tokens
        assert [new.id_to_token(i) for i in after.ids] == after.tokens
        assert after.type_ids == before.type_ids
    assert new.encode("Ж").tokens == old.encode("Ж").tokens
    if mask:
        assert new.encode("今天<mask>").tokens[-2] == "<mask>"


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from(CHARACTERS + " \u3000"), max_size=40))
def test_every_text_of_kept_characters_can_be_written(
    trimmed: tuple[Tokenizer, Tokenizer, list[int]], text: str
) -> None:
    old, new, _ = trimmed
    before, after = old.encode(text), new.encode(text)
    assert "<unk>" not in before.tokens
    assert "<unk>" not in after.tokens
    assert "".join(after.tokens) == "".join(before.tokens)
    if set(before.tokens) <= set(new.get_vocab()):
        assert after.tokens == before.tokens


def test_a_lower_bound_keeps_more() -> None:
    sizes = [len(trim_tokenizer(build(), TEXTS, minimum=n)[1]) for n in (1, 2, 3)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_the_tokenizer_that_was_given_stays() -> None:
    tokenizer = build()
    before = tokenizer.to_str()
    trim_tokenizer(tokenizer, TEXTS, minimum=2)
    assert tokenizer.to_str() == before


def test_a_model_without_unknown() -> None:
    state = json.loads(build().to_str())
    state["model"]["unk_id"] = None
    new, _ = trim_tokenizer(Tokenizer.from_str(json.dumps(state)), TEXTS, minimum=2)
    assert new.encode("今天").tokens == ["<s>", "▁", "今天", "</s>"]
