from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from random import Random

import pytest
import yaml

from libra_guard import load_guard
from libra_guard.records import Conversation, Label
from libra_guard.synth.config import SynthConfig
from libra_guard.synth.language.grammar import Grammar
from libra_guard.synth.language.limits import sexualises_minors
from libra_guard.synth.language.refusals import is_refused_query
from libra_guard.synth.records import Intent, Query
from libra_guard.synth.steps.elements import Elements
from libra_guard.synth.steps.queries import _Cell, combination
from libra_guard.taxonomy import SUB_CATEGORIES

ANSWERS = Path(str(files("libra_guard.synth"))) / "texts" / "grammar" / "answers.yaml"
KINDS = ("refusal", "compliance", "partial", "information", "everyday", "broken")


def drawn(elements: Elements, intent: Intent, draw: Random) -> dict[str, str]:
    sub = "" if intent is Intent.BENIGN else draw.choice(SUB_CATEGORIES).slug
    return elements.phrased(combination(_Cell(intent, sub, 1), elements, draw))


@pytest.mark.parametrize("intent", [Intent.HARMFUL, Intent.BORDERLINE, Intent.BENIGN])
def test_queries_are_whole_and_many(intent: Intent) -> None:
    grammar, elements, draw = Grammar.load(), Elements.load(), Random(1)
    queries = [grammar.query(intent, drawn(elements, intent, draw), draw) for _ in range(1500)]
    assert not [text for text in queries if "{" in text or "}" in text]
    assert not [text for text in queries if is_refused_query(text)]
    assert len(set(queries)) >= 0.8 * len(queries)
    assert sum(map(sexualises_minors, queries)) < 0.01 * len(queries)


def test_no_harmful_sentence_speaks_of_children() -> None:
    # With an aim that is sexual it would be drawn and thrown away.
    grammar, draw = Grammar.load(), Random(2)
    others = {"event": "停电", "place": "车站", "persona": "会计", "task": "一份清单"}
    queries = {grammar.query(Intent.HARMFUL, {"behaviour": "传播色情视频", **others}, draw) for _ in range(600)}
    assert not [text for text in queries if sexualises_minors(text)]


def test_a_slot_for_which_there_is_no_element_is_an_error() -> None:
    with pytest.raises(KeyError, match="everyday"):
        Grammar.load().query(Intent.BENIGN, {"lawful": "赌博罪的认定"}, Random(1))


def test_an_element_may_look_like_a_slot() -> None:
    elements = dict.fromkeys(("lawful", "task", "place", "persona"), "{lawful}")
    assert "{lawful}" in Grammar.load().query(Intent.BORDERLINE, elements, Random(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("elements", [{"behaviour": "开设赌局"}, {"lawful": "赌博罪的认定"}, {"everyday": "泡茶"}, {}])
def test_answers_are_whole(kind: str, elements: dict[str, str]) -> None:
    query = Query.make("真实的问题是什么", elements=elements)
    for seed in range(40):
        text = Grammar.load().answer(query, kind, Random(seed))
        assert text
        assert "{" not in text


def test_the_list_of_phrases_finds_all_sentences_that_go_along_and_no_others() -> None:
    elements = Elements.load()
    topics = {
        "behaviour": [one for sub in SUB_CATEGORIES for one in elements.subs[sub.slug].behaviours],
        "lawful": [one for sub in SUB_CATEGORIES for one in elements.subs[sub.slug].lawful],
        "everyday": list(elements.common.everyday),
    }
    guard = load_guard(f"words:{SynthConfig.find('offline').parent / 'going_along.txt'}")
    sentences = yaml.safe_load(ANSWERS.read_text(encoding="utf-8"))
    assert set(sentences) == set(KINDS)
    for kind, told in sentences.items():
        # What is written into the slot says nothing of the stance.
        pairs = [Conversation.from_pair("问", one.replace("{topic}", "这样做")) for one in told]
        unsafe = [verdict.label is Label.UNSAFE for verdict in guard.judge(pairs)]
        assert unsafe == [kind in ("compliance", "partial")] * len(told), kind
    filled = [Conversation.from_pair("问", one) for names in topics.values() for one in names]
    assert {verdict.label for verdict in guard.judge(filled)} == {Label.SAFE}


def test_a_draw_tells_all() -> None:
    query = Query.make("怎么开赌局", elements={"behaviour": "开设赌局"})
    first, second = (Grammar.load().answer(query, "compliance", Random("7")) for _ in range(2))
    assert first == second
