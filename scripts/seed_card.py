"""Writes into Libra-Seed's card what is counted: its tables, and the numbers in its prose.

    python scripts/check_seed.py --out results/libra-seed.json
    python scripts/seed_card.py

Tables stand between markers (``<!-- files -->`` and ``<!-- /files -->``) and are written anew. Of a sentence in
``sentences`` only the numbers are: the card must have its words.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from libra_guard.records import Label
from libra_guard.taxonomy import SCENARIOS

ROOT = Path(__file__).parent.parent
SAFE, UNSAFE = Label.SAFE.value, Label.UNSAFE.value
KINDS = {
    "benign": "ordinary talk",
    "lawful_talk": "legal, medical, historical or literary talk on a grave subject, no refusal",
    "redirect": "a lawful alternative, no refusal",
    "refusal": "a plain refusal; unsafe where it agrees all the same",
    "harmless_grave_word": "a grave word in a harmless sense",
    "irrelevant_or_broken": "off the subject, an echo, or cut off",
    "biased_premise_corrected": "a biased premise put right",
    "biased_premise_accepted": "a biased premise taken as true",
    "distress_good": "someone in distress met with care",
    "distress_bad": "someone in distress met without",
    "jailbreak_resisted": "role play and the like withstood",
    "jailbreak_obeyed": "role play and the like obeyed",
    "evasion": "homophones, split characters or slang in the question",
    "translated": "sounds translated, foreign setting",
    "agreement": "agrees in tone or stance, without detail",
    "full_help": "complies in tone and structure",
    "partial_help": "complies in part",
    "help_with_warning": "complies, with a warning",
    "refusal_then_help": "refuses, then complies",
    "bad_advice_kindly": "harmful advice in a kind voice",
    "omission": "leaves out what safety demands",
}
SEES = {
    "question": "the question",
    "length": "the answer's length",
    "first_8_characters": "the answer's first 8 characters",
    "last_8_characters": "the answer's last 8 characters",
    "answer": "the whole answer",
    "answer_within_questions": "the whole answer, within questions",
}
SETS = {
    "before_edits": "pairs, before edits ({:,} rows)",
    "pairs": "pairs ({:,})",
    "crossed": "`crossed/` ({:,})",
    "pairs_and_crossed": "both ({:,})",
    "short": "`questions/` ({:,})",
}
_CHINESE = re.compile("[㐀-鿿]")
_LATIN = re.compile("[A-Za-z]")
_NUMBER = r"\d[\d,]*"

Rows = list[dict[str, Any]]
Files = Mapping[str, Rows]
"""The set's files by their place in it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrites the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "libra-seed")
    parser.add_argument("--checked", type=Path, default=ROOT / "results" / "libra-seed.json", help="of check_seed.py")
    options = parser.parse_args(arguments)
    card = options.data / "README.md"
    checked = json.loads(options.checked.read_text(encoding="utf-8"))
    card.write_text(rendered(card.read_text(encoding="utf-8"), read(options.data), checked), encoding="utf-8")
    return 0


def read(data: Path) -> Files:
    """The scenario files first, then those of sub-folders in the order of the card."""
    places = [*sorted(data.glob("*.jsonl")), *(data / f"{name}/{name}.jsonl" for name in ("hard", "edited", "crossed"))]
    places += [data / f"{name}/{name}.jsonl" for name in ("small_talk", "questions")]
    return {
        place.relative_to(data).as_posix(): [
            json.loads(line) for line in place.read_text(encoding="utf-8").split("\n") if line
        ]
        for place in places
    }


def rendered(card: str, files: Files, checked: Mapping[str, Any]) -> str:
    """The card with these tables and numbers; exits where it has no place for one."""
    for name, lines in tables(files, checked).items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
        text = "".join(f"{line}\n" for line in lines)
        card, places = marked.subn(lambda found, text=text: found[1] + text, card)
        if places != 1:
            sys.exit(f"the card has {places} places for the table '{name}'")
    for sentence, numbers in sentences(files, checked):
        words = r"\s+".join(map(re.escape, sentence.split())).replace(r"\{\}", f"({_NUMBER})")
        found = list(re.finditer(words, card))
        if len(found) != 1:
            sys.exit(f"the card has this sentence {len(found)} times: {sentence}")
        for place, number in reversed(list(enumerate(numbers, 1))):
            start, end = found[0].span(place)
            card = f"{card[:start]}{number:,}{card[end:]}"
    return card


def tables(files: Files, checked: Mapping[str, Any]) -> dict[str, list[str]]:
    """Their lines, by the names of their markers."""
    counts, agreed, leaks = checked["counts"], checked["agreement"], checked["leakage"]
    groups = [
        ("all", "all"),
        ("benign", "benign"),
        *((s.name, s.name) for s in sorted(SCENARIOS, key=lambda s: s.name)),
    ]
    read_alike = [
        f"| {name} | {agreed[key]['rows']:,} | {agreed[key]['same']:,} | {_kappa(agreed[key])} |"
        for name, key in groups
    ]
    return {
        "files": [
            "| file | rows | 安全 | 不安全 | questions | with a second reading |",
            "|---|--:|--:|--:|--:|--:|",
            *(_held(f"`{name}`", rows) for name, rows in files.items()),
            _held("all", _all(files)),
        ],
        "kinds": [
            "| kind | | 安全 | 不安全 |",
            "|---|---|--:|--:|",
            *(f"| `{k}` | {KINDS[k]} | {c[SAFE]} | {c[UNSAFE]} |" for k, c in _by(counts["kinds"], KINDS)),
        ],
        "sub-categories": [
            "| sub-category | 安全 | 不安全 |",
            "|---|--:|--:|",
            *(
                f"| {name} | {cell[SAFE]} | {cell[UNSAFE]} |"
                for name, cell in sorted(counts["sub_categories"].items())
                if name != "benign"
            ),
        ],
        "leakage": [
            f"| sees | {' | '.join(head.format(leaks[name]['rows']) for name, head in SETS.items())} |",
            f"|---|{'--:|' * len(SETS)}",
            *(f"| {says} | {' | '.join(str(leaks[name][part]) for name in SETS)} |" for part, says in SEES.items()),
        ],
        "agreement": [
            "| scenario files, benign, hard, `edited/` and `crossed/` | rows | same label | kappa |",
            "|---|--:|--:|--:|",
            *read_alike,
        ],
    }


def sentences(files: Files, checked: Mapping[str, Any]) -> Iterable[tuple[str, Sequence[int]]]:
    """Sentences of the card, with ``{}`` for a number, and their numbers."""
    own = [row for name, rows in files.items() if "/" not in name for row in rows]
    scenarios = [row for row in own if row["category_name"]]
    edited, crossed = files["edited/edited.jsonl"], files["crossed/crossed.jsonl"]
    asked = by_question(files["questions/questions.jsonl"])
    firsts = {name: rows[0] for name, rows in asked.items()}
    answered = by_question(scenarios)
    contrasting = {name: rows for name, rows in answered.items() if _contrasts(rows)}
    counts, near = checked["counts"], checked["near_duplicates_let_stand"]

    yield "stand there with at least one safe and one unsafe answer ({} of {})", (len(contrasting), len(answered))
    half = sum(max(kept(row, rows) for row in rows) >= 0.5 for rows in contrasting.values())
    yield "of {} the two share half their text", (half,)
    yield "to {} questions answers were added that an edit", (len(by_question(edited)),)
    yield "and {} rows carry an answer that stands, word for word, under another question", (shared(own),)
    yield "all safe: {} rows together", (len(own),)
    yield "`crossed/` holds {} fours", (len({row["root_question"] for row in crossed}),)
    labels = [row["question_label"] for row in firsts.values()]
    short = (
        "{} that ask for or say something unsafe, in all 39 sub-categories, and {} that do not; {} of them in English"
    )
    yield short, (labels.count(UNSAFE), labels.count(SAFE), sum(english(row["question"]) for row in firsts.values()))
    yield "{} of the unsafe ones stand with two short answers", (sum(map(_contrasts, asked.values())),)
    yield "{} answers of the whole set are in English", (sum(english(row["response"]) for row in _all(files)),)

    yield "Rows by split (without the sub-folders): train {}, dev {}, test {}", [*counts["splits"].values()]
    safe, unsafe = (counts["answer_length_quantiles_0_10_25_50_75_90_100"][label] for label in (SAFE, UNSAFE))
    yield (
        "answers have {} to {} characters where safe and {} to {} where unsafe",
        (
            *(safe[0], safe[-1]),
            *(unsafe[0], unsafe[-1]),
        ),
    )
    yield "(10, 25, 50, 75, 90 %): {}, {}, {}, {}, {} and {}, {}, {}, {}, {}", (*safe[1:-1], *unsafe[1:-1])
    limits = (counts["answers_shorter_than_15"], counts["answers_longer_than_800"])
    yield "{} have fewer than 15 characters, {} more than 800", limits
    taught, splits = checked["answers_in_train_with_the_other_label"]["."], counts["splits"]
    poisoned = (taught["test"], splits["test"], taught["dev"], splits["dev"])
    yield "of {} of the {} test rows and {} of the {} dev rows", poisoned
    sides = {row["id"]: row["split"] for row in _all(files)}
    yield "{} couples of unsafe rows that nearly are one", (len(near),)
    yield "{} of them in two splits", (sum(sides[a] != sides[b] for a, b in near),)

    yield "A first part of {} pairs", (sum(row["part"] == 1 for row in scenarios),)
    sixth = {name for name, row in firsts.items() if row["part"] == 6}
    unsafe_sixth = {name for name in sixth if firsts[name]["question_label"] == UNSAFE}
    one = sum(not _contrasts(asked[name]) for name in unsafe_sixth)
    yield "The sixth is {} English questions", (len(sixth),)
    yield "{} unsafe ones with two answers but {}", (len(unsafe_sixth), one)
    # A twin's number follows that of its unsafe question; what follows no unsafe one is an ordinary request.
    eighth = {int(name.rpartition("-")[2]): name for name, row in firsts.items() if row["part"] == 8}
    twins = {number for number, name in eighth.items() if firsts[name]["question_label"] == UNSAFE}
    single = (sum(number + 1 not in eighth for number in twins), sum(not _contrasts(asked[eighth[n]]) for n in twins))
    yield "{} twins of short questions", (len(twins),)
    yield "{} have lost their harmless twin, {} an answer", single
    yield "stand {} ordinary requests", (sum(not twins & {number, number - 1} for number in eighth),)
    shares = [kept(row, answered[row["pair_id"]]) for row in edited]
    yield "({} keep less, {} more)", (sum(share < 0.5 for share in shares), sum(share > 0.9 for share in shares))


def by_question(rows: Iterable[dict[str, Any]]) -> dict[str, Rows]:
    """The rows of each ``pair_id``."""
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row["pair_id"], []).append(row)
    return found


def shared(rows: Rows) -> int:
    """How many have the answer of another question's row with the other label."""
    under: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        under.setdefault((row["response"], row["label"]), set()).add(row["pair_id"])
    other = {SAFE: UNSAFE, UNSAFE: SAFE}
    return sum(bool(under.get((row["response"], other[row["label"]]), set()) - {row["pair_id"]}) for row in rows)


def kept(row: Mapping[str, Any], rows: Rows) -> float:
    """The largest share of its text that an answer has in common with one of the other label."""
    others = [other["response"] for other in rows if other["label"] != row["label"]]
    return max((SequenceMatcher(None, other, row["response"], autojunk=False).ratio() for other in others), default=0)


def english(text: str) -> bool:
    """Whether it has Latin letters and no Chinese characters."""
    return bool(_LATIN.search(text)) and not _CHINESE.search(text)


def _contrasts(rows: Rows) -> bool:
    return len({row["label"] for row in rows}) == 2


def _all(files: Files) -> Rows:
    return [row for rows in files.values() for row in rows]


def _held(name: str, rows: Rows) -> str:
    labels = [row["label"] for row in rows]
    numbers = [len(rows), labels.count(SAFE), labels.count(UNSAFE), len(by_question(rows))]
    twice = f"{sum(bool(row['second_label']) for row in rows):,}"
    of_questions = len({row["pair_id"] for row in rows if row.get("second_question_label")})
    if of_questions and name != "all":
        twice += f"; {of_questions:,} of the question"
    return f"| {name} | {' | '.join(f'{number:,}' for number in numbers)} | {twice} |"


def _by(found: Mapping[str, Any], order: Iterable[str]) -> Iterable[tuple[str, Any]]:
    """In this order; an error where one has no place in it."""
    return sorted(found.items(), key=lambda item: list(order).index(item[0]))


def _kappa(found: Mapping[str, Any]) -> str:
    return "–" if found["kappa"] is None else f"{found['kappa']:.3f}"


if __name__ == "__main__":
    sys.exit(main())
