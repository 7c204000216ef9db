"""The server under load: what HTTP costs, what happens at twice the capacity, and minutes with clients that are killed.

    python benchmarks/serve_load.py                                    # all parts, some 12 minutes
    python benchmarks/serve_load.py --parts capacity latency           # these alone, some 5 minutes
    python benchmarks/serve_load.py --parts soak --soak-seconds 1800

Each part asks a `libra serve` with Mini of its own on 127.0.0.1; the texts are those of libra-mini.

- capacity: pairs a second through HTTP, one or 16 in a request, against `guard.judge` on a list of all; in turns.
- latency: one request after another against `guard.judge` on the same pair, in turns.
- overload: requests arrive at random moments, twice as many as can be judged, whether or not others were answered.
- soak: good and bad requests, chats and growing answers, while other clients hang up and are killed; see soaking.py.

What is to be waited for at overload. Requests share the guard by characters (serve/queue.py): of Q that wait, each gets
the Q-th part of what is judged. So one with L characters waits until L * Q are judged, whatever comes after it; then
for the batch that is under way, and its own, of B characters each at most:

    reckoned(L) = (L * Q + 2 * B) / C

at C characters a second. It is no hard bound, as turns are taken by batches; the result tells how often and by how much
it was passed. Q / rate is the wait of a text of mean length only: at p99 texts are 2.4 times as long, and so is their
wait. C is what was judged in the overload itself, from the first refusal on, as long as requests came: refusing, and
this client, take from what the guard can do alone. Each time is divided in three: until the request was sent, that in
the server by its own log, and the rest, on the way. What waits beyond the deadline gets 504; that is counted apart.

Client and server share the machine: what the client takes is missing to the server. It is written without an HTTP
library for that reason, and its share is in the result. Writes benchmarks/serve_load.json; parts that were not measured
stay there as they were. Ends with 1, and says why, where a request was lost, failed with 5xx or got another text's
verdict, and where memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from serving import (
    BATCH_CHARS,
    QUEUE,
    Connection,
    Server,
    guard_body,
    measured,
    own_share,
    pairs,
    spread,
    wrong_verdicts,
)
from soaking import FAULTS, GROWTH, soak

HERE = Path(__file__).parent
LIBRARIES = (
    *("libra-guard", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "httpx2"),
    *("onnxruntime", "tokenizers"),
)


class Bare:
    """The guard alone, in a process of its own that works when it is told to."""

    def __init__(self) -> None:
        command = [sys.executable, __file__, "--bare"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, what, value):
        """See ``bare``."""
        self.process.stdin.write(json.dumps([what, value]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """Lets it end."""
        self.process.stdin.close()
        self.process.wait()


def bare() -> None:
    """Does what it reads: ["scores", null], ["rate", passes], ["milliseconds", index of a pair]."""
    from libra_guard import Conversation, load_guard

    guard = load_guard("mini")
    all_pairs = [Conversation.from_pair(*p) for p in pairs()]
    for line in sys.stdin:
        what, value = json.loads(line)
        started = time.perf_counter()
        if what == "scores":
            found = [v.unsafe_score for v in guard.judge(all_pairs)]
        elif what == "rate":
            guard.judge(all_pairs * value)
            found = value * len(all_pairs) / (time.perf_counter() - started)
        else:
            guard.judge([all_pairs[value]])
            found = (time.perf_counter() - started) * 1000
        print(json.dumps(found), flush=True)


# --- the parts ----------------------------------------------------------------------------------------------------


async def saturate(port, scores, passes, size, connections) -> tuple[float, int]:
    """Pairs a second with so many requests always under way, over whole passes of the texts.

    Returns:
        The rate, and the number of answers that were not right.
    """
    texts, wrong = pairs(), 0
    count = passes * len(texts)
    turn = iter(range(0, count, size))
    started = time.perf_counter()

    async def client() -> None:
        nonlocal wrong
        connection = Connection(port)
        for begin in turn:
            some = [i % len(texts) for i in range(begin, min(begin + size, count))]
            status, _, content = await connection.ask("POST", "/v1/guard", guard_body(*(texts[i] for i in some)))
            wrong += status != 200 or wrong_verdicts(content, [scores[i] for i in some]) > 0
        connection.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return count / (time.perf_counter() - started), wrong


def capacity(server, reference, options) -> dict:
    """Rates in turns; the ratio is taken within a turn."""
    scores = reference.ask("scores", None)
    forms = {"one_in_a_request": (1, 32), "16_in_a_request": (16, 4)}
    asyncio.run(saturate(server.port, scores, 1, 1, 8))
    found: dict = {name: {"connections": c, "rates": []} for name, (_, c) in forms.items()}
    alone, wrong = [], 0
    with own_share(found):
        for _ in range(options.rounds):
            alone.append(reference.ask("rate", options.passes))
            for name, (size, connections) in forms.items():
                rate, bad = asyncio.run(saturate(server.port, scores, options.passes, size, connections))
                found[name]["rates"].append(round(rate, 1))
                wrong += bad
    for name in forms:
        ratios = [rate / other for rate, other in zip(found[name]["rates"], alone, strict=True)]
        found[name]["pairs_per_second"] = statistics.median(found[name]["rates"])
        found[name]["share_of_bare_guard"] = round(statistics.median(ratios), 3)
    found["bare_guard"] = {
        "rates": [round(r, 1) for r in alone],
        "pairs_per_second": round(statistics.median(alone), 1),
    }
    return found | {"wrong_answers": wrong}


def latency(server, reference, options) -> dict:
    """The same pair by itself, then through HTTP, or the other way round."""
    texts, chance = pairs(), random.Random(1)
    direct, asked = [], []

    async def run() -> None:
        connection = Connection(server.port)
        for turn in range(-20, options.requests):
            i = turn % len(texts)
            body = guard_body(texts[i])

            async def http(body=body) -> float:
                started = time.perf_counter()
                status, _, _ = await connection.ask("POST", "/v1/guard", body)
                assert status == 200
                return (time.perf_counter() - started) * 1000

            if chance.random() < 0.5:
                alone = reference.ask("milliseconds", i)
                through = await http()
            else:
                through = await http()
                alone = reference.ask("milliseconds", i)
            if turn >= 0:
                direct.append(alone)
                asked.append(through)
        connection.close()

    asyncio.run(run())
    overhead = spread([b - a for a, b in zip(direct, asked, strict=True)])
    return {"bare_guard_ms": spread(direct), "http_ms": spread(asked), "overhead_of_the_same_pair_ms": overhead}


class Answer(NamedTuple):
    """What came of one request; times in seconds, from the beginning or for so long."""

    pair: int
    due: float
    late: float
    """So long after it was due it was sent."""
    took: float
    """From the sending on."""
    status: int
    name: bytes
    """In the server's log."""
    told: bool
    """Whether it was told when to come back."""


def overload(server, reference, options) -> dict:
    """Open loop: a request's time counts from the moment it was to be sent."""
    scores = reference.ask("scores", None)
    can, _ = asyncio.run(saturate(server.port, scores, options.passes, 1, 32))
    rate, chance = 2 * can, random.Random(2)
    idle: list[Connection] = []
    answers: list[Answer] = []
    lost = wrong = 0
    bodies = [guard_body(p) for p in pairs()]

    async def one(at, began, i) -> None:
        nonlocal lost, wrong
        sent = time.perf_counter()
        connection = idle.pop() if idle else Connection(server.port)
        try:
            status, top, content = await connection.ask("POST", "/v1/guard", bodies[i])
        except (OSError, EOFError, TimeoutError):
            lost += 1
            return
        name, told = re.search(rb"x-request-id: (\S+)", top)[1], b"retry-after: " in top
        answers.append(Answer(i, at, sent - began - at, time.perf_counter() - sent, status, name, told))
        wrong += status == 200 and wrong_verdicts(content, [scores[i]])
        idle.append(connection)

    async def run() -> None:
        tasks, at, began = [], 0.0, time.perf_counter()
        while at < options.overload_seconds:
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            tasks.append(asyncio.create_task(one(at, began, len(tasks) % len(bodies))))
            at += chance.expovariate(rate)
        await asyncio.gather(*tasks)
        for connection in idle:
            connection.close()

    found: dict = {"capacity_per_second": round(can, 1), "arrivals_per_second": round(rate, 1)}
    with own_share(found):
        asyncio.run(run())
    # Then the server's log has the last line, too.
    time.sleep(1)
    statuses = Counter(answer.status for answer in answers)
    found["statuses"] = dict(sorted(statuses.items()))
    found["share_rejected"] = round(statuses[429] / max(1, len(answers)), 3)
    found["rejected_without_retry_after"] = sum(a.status == 429 and not a.told for a in answers)
    found |= waits(answers, server.times(), options.overload_seconds)
    failed = sum(statuses[s] for s in statuses if s >= 500 and s != 504)
    return found | {"past_the_deadline": statuses[504], "lost": lost, "wrong_answers": wrong, "failed": failed}


def waits(answers, in_server, seconds) -> dict:
    """How long the answers took, where, and how long they were reckoned to take; see the head of this file."""
    chars = [len(question) + len(answer) for question, answer in pairs()]
    full = min((a.due for a in answers if a.status == 429), default=0.0)
    judged = [a for a in answers if a.status == 200 and full < a.due + a.late + a.took < seconds]
    speed = max(1, sum(chars[a.pair] for a in judged)) / (seconds - full)

    def times(some) -> dict:
        return {
            "all_ms": spread([(a.late + a.took) * 1000 for a in some]),
            "until_sent_ms": spread([a.late * 1000 for a in some]),
            "in_the_server_ms": spread([in_server[a.name] for a in some]),
            "on_the_way_ms": spread([a.took * 1000 - in_server[a.name] for a in some]),
        }

    def accepted(some) -> dict:
        reckoned = [(chars[a.pair] * QUEUE + 2 * BATCH_CHARS) / speed for a in some]
        shares = [(a.late + a.took) / most for a, most in zip(some, reckoned, strict=True)]
        passed = {"answers": sum(share > 1 for share in shares), "most": round(max(shares, default=0.0), 2)}
        return {**times(some), "reckoned_ms": spread([r * 1000 for r in reckoned]), "times_reckoned": passed}

    found: dict = {"judged_per_second": round(len(judged) / (seconds - full), 1)}
    found["judged_characters_per_second"] = round(speed)
    for name, begin in (("first_half", 0.0), ("second_half", seconds / 2)):
        half = [a for a in answers if begin <= a.due < begin + seconds / 2]
        found[name] = {
            "accepted": accepted([a for a in half if a.status == 200]),
            "rejected": times([a for a in half if a.status == 429]),
        }
    return found


PARTS = {"capacity": capacity, "latency": latency, "overload": overload, "soak": soak}


def complaints(part, found) -> list[str]:
    """What is wrong in a part's result."""
    lines = [f"{found[fault]} {fault.replace('_', ' ')}" for fault in FAULTS if found.get(fault)]
    if (memory := found.get("memory_mb")) and memory["slope_per_minute_of_second_half"] > GROWTH:
        lines.append(f"memory grows by {memory['slope_per_minute_of_second_half']} MiB a minute; {GROWTH} are allowed")
    if found.get("stop", {}).get("exit_status"):
        lines.append(f"told to stop, the server ended with {found['stop']['exit_status']}")
    return [f"{part}: {line}" for line in lines]


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="of capacity")
    parser.add_argument("--passes", type=int, default=2, help="over the texts, of each measurement of capacity")
    parser.add_argument("--requests", type=int, default=420, help="of latency")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--soak-seconds", type=float, default=300.0)
    parser.add_argument("--out", type=Path, default=HERE / "serve_load.json")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        return bare()
    result = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    lengths = [len(q) + len(a) for q, a in pairs()]
    texts = {"set": "libra-mini", "pairs": len(lengths), "median_characters": statistics.median(lengths)}
    for name in options.parts:
        # Each part can be measured again by itself.
        when = measured(*LIBRARIES) | {"texts": texts, "client": "on the same machine"}
        with tempfile.TemporaryDirectory() as scratch:
            server, reference = Server(scratch), Bare()
            try:
                result[name] = {"measured": when, **PARTS[name](server, reference, options)}
            finally:
                reference.close()
                server.close()
        print(name, json.dumps(result[name], ensure_ascii=False), flush=True)
        options.out.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    if wrong := [line for part in options.parts for line in complaints(part, result[part])]:
        sys.exit("\n".join(wrong))
    return None


if __name__ == "__main__":
    main()
