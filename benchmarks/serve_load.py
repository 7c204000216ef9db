"""The server under load: what HTTP costs, what happens at twice the capacity, and minutes with clients that are killed.

    python benchmarks/serve_load.py                                    # all parts, some 12 minutes
    python benchmarks/serve_load.py --parts capacity latency           # these alone, some 5 minutes

Each part asks a `libra serve` with Mini of its own on 127.0.0.1; the texts are those of libra-mini.

- capacity: pairs a second through HTTP, one or 16 in a request, against `guard.judge` on a list of all; in turns.
- latency: one request after another against `guard.judge` on the same pair, in turns.
- overload: requests arrive at random moments, twice as many as can be judged, whether or not others were answered.
- soak: good and bad requests, while other clients hang up at random and whole processes of them are killed.

Client and server share the machine: what the client takes is missing to the server. It is written without an HTTP
library for that reason, and its share is in the result. Writes benchmarks/serve_load.json; parts that were not measured
stay there as they were. Ends with 1 where a request was lost, failed with 5xx or got another text's verdict.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

from serving import BATCH, HOST, QUEUE, Connection, Server, guard_body, head, pairs

HERE = Path(__file__).parent


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


@contextmanager
def own_share(found):
    """Adds the share of one core that the client took."""
    wall, own = time.perf_counter(), time.process_time()
    yield
    found["client_share_of_one_core"] = round((time.process_time() - own) / (time.perf_counter() - wall), 3)


def wrong_verdicts(content, wanted) -> int:
    """How many of an answer's scores are not those of their texts."""
    scores = [result["verdict"]["unsafe_score"] for result in json.loads(content)["results"]]
    return sum(abs(a - b) > 1e-6 for a, b in zip(scores, wanted, strict=True))


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


def spread(times) -> dict | None:
    """Median and tail of some milliseconds; None for fewer than two."""
    if len(times) < 2:
        return None
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"p50": round(cuts[49], 2), "p95": round(cuts[94], 2), "p99": round(cuts[98], 2), "count": len(times)}


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


def overload(server, reference, options) -> dict:
    """Open loop: a request's time counts from the moment it was to be sent."""
    scores = reference.ask("scores", None)
    can, _ = asyncio.run(saturate(server.port, scores, options.passes, 1, 32))
    rate, chance = 2 * can, random.Random(2)
    idle: list[Connection] = []
    answers: list[tuple[float, int, float, bool]] = []
    lost = wrong = 0
    texts = pairs()
    bodies = [guard_body(p) for p in texts]

    async def one(at, began, i) -> None:
        nonlocal lost, wrong
        connection = idle.pop() if idle else Connection(server.port)
        try:
            status, top, content = await connection.ask("POST", "/v1/guard", bodies[i])
        except (OSError, EOFError, TimeoutError):
            lost += 1
            return
        answers.append((at, status, (time.perf_counter() - began - at) * 1000, b"retry-after: " in top))
        wrong += status == 200 and wrong_verdicts(content, [scores[i]])
        idle.append(connection)

    async def run() -> None:
        tasks, at, began = [], 0.0, time.perf_counter()
        while at < options.overload_seconds:
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            tasks.append(asyncio.create_task(one(at, began, len(tasks) % len(texts))))
            at += chance.expovariate(rate)
        await asyncio.gather(*tasks)
        for connection in idle:
            connection.close()

    found: dict = {"capacity_per_second": round(can, 1), "arrivals_per_second": round(rate, 1)}
    with own_share(found):
        asyncio.run(run())
    middle = options.overload_seconds / 2
    found["bound_ms"] = round((QUEUE + 2 * BATCH) / can * 1000)
    for name, half in (("first_half", lambda at: at < middle), ("second_half", lambda at: at >= middle)):
        found[name] = {
            "accepted_ms": spread([ms for at, status, ms, _ in answers if half(at) and status == 200]),
            "rejected_ms": spread([ms for at, status, ms, _ in answers if half(at) and status == 429]),
        }
    statuses = Counter(status for _, status, _, _ in answers)
    found["statuses"] = dict(sorted(statuses.items()))
    found["share_rejected"] = round(statuses[429] / max(1, len(answers)), 3)
    found["rejected_without_retry_after"] = sum(status == 429 and not told for _, status, _, told in answers)
    return found | {"lost": lost, "wrong_answers": wrong, "failed": sum(statuses[s] for s in statuses if s >= 500)}


# --- the soak -----------------------------------------------------------------------------------------------------


def requests_of_a_soak(texts, chance):
    """One request of the mix: method, path, body, content type, the status it must get, and its pairs."""
    some = [chance.randrange(len(texts)) for _ in range(chance.choice((1, 1, 1, 3, 8)))]
    good = guard_body(*(texts[i] for i in some))
    kind = "application/json"
    mix = [
        (40, ("POST", "/v1/guard", good, kind, 200, some)),
        (5, ("POST", "/v1/guard", guard_body(texts[some[0]], explain=True), kind, 200, some[:1])),
        (15, ("POST", "/v1/moderations", json.dumps({"input": [texts[i][0] for i in some]}).encode(), kind, 200, [])),
        (5, ("POST", "/v1/guard", good[: chance.randrange(len(good))], kind, 400, [])),
        (5, ("POST", "/v1/guard", good.replace(b'"role"', b'"roll"'), kind, 400, [])),
        (3, ("POST", "/v1/moderations", b'{"input": []}', kind, 400, [])),
        (3, ("POST", "/v1/guard", guard_body(texts[0], guard="nobody"), kind, 404, [])),
        (3, ("POST", "/v1/guard", good, "text/plain", 415, [])),
        (3, ("POST", "/v1/nothing", good, kind, 404, [])),
        (3, ("DELETE", "/v1/guard", b"", kind, 405, [])),
        (1, ("POST", "/v1/guard", b" " * 1_100_000, kind, 413, [])),
        (3, ("GET", "/v1/guards", b"", kind, 200, [])),
        (2, ("GET", "/metrics", b"", kind, 200, [])),
        (2, ("GET", "/healthz", b"", kind, 200, [])),
    ]
    return chance.choices([request for _, request in mix], [weight for weight, _ in mix])[0]


async def hang_up(port, chance, texts) -> None:
    """Sends a part of a request, or all of it, and resets the connection some time later."""
    body = guard_body(*chance.choices(texts, k=chance.choice((1, 8))))
    data = head("POST", "/v1/guard", len(body)) + body
    with suppress(OSError):
        _, writer = await asyncio.open_connection(HOST, port)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.write(data[: chance.choice((len(data), chance.randrange(len(data))))])
        await asyncio.sleep(chance.expovariate(10))
        writer.transport.abort()


async def doomed(port) -> None:
    """What runs in a client that will be killed: four connections that ask without pause."""
    texts = pairs()

    async def client(n) -> None:
        connection, chance = Connection(port), random.Random(n)
        while True:
            with suppress(OSError, EOFError):
                await connection.ask("POST", "/v1/guard", guard_body(*chance.choices(texts, k=4)))

    await asyncio.gather(*(client(n) for n in range(4)))


def soak(server, reference, options) -> dict:
    """Every request of a client that stays must get its answer, whatever others do."""
    scores, texts, chance = reference.ask("scores", None), pairs(), random.Random(3)
    end = time.perf_counter() + options.minutes * 60
    count, statuses, unexpected = Counter(), Counter(), Counter()
    memory: list[tuple[float, float]] = []

    async def stays(number) -> None:
        connection, own = Connection(server.port), random.Random(100 + number)
        while time.perf_counter() < end:
            method, path, body, kind, wanted, some = requests_of_a_soak(texts, own)
            count["requests"] += 1
            try:
                status, _, content = await connection.ask(method, path, body, kind)
            except (OSError, EOFError, TimeoutError) as error:
                count["lost"] += 1
                unexpected[f"{method} {path} {wanted}: {type(error).__name__}"] += 1
                continue
            statuses[status] += 1
            if status not in (wanted, 429 if wanted == 200 else wanted):
                unexpected[f"{method} {path} {wanted}: {status}"] += 1
            elif status == 200 and some:
                count["wrong_answers"] += wrong_verdicts(content, [scores[i] for i in some])
            await asyncio.sleep(own.expovariate(20))
        connection.close()

    async def hangs_up() -> None:
        while time.perf_counter() < end:
            await hang_up(server.port, chance, texts)
            count["hung_up"] += 1

    async def kills() -> None:
        command = [sys.executable, __file__, "--doomed", str(server.port)]
        while time.perf_counter() < end:
            process = await asyncio.create_subprocess_exec(*command)
            await asyncio.sleep(chance.uniform(0.5, 3))
            process.kill()
            await process.wait()
            count["killed_processes"] += 1

    async def watches() -> None:
        while (now := time.perf_counter()) < end:
            memory.append((now / 60, server.memory()))
            await asyncio.sleep(1)

    async def run() -> None:
        await asyncio.gather(*(stays(n) for n in range(12)), hangs_up(), hangs_up(), kills(), watches())
        # What the last killed client had asked for is let go of.
        await asyncio.sleep(2)

    descriptors = server.descriptors()
    found: dict = {"minutes": options.minutes, "good_and_bad_requests_of_clients_that_stay": 0}
    with own_share(found):
        asyncio.run(run())
    late = memory[len(memory) // 2 :]
    found |= {
        "good_and_bad_requests_of_clients_that_stay": count["requests"],
        "statuses": dict(sorted(statuses.items())),
        "unexpected": dict(unexpected),
        "hung_up": count["hung_up"],
        "killed_processes": count["killed_processes"],
        "lost": count["lost"],
        "failed": sum(n for status, n in statuses.items() if status >= 500),
        "wrong_answers": count["wrong_answers"],
        "memory_mb": {
            "start": round(memory[0][1], 1),
            "middle": round(late[0][1], 1),
            "end": round(memory[-1][1], 1),
            "highest": round(max(mb for _, mb in memory), 1),
            "slope_per_minute_of_second_half": round(statistics.linear_regression(*zip(*late, strict=True)).slope, 3),
        },
        "open_descriptors": {"start": descriptors, "end": server.descriptors()},
    }
    return found | {"queue_at_the_end": asyncio.run(waiting(server.port)), "stop": asyncio.run(stop(server))}


async def waiting(port) -> float:
    """What waits for the guard by the server's own metrics."""
    _, _, content = await Connection(port).ask("GET", "/metrics")
    return sum(float(n) for n in re.findall(rb"^libra_queue_depth\{[^}]*\} (\S+)$", content, re.MULTILINE))


async def stop(server, count=32) -> dict:
    """SIGTERM while requests are under way: they are to be answered."""
    texts = pairs()
    asked = [
        asyncio.create_task(Connection(server.port).ask("POST", "/v1/guard", guard_body(*texts[i : i + 4])))
        for i in range(count)
    ]
    await asyncio.sleep(0.3)
    started = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    status = await asyncio.to_thread(server.process.wait, 40)
    answered = sum(isinstance(a, tuple) and a[0] == 200 for a in answers)
    seconds = round(time.perf_counter() - started, 2)
    return {"under_way": count, "answered": answered, "seconds": seconds, "exit_status": status}


PARTS = {"capacity": capacity, "latency": latency, "overload": overload, "soak": soak}


def measured() -> dict:
    """When a part was measured, on what, and of what: each part can be measured again by itself."""
    from importlib.metadata import version

    from libra_guard import load_guard

    lengths = [len(q) + len(a) for q, a in pairs()]
    names = ("libra-guard", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "onnxruntime", "tokenizers")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "load_before": round(os.getloadavg()[0], 2),
        "mini": load_guard("mini").provenance()["model_hash"],
        "texts": {"set": "libra-mini", "pairs": len(lengths), "median_characters": statistics.median(lengths)},
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, shared by server and client",
        "versions": {"python": platform.python_version()} | {n: version(n) for n in names},
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="of capacity")
    parser.add_argument("--passes", type=int, default=2, help="over the texts, of each measurement of capacity")
    parser.add_argument("--requests", type=int, default=420, help="of latency")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--minutes", type=float, default=5.0, help="of the soak")
    parser.add_argument("--out", type=Path, default=HERE / "serve_load.json")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--doomed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        return bare()
    if options.doomed:
        return asyncio.run(doomed(options.doomed))
    result = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    for name in options.parts:
        when = measured()
        with tempfile.TemporaryDirectory() as scratch:
            server, reference = Server(scratch), Bare()
            try:
                result[name] = {"measured": when, **PARTS[name](server, reference, options)}
            finally:
                reference.close()
                server.close()
        print(name, json.dumps(result[name], ensure_ascii=False), flush=True)
        options.out.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    faults = ("lost", "failed", "wrong_answers")
    return sys.exit(any(result[part].get(fault) for part in options.parts for fault in faults))


if __name__ == "__main__":
    main()
