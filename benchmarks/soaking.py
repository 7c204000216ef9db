"""The soak of serve_load.py: every request of a client that stays gets its answer, whatever others do.

Clients that stay send requests to judge, to moderate and to refuse, answers that grow (`/v1/guard/stream`), and chats
through the proxy, whole and streamed, whose upstream is in this process. What comes is held against the text it is for.
Meanwhile others hang up at random, in the middle of what they send, while they wait or in the middle of a streamed
answer, and processes of clients are killed.

Memory is flat where a line through the resident set in the second half rises by 0.3 MiB a minute or less. At 2,600
requests a minute, as in the soak of five minutes that the limit was chosen by, that is some 120 bytes for each: less
than anything that could be kept of one by mistake. It is not less because the heap is still finding its size then: such
soaks rose by 0.25 and 0.34. Where it is passed by a little, a longer soak tells a leak, which goes on, from that, which
ends.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import socket
import statistics
import struct
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from serving import HOST, Connection, Upstream, guard_body, head, own_share, pairs, wrong_verdicts

FAULTS = ("lost", "failed", "wrong_answers", "unexpected_statuses")
"""What must not be, as it is counted."""
GROWTH = 0.3
"""Of the server's memory, in MiB a minute, at most."""


class Request(NamedTuple):
    """One request, and what is to come of it."""

    kind: str
    method: str
    path: str
    body: bytes = b""
    wanted: int = 200
    fault: Callable[[bytes], str | None] = lambda _: None
    """What is wrong with an answer of status 200: ``wrong_answers``, ``failed``, or nothing."""
    type: str = "application/json"


def verdicts(some, scores, **options) -> Request:
    """A request to judge these pairs."""

    def fault(content):
        return "wrong_answers" if wrong_verdicts(content, [scores[i] for i in some]) else None

    kind = "verdicts with reasons" if options else "verdicts"
    return Request(kind, "POST", "/v1/guard", guard_body(*(pairs()[i] for i in some), **options), fault=fault)


def chat(i, score, *, stream) -> Request:
    """A question, through the proxy, which the upstream answers as in the pair."""
    question, answer = pairs()[i]
    asked = {"model": str(i), "messages": [{"role": "user", "content": question}], "stream": stream}

    def whole(content):
        found = json.loads(content)
        (choice,), libra = found["choices"], found["libra"]
        right = choice["finish_reason"] == "content_filter" or choice["message"]["content"] == answer
        if libra["stage"] == "response":
            right = right and abs(libra["verdict"]["unsafe_score"] - score) <= 1e-6
        return None if right else "wrong_answers"

    def streamed(content):
        events = [line.removeprefix("data: ") for line in content.decode().split("\n") if line.startswith("data: ")]
        chunks = [json.loads(event) for event in events[:-1]]
        if events[-1] != "[DONE]" or any("error" in chunk for chunk in chunks):
            return "failed"
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        texts = [text for choice in choices if (text := choice["delta"].get("content"))]
        if choices[-1]["finish_reason"] == "content_filter":
            # The last text is the safe answer.
            return None if answer.startswith("".join(texts[:-1])) else "wrong_answers"
        return None if "".join(texts) == answer else "wrong_answers"

    kind, fault = ("streamed chat", streamed) if stream else ("chat", whole)
    return Request(kind, "POST", "/v1/chat/completions", json.dumps(asked).encode(), fault=fault)


def growth(i, text="", state=None, *, end=False) -> Request:
    """What an answer has grown by."""
    told = {"question": pairs()[i][0], "text": text, "state": state, "end": end}
    return Request("growing answer", "POST", "/v1/guard/stream", json.dumps(told).encode())


def request_of_a_soak(scores, chance) -> Request:
    """One of the mix; growing answers are several requests, and come besides."""
    texts = pairs()
    some = [chance.randrange(len(texts)) for _ in range(chance.choice((1, 1, 1, 3, 8)))]
    i, path, good = some[0], "/v1/guard", verdicts(some, scores)
    inputs = json.dumps({"input": [texts[i][0] for i in some]}).encode()
    half, wrong = good.body[: chance.randrange(len(good.body))], good.body.replace(b'"role"', b'"roll"')
    mix = [
        (40, good),
        (5, verdicts(some[:1], scores, explain=True)),
        (15, Request("moderation", "POST", "/v1/moderations", inputs)),
        (10, chat(i, scores[i], stream=False)),
        (15, chat(i, scores[i], stream=True)),
        (5, Request("half a body", "POST", path, half, 400)),
        (5, Request("unknown field", "POST", path, wrong, 400)),
        (3, Request("no input", "POST", "/v1/moderations", b'{"input": []}', 400)),
        (3, Request("unknown guard", "POST", path, guard_body(texts[0], guard="nobody"), 404)),
        (3, Request("wrong type", "POST", path, good.body, 415, type="text/plain")),
        (3, Request("unknown path", "POST", "/v1/nothing", good.body, 404)),
        (3, Request("wrong method", "DELETE", path, wanted=405)),
        (1, Request("too long a body", "POST", path, b" " * 1_100_000, 413)),
        (3, Request("guards", "GET", "/v1/guards")),
        (2, Request("metrics", "GET", "/metrics")),
        (2, Request("healthz", "GET", "/healthz")),
    ]
    return chance.choices([request for _, request in mix], [weight for weight, _ in mix])[0]


class Seen:
    """What came of the requests of clients that stay."""

    def __init__(self) -> None:
        self.kinds: dict[str, Counter] = defaultdict(Counter)
        """Statuses of each kind, ``lost`` among them."""
        self.faults, self.unexpected = Counter(), Counter()

    async def ask(self, connection, request) -> bytes | None:
        """Asks, counts, and looks into the answer: returned where it is one of status 200."""
        try:
            status, _, content = await connection.ask(request.method, request.path, request.body, request.type)
        except (OSError, EOFError, TimeoutError) as error:
            self.kinds[request.kind]["lost"] += 1
            self.note(request, "lost", type(error).__name__)
            return None
        self.kinds[request.kind][str(status)] += 1
        if status >= 500:
            self.note(request, "failed", status)
        elif status not in (request.wanted, 429 if request.wanted == 200 else request.wanted):
            self.note(request, "unexpected_statuses", status)
        elif status == 200 and (fault := request.fault(content)):
            self.note(request, fault, fault)
        return content if status == 200 else None

    async def grow(self, connection, i, chance) -> None:
        """An answer in pieces, up to its end or to where it is stopped or refused."""
        answer, at, released, state = pairs()[i][1], 0, "", None
        while at < len(answer):
            text = answer[at : at + chance.randint(1, 60)]
            at += len(text)
            request = growth(i, text, state, end=at == len(answer))
            content = await self.ask(connection, request)
            if content is None:
                return
            found = json.loads(content)
            released, state = released + found["released"], found["state"]
            if found["stopped"]:
                break
        if not answer.startswith(released) or (not found["stopped"] and released != answer):
            self.note(request, "wrong_answers", "wrong_answers")

    def note(self, request, fault, what) -> None:
        """Counts what should not be."""
        self.faults[fault] += 1
        self.unexpected[f"{request.kind}: {what}"] += 1


async def hang_up(port, chance) -> str:
    """Asks, and resets the connection at some moment.

    Returns:
        When it did.
    """
    i = chance.randrange(len(pairs()))
    mix = (verdicts([i] * chance.choice((1, 8)), ()), growth(i, pairs()[i][1]), chat(i, 0, stream=False))
    when = chance.choice(("in the request", "while it waited", "in a streamed answer"))
    request = chat(i, 0, stream=True) if "streamed" in when or chance.random() < 0.25 else chance.choice(mix)
    data = head(request.method, request.path, len(request.body)) + request.body
    with suppress(OSError, EOFError, TimeoutError):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            writer.write(data[: chance.randrange(len(data))] if when == "in the request" else data)
            if "streamed" in when:
                async with asyncio.timeout(10):
                    await reader.readuntil(b"\r\n\r\n")
                    await reader.readuntil(b"\n")
            await asyncio.sleep(chance.expovariate(10))
        finally:
            writer.transport.abort()
    return when


async def doomed(port) -> None:
    """What runs in a client that will be killed: four connections that ask without pause."""

    async def client(n) -> None:
        connection, chance = Connection(port), random.Random(n)
        while True:
            some = chance.choices(range(len(pairs())), k=4)
            request = verdicts(some, ()) if n % 2 else chat(some[0], 0, stream=True)
            with suppress(OSError, EOFError):
                await connection.ask(request.method, request.path, request.body)

    await asyncio.gather(*(client(n) for n in range(4)))


def soak(server, reference, options) -> dict:
    """Every request of a client that stays must get its answer, whatever others do."""
    scores, chance = reference.ask("scores", None), random.Random(3)
    end = time.perf_counter() + options.soak_seconds
    seen, hung_up, upstream = Seen(), Counter(), Upstream()
    killed = 0
    memory: list[tuple[float, float]] = []

    async def stays(number) -> None:
        connection, own = Connection(server.port), random.Random(100 + number)
        while time.perf_counter() < end:
            if own.random() < 0.05:
                await seen.grow(connection, own.randrange(len(scores)), own)
            else:
                await seen.ask(connection, request_of_a_soak(scores, own))
            await asyncio.sleep(own.expovariate(20))
        connection.close()

    async def hangs_up() -> None:
        while time.perf_counter() < end:
            hung_up[await hang_up(server.port, chance)] += 1

    async def kills() -> None:
        nonlocal killed
        command = [sys.executable, __file__, str(server.port)]
        while time.perf_counter() < end:
            process = await asyncio.create_subprocess_exec(*command)
            await asyncio.sleep(chance.uniform(0.5, 3))
            process.kill()
            await process.wait()
            killed += 1

    async def watches() -> None:
        while (now := time.perf_counter()) < end:
            memory.append((now / 60, server.memory()))
            await asyncio.sleep(2)

    async def run() -> None:
        async with await asyncio.start_server(upstream.serve, HOST, server.upstream_port):
            await asyncio.gather(*(stays(n) for n in range(12)), *(hangs_up() for _ in range(3)), kills(), watches())
            # What the last killed client had asked for is let go of.
            await asyncio.sleep(2)

    descriptors = server.descriptors()
    found: dict = {"seconds": options.soak_seconds}
    with own_share(found):
        asyncio.run(run())
    found |= {
        "requests_of_clients_that_stay": sum(map(Counter.total, seen.kinds.values())),
        "kinds": {kind: dict(sorted(statuses.items())) for kind, statuses in sorted(seen.kinds.items())},
        "unexpected": dict(seen.unexpected),
        "hung_up": dict(sorted(hung_up.items())),
        "killed_processes": killed,
        "upstream": {"asked": upstream.asked, "hung_up_on": upstream.cut},
        **{fault: seen.faults[fault] for fault in FAULTS},
        "memory_mb": growing(memory),
        "open_descriptors": {"start": descriptors, "end": server.descriptors()},
        "queue_at_the_end": asyncio.run(waiting(server.port)),
        "stop": asyncio.run(stop(server)),
    }
    found["lost"] += found["stop"]["under_way"] - found["stop"]["answered"]
    return found


def growing(memory) -> dict:
    """How the resident set went.

    Args:
        memory: Minutes and MiB.
    """
    late = memory[len(memory) // 2 :]
    return {
        "start": round(memory[0][1], 1),
        "middle": round(late[0][1], 1),
        "end": round(memory[-1][1], 1),
        "highest": round(max(mb for _, mb in memory), 1),
        "samples": len(memory),
        "slope_per_minute_of_second_half": round(statistics.linear_regression(*zip(*late, strict=True)).slope, 3),
        "slope_allowed": GROWTH,
    }


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


if __name__ == "__main__":
    asyncio.run(doomed(int(sys.argv[1])))
