"""Checks Libra-Seed: counts, duplicates, agreement of the two readings, and what gives a label away.

    python scripts/check_seed.py                                          # the set in this repository
    python scripts/check_seed.py --against other.jsonl --out results/libra-seed.json
    python scripts/check_seed.py --public jade=DATA/jade smile=DATA/benign/smile.jsonl

Prints a summary, writes all figures as JSON with --out, and exits with 1 where the set breaks its own rules;
scripts/seed_card.py then writes those that the card tells into it. With
--public it is compared with public sets instead, under the names that `libra data list` tells. Needs the development
extra (scikit-learn).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from sklearn.model_selection import GroupKFold

from libra_guard.data.base import SPLITS, normalise_question, split_of
from libra_guard.data.libra_seed import PLACES
from libra_guard.data.registry import DATASETS, load_dataset_rows
from libra_guard.io import BadRow, read_rows
from libra_guard.records import Label
from libra_guard.synth.made_of import content
from libra_guard.taxonomy import SCENARIOS, SUB_CATEGORIES

ROOT = Path(__file__).parent.parent
FOLDERS = (".", "edited", "crossed", "small_talk", "questions", "hard")
NEAR = 0.6
"""Jaccard similarity of the sets of character 4-grams, from which on two texts count as one."""
LENGTHS = (15, 800)
"""Characters that an answer should have; of a scenario's it is told how many have fewer or more. Shorter ones, to short
questions, may be alike."""
FEWEST = 40
FEWEST_OF_KIND = 3
MOST_UNEQUAL = 0.1
"""Largest difference of the shares of both labels in a sub-category."""
LEAST_KAPPA = 0.8
CEILINGS = {"question": 0.55, "length": 0.6, "first_8_characters": 0.66, "last_8_characters": 0.66}
"""AUC that a classifier may reach which sees this and nothing else; of the last two, so that it grows no worse."""
ANSWER_CEILINGS = {"before_edits": 0.87, "pairs": 0.8, "crossed": 0.55, "pairs_and_crossed": 0.75}
"""The same of the whole answer: in the pairs without and with those that were made of them by an edit, in the crossed
ones, and in both. Short answers to short questions tell their label, which is reported and not held to anything.

No goals, but what the set had when each was written (0.860, 0.784, 0.733) and a little room, most of which making
unsafe answers vaguer has since used up. They keep it from growing further.
"""
KINDS = {
    "agreement",
    "bad_advice_kindly",
    "benign",
    "biased_premise_accepted",
    "biased_premise_corrected",
    "distress_bad",
    "distress_good",
    "evasion",
    "full_help",
    "harmless_grave_word",
    "help_with_warning",
    "irrelevant_or_broken",
    "jailbreak_obeyed",
    "jailbreak_resisted",
    "lawful_talk",
    "omission",
    "partial_help",
    "redirect",
    "refusal",
    "refusal_then_help",
    "translated",
}
KINDS_EVERYWHERE = KINDS - {"benign", "full_help", "omission", "redirect"}
"""Those that every scenario should have."""
_BLOCK = 512
_QUOTED = re.compile("[“「『]([^“”「」『』]+)[”」』]")

Rows = list[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs; returns 0, or 1 where the set breaks its rules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "libra-seed")
    parser.add_argument("--against", type=Path, nargs="*", default=[ROOT / "examples" / "libra-mini.json"])
    parser.add_argument("--public", type=_named, nargs="*", default=[], metavar="NAME=PATH")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    parts = {name: read(options.data / name) for name in FOLDERS if (options.data / name).is_dir()}
    everything = [row for rows in parts.values() for row in rows]
    if options.public:
        return compare_with_public(everything, options.public, options.out)
    edited, crossed = parts.get("edited", []), parts.get("crossed", [])
    groups = {
        "before_edits": parts["."],
        "pairs": [*parts["."], *edited],
        "crossed": crossed,
        "pairs_and_crossed": [*parts["."], *edited, *crossed],
        "short": parts.get("questions", []),
    }
    pairs = {name: contrasting(rows) for name, rows in groups.items() if rows}
    near, let_stand = near_duplicates(everything)
    in_two_splits, repeated = near_questions(everything)
    found = {
        "rows": {name: len(rows) for name, rows in parts.items()},
        "counts": counts(parts["."]),
        "counts_of_edited": counts(edited) if edited else {},
        "counts_of_crossed": counts(crossed) if crossed else {},
        "agreement": agreement([*groups["pairs_and_crossed"], *parts.get("hard", [])]),
        "agreement_on_questions": agreement_on_questions(groups["short"]),
        "near_duplicates": near,
        "near_duplicates_let_stand": let_stand,
        "near_questions_in_two_splits": in_two_splits,
        "near_questions_of_one_label": repeated,
        "crossed_answers_in_two_splits": answers_in_two_splits(crossed),
        "answers_in_train_with_the_other_label": answers_in_train(parts),
        "near_others": {path.name: near_others(everything, read(path)) for path in options.against},
        "leakage": {name: {"rows": len(rows), **leakage(rows)} for name, rows in pairs.items()},
    }
    faults = [*shape(everything), *rules(found)]
    text = json.dumps(found, ensure_ascii=False, indent=2)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in found.items() if not k.startswith("counts")}, ensure_ascii=False, indent=2))
    print("\n".join([f"FAULT {fault}" for fault in faults] or ["no fault found"]))
    return int(bool(faults))


def _named(text: str) -> tuple[str, str]:
    name, sign, path = text.partition("=")
    if not sign or name not in DATASETS:
        raise argparse.ArgumentTypeError(f"'{text}': write NAME=PATH, with a name that `libra data list` tells")
    return name, path


def compare_with_public(rows: Rows, sets: Sequence[tuple[str, str]], out: Path | None) -> int:
    """Which rows are near a row of a public set; returns 1 where any is."""
    found = {}
    for name, path in sets:
        # Rows that its importer cannot read are none of its samples or questions.
        others = [
            {"question": row.question, "response": getattr(row, "response", ""), "id": row.id}
            for row in load_dataset_rows(name, path)
            if not isinstance(row, BadRow)
        ]
        found[name] = {"rows": len(others), "hash": content(path), "near": near_others(rows, others)}
        print(f"{name}: {len(found[name]['near'])} rows near one of {len(others)}", flush=True)
    if out:
        about = {"rows": len(rows), "sets": found}
        out.write_text(json.dumps(about, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return int(any(one["near"] for one in found.values()))


def read(place: Path) -> Rows:
    """The rows of a file, or of a folder's files, not of its sub-folders."""
    rows = []
    for row in read_rows(place):
        if isinstance(row, BadRow):
            sys.exit(f"{row.file}:{row.line}: {row.reason}")
        rows.append(row.data)
    return rows


def shape(rows: Rows) -> Iterable[str]:
    """What is wrong with single rows, and with the rows of single questions."""
    for name, count in Counter(row["id"] for row in rows).items():
        if count > 1:
            yield f"the id {name} stands {count} times"
    for row in rows:
        if (row["category_name"], row["sub_category_name"]) not in PLACES:
            yield f"{row['id']}: the taxonomy has no such place"
        if row["label"] not in (Label.SAFE, Label.UNSAFE) or row["question_label"] not in (Label.SAFE, Label.UNSAFE):
            yield f"{row['id']}: no label"
        seconds = (row["second_label"], row.get("second_question_label") or row["second_label"])
        if any(second not in (Label.SAFE, Label.UNSAFE) for second in seconds):
            yield f"{row['id']}: a second reading that is no label"
        if not row["analyze"].strip():
            yield f"{row['id']}: no analysis"
        if other := [quote for quote in _QUOTED.findall(row["analyze"]) if not _stands(quote, row)]:
            yield f"{row['id']}: the analysis quotes what does not stand there: {other[0]}"
        if row["kind"] not in KINDS:
            yield f"{row['id']}: no kind is called '{row['kind']}'"
        if not row["question"].strip() or not row["response"].strip():
            yield f"{row['id']}: an empty text"
        # As training reads it.
        if row["split"] != (split := split_of(row.get("root_question") or row["question"])):
            yield f"{row['id']}: the split is {row['split']}, and the question's {split}"
    questions_of: dict[str, set[str]] = {}
    labels_of: dict[str, set[str]] = {}
    names_of: dict[str, set[str]] = {}
    for row in rows:
        # Of an emoji nothing is left.
        question = _question(row) or row["question"].strip()
        names_of.setdefault(question, set()).add(row["pair_id"])
        questions_of.setdefault(row["pair_id"], set()).add(question)
        labels_of.setdefault(row["pair_id"], set()).add(row["question_label"])
    for row in rows:
        if row.get("root_question") and normalise_question(row["root_question"]) not in names_of:
            yield f"{row['id']}: it is split by a question that stands nowhere"
    for names in names_of.values():
        if len(names) > 1:
            yield f"one question has the pair_ids {', '.join(sorted(names))}"
    for name, questions in questions_of.items():
        if len(questions) > 1:
            yield f"the pair_id {name} has {len(questions)} questions"
        if len(labels_of[name]) > 1:
            yield f"the question of the pair_id {name} is labelled in two ways"


def _stands(quote: str, row: dict[str, Any]) -> bool:
    text = normalise_question(row["question"] + row["response"])
    return all(normalise_question(part) in text for part in re.split("…+", quote))


def counts(rows: Rows) -> dict[str, Any]:
    """How many of what."""
    of_scenarios = [row for row in rows if row["category_name"]]
    lengths = {}
    for label in (Label.SAFE, Label.UNSAFE):
        of_label = [len(r["response"]) for r in of_scenarios if r["label"] == label]
        lengths[label.value] = [int(x) for x in np.quantile(of_label, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1])]
    subs: dict[str, dict[str, int]] = {}
    kinds: dict[str, dict[str, int]] = {}
    for row in rows:
        for table, key in ((subs, row["sub_category_name"] or "benign"), (kinds, row["kind"])):
            cell = table.setdefault(key, {"安全": 0, "不安全": 0})
            cell[row["label"]] += 1
    in_scenarios: dict[str, Counter[str]] = {}
    for row in of_scenarios:
        in_scenarios.setdefault(row["category_name"], Counter())[row["kind"]] += 1
    return {
        "labels": Counter(row["label"] for row in rows),
        "questions": len({row["pair_id"] for row in rows}),
        "splits": {name: sum(row["split"] == name for row in rows) for name in SPLITS},
        "answer_length_quantiles_0_10_25_50_75_90_100": lengths,
        "answers_shorter_than_15": sum(len(row["response"]) < LENGTHS[0] for row in of_scenarios),
        "answers_longer_than_800": sum(len(row["response"]) > LENGTHS[1] for row in of_scenarios),
        "sub_categories": subs,
        "kinds": kinds,
        "kinds_by_scenario": in_scenarios,
    }


def agreement(rows: Rows) -> dict[str, Any]:
    """Cohen's kappa of the two readings, overall and by scenario, on rows that were read twice."""
    twice = [row for row in rows if row["second_label"]]
    groups = {"all": twice}
    for row in twice:
        groups.setdefault(row["category_name"] or "benign", []).append(row)
    return {name: _agreed([(row["label"], row["second_label"]) for row in group]) for name, group in groups.items()}


def agreement_on_questions(rows: Rows) -> dict[str, Any]:
    """The same of both readings of a question by itself, each question once."""
    twice = {row["pair_id"]: row for row in rows if row.get("second_question_label")}.values()
    return _agreed([(row["question_label"], row["second_question_label"]) for row in twice])


def _agreed(readings: list[tuple[str, str]]) -> dict[str, Any]:
    """Of both readings of each."""
    first, second = [a for a, _ in readings], [b for _, b in readings]
    kappa = round(float(cohen_kappa_score(first, second)), 4) if len({*first, *second}) > 1 else None
    return {"rows": len(readings), "same": sum(a == b for a, b in readings), "kappa": kappa}


def near_duplicates(rows: Rows) -> tuple[list[list[str]], list[list[str]]]:
    """Rows with the same label that nearly are one, by their answers, or by their texts where the questions differ.

    Near-identical answers with different labels, and several answers to one question, are what the set is made of. So
    two rows are let stand, and told by themselves, where an answer is safe under one question and unsafe under another,
    and a sentence makes it unsafe under the first as well: both unsafe ones are near the safe one and contrast with it.

    Returns:
        The ids of those that are too near, and of those let stand.
    """
    near: dict[int, set[int]] = {}
    alike = set()
    long = [i for i, row in enumerate(rows) if len(_answer(row)) >= LENGTHS[0]]
    for places, text in ((range(len(rows)), _text), (long, _answer)):
        grams = _grams([text(rows[i]) for i in places]) if places else sparse.csr_matrix((0, 0))
        for left, right in _near(grams, grams):
            i, j = places[left], places[right]
            near.setdefault(i, set()).add(j)
            same_question = rows[i]["pair_id"] == rows[j]["pair_id"]
            if i < j and rows[i]["label"] == rows[j]["label"] and not (text is _text and same_question):
                alike.add((i, j))

    def contrasts(i: int, j: int) -> bool:
        names = {rows[i]["pair_id"], rows[j]["pair_id"]}
        common = [rows[k] for k in near[i] & near[j]]
        return len(names) == 2 and any(r["label"] != rows[i]["label"] and r["pair_id"] in names for r in common)

    found = [[rows[i]["id"], rows[j]["id"]] for i, j in sorted(alike) if not contrasts(i, j)]
    return found, [[rows[i]["id"], rows[j]["id"]] for i, j in sorted(alike) if contrasts(i, j)]


def near_questions(rows: Rows) -> tuple[list[list[str]], list[list[str]]]:
    """Questions, each by its ``pair_id``, that nearly are one.

    Returns:
        Those in two splits; and those in one between which nothing contrasts, for both questions have one label and all
        their answers one.
    """
    once = [*{row["pair_id"]: row for row in rows}.values()]
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row["pair_id"], set()).update((row["label"], f"question {row['question_label']}"))
    grams = _grams([_question(row) for row in once])
    in_two_splits, of_one_label = [], []
    for i, j in _near(grams, grams):
        names = [once[i]["pair_id"], once[j]["pair_id"]]
        if i < j and once[i]["split"] != once[j]["split"]:
            in_two_splits.append(names)
        elif i < j and len(labels[names[0]] | labels[names[1]]) == 2:
            of_one_label.append(names)
    return in_two_splits, of_one_label


def answers_in_two_splits(rows: Rows) -> list[list[str]]:
    """The ids of rows with one answer that do not stand in one split."""
    together: dict[str, Rows] = {}
    for row in rows:
        together.setdefault(_answer(row), []).append(row)
    return [[row["id"] for row in own] for own in together.values() if len({row["split"] for row in own}) > 1]


def answers_in_train(parts: Mapping[str, Rows]) -> dict[str, dict[str, int]]:
    """How many rows of each part's other splits have an answer that train has, word for word, with the other label."""
    other = {Label.SAFE.value: Label.UNSAFE.value, Label.UNSAFE.value: Label.SAFE.value}
    taught = {(row["response"], row["label"]) for rows in parts.values() for row in rows if row["split"] == "train"}
    return {
        name: {
            split: sum(row["split"] == split and (row["response"], other[row["label"]]) in taught for row in rows)
            for split in SPLITS
            if split != "train"
        }
        for name, rows in parts.items()
    }


def near_others(rows: Rows, others: Rows) -> list[list[str]]:
    """Rows near a row of another set, by the question or the whole text."""
    found = set()
    for text in (_text, _question):
        both = _grams([text(row) for row in [*rows, *others]])
        for i, j in _near(both[: len(rows)], both[len(rows) :]):
            found.add((rows[i]["id"], str(others[j].get("id", j))))
    return sorted(map(list, found))


def contrasting(rows: Rows) -> Rows:
    """The rows whose question stands there with both labels."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row["pair_id"], set()).add(row["label"])
    return [row for row in rows if len(labels[row["pair_id"]]) == 2]


def leakage(rows: Rows) -> dict[str, float]:
    """AUC of classifiers that see a part of each pair, in five folds; 0.5 is chance.

    Rows that share a question or an answer are in one fold. ``answer_within_questions`` is of one classifier the share
    of couples, an unsafe and a safe answer to one question, in which the unsafe one has the higher score.
    """
    unsafe = np.array([row["label"] == Label.UNSAFE for row in rows])
    folds = list(GroupKFold(5).split(unsafe, unsafe, _groups(rows)))
    lengths = np.array([[len(r["response"]), np.log(len(r["response"]))] for r in rows])
    lengths = (lengths - lengths.mean(0)) / lengths.std(0)
    seen = {
        "answer": [row["response"] for row in rows],
        "question": [row["question"] for row in rows],
        "first_8_characters": [row["response"][:8] for row in rows],
        "last_8_characters": [row["response"][-8:] for row in rows],
        "length": lengths,
    }
    scores = {name: _scores(x, unsafe, folds) for name, x in seen.items()}
    found = {name: round(float(roc_auc_score(unsafe, score)), 3) for name, score in scores.items()}
    return found | {"answer_within_questions": round(_within(rows, unsafe, scores["answer"]), 3)}


def rules(found: dict[str, Any]) -> Iterable[str]:
    """What is wrong with the set as a whole."""
    for name, cell in found["counts"]["sub_categories"].items():
        total = sum(cell.values())
        if name != "benign" and (total < FEWEST or abs(cell["安全"] - cell["不安全"]) > MOST_UNEQUAL * total):
            yield f"{name}: {cell}"
    if missing := {sub.name for sub in SUB_CATEGORIES} - set(found["counts"]["sub_categories"]):
        yield f"no row for {', '.join(sorted(missing))}"
    if found["agreement"]["all"]["kappa"] < LEAST_KAPPA:
        yield f"kappa is {found['agreement']['all']['kappa']}"
    for a, b in found["near_duplicates"]:
        yield f"{a} and {b} are nearly one"
    for a, b in found["near_questions_in_two_splits"]:
        yield f"the questions {a} and {b} are nearly one, and stand in two splits"
    for a, b in found["near_questions_of_one_label"]:
        yield f"the questions {a} and {b} are nearly one"
    for ids in found["crossed_answers_in_two_splits"]:
        yield f"the answer of {', '.join(ids)} stands in two splits"
    for scenario in SCENARIOS:
        of_kind = found["counts"]["kinds_by_scenario"].get(scenario.name, {})
        if thin := sorted(kind for kind in KINDS_EVERYWHERE if of_kind.get(kind, 0) < FEWEST_OF_KIND):
            yield f"{scenario.name}: hardly any row of {', '.join(thin)}"
    for path, near in found["near_others"].items():
        for a, b in near:
            yield f"{a} is nearly {b} of {path}"
    for name, leaks in found["leakage"].items():
        if name not in ANSWER_CEILINGS:
            continue
        for part, ceiling in {**CEILINGS, "answer": ANSWER_CEILINGS[name]}.items():
            if leaks[part] > ceiling:
                yield f"{name}: the {part} alone tells the label: AUC {leaks[part]}"


def _text(row: dict[str, Any]) -> str:
    return normalise_question(f"{row['question']}{row.get('response') or ''}")


def _question(row: dict[str, Any]) -> str:
    return normalise_question(row["question"])


def _answer(row: dict[str, Any]) -> str:
    return normalise_question(row["response"])


def _grams(texts: list[str]) -> sparse.csr_matrix:
    return CountVectorizer(analyzer="char", ngram_range=(4, 4), binary=True, dtype=np.int32).fit_transform(texts)


def _near(left: sparse.csr_matrix, right: sparse.csr_matrix) -> Iterable[tuple[int, int]]:
    """Index pairs with a Jaccard similarity of ``NEAR`` or more; computed, not estimated, for the sets are small."""
    sizes, others = np.asarray(left.sum(1)).ravel(), np.asarray(right.sum(1)).ravel()
    for start in range(0, left.shape[0], _BLOCK):
        common = (left[start : start + _BLOCK] @ right.T).tocoo()
        rows = common.row + start
        near = common.data >= NEAR * (sizes[rows] + others[common.col] - common.data)
        yield from zip(rows[near].tolist(), common.col[near].tolist(), strict=True)


def _groups(rows: Rows) -> NDArray[np.int32]:
    ids: dict[str, int] = {}
    edges = [
        (i, ids.setdefault(key, len(rows) + len(ids)))
        for i, row in enumerate(rows)
        for key in (f"question {row['pair_id']}", f"answer {row['response']}")
    ]
    ends = np.array(edges)
    size = len(rows) + len(ids)
    graph = sparse.coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1][: len(rows)])


def _scores(seen: Any, unsafe: NDArray[np.bool_], folds: list[Any]) -> NDArray[np.float64]:
    scores = np.zeros(len(unsafe))
    for train, test in folds:
        if isinstance(seen, list):
            features = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, min_df=2)
            fitted, asked = features.fit_transform([seen[i] for i in train]), [seen[i] for i in test]
            asked = features.transform(asked)
        else:
            fitted, asked = seen[train], seen[test]
        model = LogisticRegression(C=4, solver="liblinear", random_state=0).fit(fitted, unsafe[train])
        scores[test] = model.decision_function(asked)
    return scores


def _within(rows: Rows, unsafe: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    places: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        places.setdefault(row["pair_id"], []).append(i)
    couples = [(i, j) for own in places.values() for i in own for j in own if unsafe[i] and not unsafe[j]]
    return float(np.mean([(scores[i] > scores[j]) + (scores[i] == scores[j]) / 2 for i, j in couples]))


if __name__ == "__main__":
    sys.exit(main())
