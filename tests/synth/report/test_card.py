"""The card of a small run, its figures counted by hand."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from libra_guard.data.base import split_of
from libra_guard.records import Sample
from libra_guard.synth.config import SynthConfig
from libra_guard.synth.report.card import CardFigures, LeftOut, figures, render, write_card
from libra_guard.synth.seats.budget import Usage
from libra_guard.taxonomy import SUB_CATEGORIES

CRIME, GAMBLING, CYBER = "Illegal Activities and Crime", "Gambling", "Cybersecurity"


def config(**changes):
    seats = {"writer": "qwen", "responders": ["qwen", "gemma"], "judges": [{"guard": "mini"}, {"guard": "words:w.txt"}]}
    models = {name: {"backend": "scripted", "model": name} for name in ("qwen", "gemma")}
    settings = {"name": "toy", "seats": seats, "models": models} | changes
    return SynthConfig.model_validate(settings)


def votes(signs):
    labels = {"u": "不安全", "s": "安全", "-": None}
    return [{"judge": name, "label": labels[sign]} for name, sign in zip(("mini", "words"), signs, strict=True)]


def sample(number, signs="uu", **fields):
    told = {
        "source": "Synthetic Data",
        "category_name": CRIME,
        "sub_category_name": GAMBLING,
        "question": f"第{number}问",
        "response": "答" * (number + 1),
        "label": "不安全",
        "id": f"a-{number}",
        "label_by": "agreement",
        "intent": "harmful",
        "origin": "synthetic",
        "set": "",
        "responder": "qwen",
        "refused": False,
        "votes": votes(signs),
        "arbiter": None,
        "root_question": f"第{number}问",
    }
    return Sample.model_validate(told | fields)


STAGE1 = [
    sample(0),
    sample(1),
    sample(2, "ss", label="安全", refused=True, cut=True),
    sample(2, "ss", label="安全", responder="gemma", id="b-2", response="好好好"),
    sample(4, "ss", label="安全", category_name="", sub_category_name="", intent="benign"),
]
STAGE2 = [
    sample(5, "us", sub_category_name=CYBER, arbiter={"judge": "big", "label": "不安全"}, label_by="arbiter"),
]
LEFT_OUT = [LeftOut(sample(6, "u-"), "the judges differ, and no arbiter decides")]
REJECTS = {
    "queries": {"not JSON: line 1": 2, "not JSON: line 2": 1},
    "dedup": {"near-duplicate of q-12": 4, "near-duplicate of q-13": 1},
    "respond": {},
}
USAGE = {"qwen": Usage(calls=3, prompt_tokens=1200, new_tokens=34, money=0.1 + 0.2), "big": Usage(calls=1)}


def made(stage1=STAGE1, stage2=STAGE2, left_out=LEFT_OUT, rejects=REJECTS, usage=USAGE, **changes):
    return figures(stage1, stage2, left_out, rejects, usage, config(**changes))


def head(text):
    _, front, _ = text.split("---\n", 2)
    return yaml.safe_load(front)


# Figures


def test_counts():
    stage1, stage2 = made().stages.values()
    assert (stage1.rows, stage1.questions, stage1.labels, stage1.unsafe_share) == (5, 4, {"安全": 3, "不安全": 2}, 0.4)
    assert stage1.counts["scenario"] == {CRIME: {"安全": 2, "不安全": 2}, "(none)": {"安全": 1, "不安全": 0}}
    assert stage1.counts["sub_category"] == {GAMBLING: {"安全": 2, "不安全": 2}, "(none)": {"安全": 1, "不安全": 0}}
    assert stage1.counts["intent"] == {"benign": {"安全": 1, "不安全": 0}, "harmful": {"安全": 2, "不安全": 2}}
    assert stage1.counts["responder"] == {"gemma": {"安全": 1, "不安全": 0}, "qwen": {"安全": 2, "不安全": 2}}
    assert stage2.counts["origin"] == {"synthetic": {"安全": 0, "不安全": 1}}
    assert stage2.counts["label_by"] == {"arbiter": {"安全": 0, "不安全": 1}}
    assert stage1.lengths["response"].model_dump() == {"median": 3, "p95": 5, "longest": 5}
    assert stage1.lengths["question"].longest == 3


def test_the_95th_percentile_is_that_of_the_nearest_rank():
    rows = [sample(number) for number in range(40)]
    assert made(stage1=rows).stages["stage1"].lengths["response"].model_dump() == {
        "median": 20.5,
        "p95": 38,
        "longest": 40,
    }


def test_splits_are_those_of_the_root_questions():
    rows = [sample(0, question=f"改写{i}", root_question="根") for i in range(9)]
    assert made(stage1=rows).stages["stage1"].splits == {split_of("根"): 9}


def test_the_card_says_under_whose_terms_the_imported_questions_stand():
    about = {
        "set": "s-eval",
        "file": "zh.jsonl",
        "licence": "CC BY-NC-SA 4.0",
        "address": "https://example.org",
        "revision": "",
        "repeated": 3,
    }
    found = figures(STAGE1, STAGE2, LEFT_OUT, REJECTS, USAGE, config(), sets=[about])
    assert "| s-eval | zh.jsonl | CC BY-NC-SA 4.0 | https://example.org | – | 3 |" in render(found)
    assert "terms of their publishers" not in render(made())


def test_the_card_says_who_judged_and_on_what():
    own = {"seat": "judge", "name": "mini", "guard": "mini", "backend": "onnx", "model": "", "hash": "sha256:12ab"}
    last = {"seat": "arbiter", "name": "libra:g", "guard": "libra", "backend": "openai", "model": "gpt-4o", "hash": ""}
    last |= {"prompt": "libra@0123abcd", "seed": 42}
    text = render(figures(STAGE1, STAGE2, LEFT_OUT, REJECTS, USAGE, config(), sitting=[own, last]))
    assert "| mini | judge | mini | bundled | onnx | sha256:12ab | – | – |" in text
    assert "| libra:g | arbiter | libra | gpt-4o | openai | – | libra@0123abcd | 42 |" in text


def test_the_card_shows_labels_beside_the_way_in_which_the_grammar_answered():
    ways = ("compliance", "compliance", "refusal", "refusal", "everyday")
    rows = [
        row.model_copy(update={"made_by": [{"step": "respond", "method": way}, {"step": "annotate", "method": ""}]})
        for row, way in zip(STAGE1, ways, strict=True)
    ]
    text = render(made(stage1=rows))
    assert "| answer | compliance | 0 | 2 | 100.0 % |" in text
    assert "| answer | refusal | 2 | 0 | 0.0 % |" in text
    assert "| answer |" not in render(made())


def test_the_card_says_what_labels_of_answers_of_the_grammar_rest_on():
    judges = [{"guard": "mini"}, {"guard": "words:w.txt"}]
    seats = {"writer": "grammar", "responders": ["grammar"], "judges": judges, "arbiter": judges[1]}
    text = render(made(seats=seats, for_trying=True))
    assert "**Where the judges differ, one of them decides: the label is that of words:w.txt.**" in text
    assert "the unsafe ones are so by their stance alone" in text
    for told in ("one of them decides", "by their stance alone"):
        assert told not in render(made())


def test_the_card_says_where_few_models_answer():
    assert "**Few responders: 2; a set to train on wants 3 or more, of different families" in render(made())
    names = ("qwen", "gemma", "llama")
    models = {name: {"backend": "scripted", "model": name} for name in names}
    seats = {"responders": list(names), "judges": [{"guard": "mini"}, {"guard": "words:w.txt"}]}
    assert "Few responders" not in render(made(models=models, seats=seats))


def test_the_table_shows_the_sub_categories_that_were_asked_for_or_are_there():
    shown = render(made(queries={"only": ["Pornography"]}))
    table = shown.partition("## Coverage")[2].partition("Evenness")[0]
    names = re.findall(r"^\| ([A-Z][\w ]+?)(?: \*\*\(few\)\*\*)? \|", table, re.MULTILINE)
    assert set(names) == {GAMBLING, CYBER, "Pornography"}


def test_coverage():
    found = made()
    # Five rows of 39 wanted sub-categories: half of an equal share is less than one row.
    assert len(found.starved) == len(SUB_CATEGORIES) - 2
    assert found.one_sided == [CYBER]
    few = made(queries={"only": [GAMBLING, CYBER, "Pornography"]})
    assert few.starved == {"Pornography": 0}
    # Rows 4 : 1 : 0 of three.
    assert few.evenness == pytest.approx(0.4555, abs=1e-4)
    two = made(stage1=[*STAGE1, *STAGE1], queries={"only": [GAMBLING, CYBER]})
    assert two.starved == {CYBER: 1}
    assert made(queries={"only": [GAMBLING]}).evenness is None


def test_what_several_responders_say_counts_once_in_the_agreement_and_for_each_of_them_in_the_answers():
    twice = LeftOut(sample(0, responder="gemma", id="b-0", refused=True), "another responder's answer, word for word")
    found = made(left_out=[*LEFT_OUT, twice])
    assert found.agreement == made().agreement
    assert (found.responses["gemma"].answers, found.responses["gemma"].refused) == (2, 1)


def test_agreement_is_over_all_judged_pairs():
    found = made().agreement
    assert (found.rows, found.agreed, found.differ, found.unreadable) == (7, 5, 1, 1)
    assert found.judges["words"].unreadable == 1
    # Same on 5 of 6; by chance 3/6 · 2/6 + 3/6 · 4/6 = 1/2.
    assert found.pairs[0].kappa == pytest.approx(2 / 3, abs=1e-4)
    assert [(pair.first, pair.second, pair.observed) for pair in found.pairs[1:]] == [
        ("mini", "big", 1),
        ("words", "big", 0),
    ]


def test_refused_and_cut_answers_are_over_all_judged_pairs():
    found = {name: (one.refused, one.cut, one.answers) for name, one in made().responses.items()}
    assert found == {"gemma": (0, 0, 1), "qwen": (1, 1, 6)}


def test_questions_count_once_and_answers_as_often_as_they_stand():
    found = made().diversity
    assert (found["questions"].texts, found["responses"].texts) == (5, 6)


def test_rejects_are_counted_by_kind():
    found = made()
    assert found.rejects == {"queries": {"not JSON": 3}, "dedup": {"near-duplicate of …": 5}}
    assert found.left_out == {"the judges differ, and no arbiter decides": 1}


def test_money_has_no_digits_that_hang_on_the_order_of_a_sum():
    assert made().usage["qwen"] == Usage(calls=3, prompt_tokens=1200, new_tokens=34, money=0.3)


def test_the_order_of_the_rows_does_not_matter():
    assert made(stage1=STAGE1[::-1], usage=dict(reversed(USAGE.items()))) == made()


def test_a_run_that_made_nothing():
    found = made([], [], [], {}, {})
    assert found.stages["stage1"].unsafe_share is None
    assert (found.evenness, len(found.starved)) == (None, len(SUB_CATEGORIES))
    text = render(found)
    assert "configs" not in head(text)
    assert "Cost" not in text


# The card


def test_the_head_names_the_files_that_are_there():
    front = head(render(made(licence="Apache-2.0")))
    assert (front["license"], front["language"], front["size_categories"]) == ("apache-2.0", ["zh"], ["n<1K"])
    names = [{split_of(str(row.question)) for row in stage} for stage in (STAGE1, STAGE2)]
    assert [config["config_name"] for config in front["configs"]] == ["stage1", "stage2"]
    for config_, stage, splits in zip(front["configs"], ("stage1", "stage2"), names, strict=True):
        assert {one["split"]: one["path"] for one in config_["data_files"]} == {s: f"{stage}/{s}.jsonl" for s in splits}
    assert [c["config_name"] for c in head(render(made(stage2=[])))["configs"]] == ["stage1"]


@pytest.mark.parametrize(("rows", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**7, "n>10M")])
def test_size_category(rows, size):
    found = made()
    stages = {name: stage.model_copy(update={"rows": 0}) for name, stage in found.stages.items()}
    stages["stage1"] = stages["stage1"].model_copy(update={"rows": rows})
    assert head(render(found.model_copy(update={"stages": stages})))["size_categories"] == [size]


def test_what_is_for_trying_is_marked():
    told = "> **For trying the pipeline, not for training a guard: written by "
    assert told not in render(made())
    offline = config().seats.model_dump(mode="json") | {"writer": "grammar"}
    assert f"{told}grammar, answered by " in render(made(seats=offline))
    assert "judged by mini, words:w.txt.**" in render(made(seats=offline))
    # A model that is only there to be tried is marked by the settings.
    assert told in render(made(for_trying=True))
    assert {name: SynthConfig.read(name).offline for name in SynthConfig.bundled_names()} == {
        "local-lm": True,
        "offline": True,
        "servers": False,
    }


@pytest.mark.parametrize(
    "line",
    [
        "| stage1 | 5 | 4 | 3 | 2 | 40.0 % |",
        "| the judges differ, and no arbiter decides | 1 |",
        "| responder | qwen | 2 | 2 | 50.0 % |",
        "| Gambling | 2 | 2 | 0 | 0 |",
        "| Cybersecurity | 0 | 0 | 0 | 1 |",
        "| Pornography **(few)** | 0 | 0 | 0 | 0 |",
        "Less than half of an equal share: Pornography (0).",
        "Rows of one label alone: Cybersecurity.",
        "all judges gave one label on 5 (71.4 %), differed on 1,",
        "| words | 7 | 4 | 2 | 0 | 1 |",
        "| mini – words | 6 | 0.833 | 0.667 |",
        "| qwen | 6 | 16.7 % |",
        "| dedup | near-duplicate of … | 5 |",
        "| qwen | 3 | 1,200 | 34 | 0.300 |",
        '  "name": "toy",',
    ],
)
def test_what_the_card_says(line):
    assert line in render(made(queries={"only": [GAMBLING, CYBER, "Pornography"]}))


def test_names_cannot_break_a_table_or_the_head():
    hostile = "a|b\n| <script>"
    text = render(
        made([sample(0, responder=hostile)], left_out=[], usage={hostile: Usage()}, licence='x"\ntags: [y]\n---')
    )
    assert head(text)["tags"] == ["safety", "guardrails", "content-moderation", "synthetic"]
    assert head(text)["license"] == 'x"\ntags: [y]\n---'
    assert "| responder | a\\|b \\| &lt;script> | 0 | 1 | 100.0 % |" in text
    assert "<script>" not in text


def test_the_card_tells_no_secrets_and_no_addresses():
    options = {"api_key": "s3cret", "headers": {"auth_token": "s3cret", "version": 7}}
    one = {"backend": "openai", "model": "qwen", "endpoints": ["http://s3cret:8000/v1"], "options": options}
    found = made(models={"qwen": one, "gemma": one})
    assert found.config["models"]["qwen"]["options"] == {"headers": {"version": 7}}
    assert "s3cret" not in found.model_dump_json() + render(found)


def test_every_table_has_rows_of_one_width():
    block: set[int] = set()
    for line in [*render(made()).splitlines(), ""]:
        if line.startswith("|"):
            block.add(line.replace("\\|", "").rstrip().count("|"))
        else:
            assert len(block) < 2, line
            block = set()


def test_files_have_the_same_bytes_again(tmp_path):
    for folder in ("a", "b"):
        write_card(tmp_path / folder, made())
    for name in ("card.json", "README.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    told = json.loads((tmp_path / "a" / "card.json").read_text(encoding="utf-8"))
    assert list(told) == sorted(told)
    assert CardFigures.model_validate(told) == made()
