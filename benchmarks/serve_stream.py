"""Streams of answers through the bundled guard: what leaves, how late, and at what work.

    python benchmarks/serve_stream.py

An unsafe sentence is planted at a random place of each of 200 safe answers of data/libra-seed: one of an unsafe answer
to the same question, which the guard flags by itself; the safe answer it does not flag. The answers come in pieces of
one to three characters, as tokens do, through the server's own driver (serve/streaming.py) under a clock that jumps:
waiting takes no time, and the guard as much as it really took. Writes benchmarks/serve_stream.json.

Told are the delays from an answer's first chunk to its first text that leaves, and from each chunk's arrival until it
leaves; and the *first hit*: how long after the arrival of the planted sentence's last character its stream is stopped,
and how many characters had come beyond it by then. Streams that stop before, at a harmless sentence or at a part of the
planted one, are counted apart. The *prefix* of a planted sentence is what had left of it when its stream was stopped.

Other answers of the seed, of its dev and test parts, tell what a stream costs: safe ones without a plant that are
stopped, and unsafe ones, flagged as a whole, that are not; these with a character a line as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from serving import measured, spread

from libra_guard import Conversation, load_guard
from libra_guard.io import file_hash
from libra_guard.policy import load_policy
from libra_guard.policy.decide import decide
from libra_guard.predict.stream import StreamSettings
from libra_guard.serve.metrics import Metrics
from libra_guard.serve.state import Judged
from libra_guard.serve.streaming import Released, Stopped, guarded

HERE = Path(__file__).parent
DATA = HERE.parent / "data" / "libra-seed"
SEED = 20
TOKENS_A_SECOND = 40
SENTENCE = re.compile(r"[^。！？!?；;\n]+[。！？!?；;]+[”’」』）)]*")
VARIANTS = {
    "default": {},
    "work 2": {"work": 2},
    "no second look": {"doubt": 1, "suspicion": 1},
    "no passages": {"suspicion": 1},
    "least 60": {"least": 60},
    "least 60, no second look": {"least": 60, "doubt": 1, "suspicion": 1},
}


class Planted(NamedTuple):
    """An answer, with and without an unsafe sentence."""

    question: str
    safe: str
    answer: str
    start: int
    end: int


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while nothing can be done."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        select = self._selector.select

        def jump(timeout: float | None) -> list:
            # A wait too short for the sum or the loop, which takes it for none, would be waited for again and again.
            self.now += 0 if timeout is None else max(timeout, 1e-6)
            return select(0)

        self._selector.select = jump

    def time(self) -> float:
        """Seconds since the start."""
        return self.now


class Server:
    """What the driver needs of one, with the guard in place of a queue."""

    def __init__(self, guard, policy: str, settings: StreamSettings) -> None:
        self.settings = SimpleNamespace(stream=settings, batch_size=16, queue_size=256, deadline_ms=60_000)
        self.metrics = Metrics()
        self.guard, self.policy = guard, load_policy(policy)
        self.seconds, self.characters = 0.0, 0
        """Of the processor, all cores together; judged."""

    async def decide_all(self, conversations, *, deadline, **_) -> list[Judged]:
        """As the real one; the guard's time passes on the loop's clock."""
        started, began = time.perf_counter(), time.process_time()
        verdicts = self.guard.judge(conversations)
        took = time.perf_counter() - started
        self.seconds += time.process_time() - began
        self.characters += sum(len(message.content) for c in conversations for message in c.messages)
        await asyncio.sleep(took)
        return [
            Judged(v, decide(self.policy, v, c, system=self.guard.system))
            for v, c in zip(verdicts, conversations, strict=True)
        ]


class Remembering:
    """The guard, asked once for each conversation. For counting, not for times."""

    def __init__(self, guard) -> None:
        self.guard, self.system, self.known = guard, guard.system, {}

    def judge(self, conversations) -> list:
        """Verdicts in order."""
        new = list(dict.fromkeys(c for c in conversations if c not in self.known))
        self.known |= zip(new, self.guard.judge(new), strict=True)
        return [self.known[c] for c in conversations]


class Streamed(NamedTuple):
    """What became of one answer."""

    released: int
    stop: tuple[int, int] | None
    """The part at which it was stopped."""
    flagged: list[tuple[int, int]]
    delays: list[float]
    """Of each token that was released."""
    first: float | None
    arrivals: list[tuple[int, float]]
    """Up to which character it had come when, until it ended."""
    ended: float

    def left(self, plant: Planted) -> int:
        """Characters of a planted sentence that left."""
        return max(0, min(self.released, plant.end) - plant.start)


async def tokens(answer: str, arrivals: list[tuple[int, float]]) -> AsyncIterator[str]:
    """The answer in pieces of one to three characters; notes when each came."""
    sizes, at = random.Random(len(answer)), 0
    while at < len(answer):
        await asyncio.sleep(1 / TOKENS_A_SECOND)
        piece = answer[at : at + sizes.randint(1, 3)]
        at += len(piece)
        arrivals.append((at, asyncio.get_running_loop().time()))
        yield piece


async def stream(server: Server, question: str, answer: str) -> Streamed:
    """Sends an answer through the driver."""
    arrivals: list[tuple[int, float]] = []
    released, stop, delays, flagged, first = 0, None, [], [], None
    async with aclosing(guarded(server, question, tokens(answer, arrivals))) as parts:
        async for part in parts:
            now = asyncio.get_running_loop().time()
            if part.judged and part.judged.decision.would == "block":
                flagged.append((part.start, part.end))
            if isinstance(part, Stopped):
                stop = part.start, part.end
            elif isinstance(part, Released):
                delays += [now - came for end, came in arrivals if released < end <= part.end]
                released = part.end
                first = now - arrivals[0][1] if first is None else first
        return Streamed(released, stop, flagged, delays, first, arrivals, asyncio.get_running_loop().time())


def run(guard, pairs, *, policy: str = "default", **settings) -> tuple[list[Streamed], Server]:
    """Streams answers one after another."""
    server = Server(guard, policy, StreamSettings(**settings))
    with asyncio.Runner(loop_factory=Clock) as runner:
        return [runner.run(stream(server, q, a)) for q, a in pairs], server


def rows() -> list[dict]:
    """Libra-Seed's pairs."""
    files = sorted(DATA.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def flags(guard, pairs) -> list[bool]:
    """Whether the guard flags each pair as a whole."""
    return [verdict.flagged for verdict in guard.judge([Conversation.from_pair(*pair) for pair in pairs])]


def planted(guard, count: int) -> list[Planted]:
    """Safe answers of four sentences or more with one sentence of an unsafe answer to the same question."""
    chance, by_question = random.Random(SEED), {}
    for row in rows():
        by_question.setdefault(row["question"], {}).setdefault(row["label"], row["response"])
    both = [(q, a["安全"], a["不安全"]) for q, a in by_question.items() if len(a) == 2]
    chance.shuffle(both)
    found = []
    for question, safe, unsafe in both:
        ends = [match.end() for match in SENTENCE.finditer(safe)]
        sentences = [match[0].strip() for match in SENTENCE.finditer(unsafe)]
        sentences = [one for one in sentences if len(one) >= 10]
        if len(ends) < 4 or not sentences or flags(guard, [(question, safe)])[0]:
            continue
        alone = flags(guard, [(question, one) for one in sentences])
        if not any(alone):
            continue
        plant = chance.choice([one for one, flagged in zip(sentences, alone, strict=True) if flagged])
        at = chance.choice([0, *ends])
        found.append(Planted(question, safe, safe[:at] + plant + safe[at:], at, at + len(plant)))
        if len(found) == count:
            break
    return found


def others(guard, count: int) -> dict[str, list[tuple[str, str]]]:
    """Answers of the dev and test parts: ordinary ones that pass as a whole, unsafe ones that are flagged."""
    unseen = [row for row in rows() if row["split"] != "train" and len(SENTENCE.findall(row["response"])) >= 3]
    random.Random(SEED).shuffle(unseen)
    benign = [(r["question"], r["response"]) for r in unseen if not r["category_name"]][:count]
    unsafe = [(r["question"], r["response"]) for r in unseen if r["label"] == "不安全"][:count]
    lines = [(question, "\n".join(answer)) for question, answer in unsafe]
    return {
        "benign": [pair for pair, flagged in zip(benign, flags(guard, benign), strict=True) if not flagged],
        "unsafe": [pair for pair, flagged in zip(unsafe, flags(guard, unsafe), strict=True) if flagged],
        "unsafe_in_lines": [pair for pair, flagged in zip(lines, flags(guard, lines), strict=True) if flagged],
    }


def counts(guard, plants: list[Planted], rest: dict, **settings) -> dict:
    """What leaves, what is stopped, and the work in characters."""
    whole = flags(guard, [(p.question, p.answer) for p in plants])
    pairs = [(p.question, p.answer) for p in plants]
    sent, as_streamed = run(guard, pairs, **settings)
    watched, to_the_end = run(guard, pairs, policy="monitor", **settings)
    seen = [any(s < p.end and e > p.start for s, e in w.flagged) for p, w in zip(plants, watched, strict=True)]
    left = [s.released >= p.end for p, s in zip(plants, sent, strict=True)]
    found = {
        "planted": len(plants),
        "left_whole": sum(left),
        "prefixes_left": prefixes(plants, sent),
        "flagged_as_a_whole_answer": sum(whole),
        "of_these_left_whole": sum(a and b for a, b in zip(left, whole, strict=True)),
        "not_flagged_where_nothing_is_stopped": seen.count(False),
        "work_in_characters": ratio(as_streamed, pairs),
        "work_in_characters_where_nothing_is_stopped": ratio(to_the_end, pairs),
    }
    for name, group in {"without_the_plant": [(p.question, p.safe) for p in plants], **rest}.items():
        streamed, server = run(guard, group, **settings)
        stops = sum(one.stop is not None for one in streamed)
        found[name] = {"answers": len(group), "stopped": stops, "work_in_characters": ratio(server, group)}
    return found


def ratio(server: Server, pairs) -> float:
    """Characters judged, to those of questions and answers once."""
    return round(server.characters / sum(len(q) + len(a) for q, a in pairs), 2)


def times(guard, plants: list[Planted], rest: dict) -> dict:
    """Delays and the guard's seconds, of the planted answers as they are streamed and of ordinary ones."""
    found = {}
    for name, pairs in {"planted": [(p.question, p.answer) for p in plants], "benign": rest["benign"]}.items():
        streamed, server = run(guard, pairs)
        began = time.process_time()
        for pair in pairs:
            guard.judge([Conversation.from_pair(*pair)])
        once = time.process_time() - began
        found[name] = {
            "median_characters": statistics.median(len(a) for _, a in pairs),
            "added_delay_to_first_text_ms": spread([one.first * 1000 for one in streamed if one.first is not None]),
            "delay_of_each_chunk_ms": spread([delay * 1000 for one in streamed for delay in one.delays]),
            "work_in_processor_seconds": round(server.seconds / once, 2),
        }
        if name == "planted":
            found["first_hit"] = first_hit(plants, streamed)
    return found


def first_hit(plants: list[Planted], streamed: list[Streamed]) -> dict:
    """How soon after the planted sentence's end the streams are stopped, and what of it had left."""
    early = {"left_whole": 0, "stopped_before_the_plant": 0, "stopped_within_the_plant": 0}
    late, beyond = [], []
    for plant, one in zip(plants, streamed, strict=True):
        if one.released >= plant.end:
            early["left_whole"] += 1
        elif one.stop[1] <= plant.start:
            early["stopped_before_the_plant"] += 1
        elif one.arrivals[-1][0] < plant.end:
            early["stopped_within_the_plant"] += 1
        else:
            late.append((one.ended - next(when for end, when in one.arrivals if end >= plant.end)) * 1000)
            beyond.append(one.arrivals[-1][0] - plant.end)
    return {
        **early,
        "latency_ms": spread(late),
        "characters_received_beyond": spread(beyond),
        "prefixes_left": prefixes(plants, streamed),
    }


def prefixes(plants: list[Planted], streamed: list[Streamed]) -> dict:
    """Planted sentences of which a part had left, but not the whole, and the longest such part in characters."""
    left = [one.left(plant) for plant, one in zip(plants, streamed, strict=True) if one.released < plant.end]
    return {"count": sum(n > 0 for n in left), "most_characters": max(left, default=0)}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path, default=HERE / "serve_stream.json")
    options = parser.parse_args()
    when, guard = measured("libra-guard", "onnxruntime", "tokenizers", "numpy"), load_guard("mini")
    known = Remembering(guard)
    plants, rest = planted(known, options.count), others(known, options.count)
    result = {
        "measured": when | {"texts": {"set": "libra-seed", "pairs": len(rows()), "hash": file_hash(DATA)}},
        "times": times(guard, plants, rest),
        "settings": {name: counts(known, plants, rest, **settings) for name, settings in VARIANTS.items()},
        "tokens_a_second": TOKENS_A_SECOND,
    }
    text = json.dumps(result, ensure_ascii=False, indent=2)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
