"""What the benchmarks of the server share: texts, a client that takes little of the machine, a server, its upstream."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import re
import shlex
import socket
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from machine import machine

HERE = Path(__file__).parent
HOST = "127.0.0.1"
PATIENCE = 60.0
QUEUE, BATCH, BATCH_CHARS = 256, 16, 4000
"""The server's defaults, told to it again so that the result stands for itself."""


def measured(*libraries) -> dict:
    """When, by which command, with which guard and on what something is measured."""
    from libra_guard import load_guard

    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "load_before": round(os.getloadavg()[0], 2),
        "mini": load_guard("mini").provenance()["model_hash"],
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in libraries},
    }


@cache
def pairs():
    """Questions and answers of libra-mini."""
    samples = json.loads((HERE.parent / "examples" / "libra-mini.json").read_text(encoding="utf-8"))
    return [(s["question"], s["response"]) for s in samples]


def conversation(pair):
    """As POST /v1/guard takes it."""
    question, answer = pair
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def guard_body(*some, **options) -> bytes:
    """A request to judge these pairs."""
    return json.dumps({"conversations": [conversation(p) for p in some], **options}).encode()


def head(method, path, length, kind="application/json") -> bytes:
    """What stands before a body."""
    return (
        f"{method} {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


async def body(reader, top) -> bytes:
    """What follows on a head, of a length that is told or in chunks."""
    if length := re.search(rb"content-length: (\d+)", top):
        return await reader.readexactly(int(length[1]))
    content = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        content += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return content


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


def spread(values) -> dict | None:
    """Median and tail; None for fewer than two values."""
    if len(values) < 2:
        return None
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": round(cuts[49], 2), "p95": round(cuts[94], 2), "p99": round(cuts[98], 2), "count": len(values)}


class Connection:
    """One keep-alive connection, opened when it is needed."""

    def __init__(self, port) -> None:
        self.port, self.writer = port, None

    async def ask(self, method, path, content=b"", kind="application/json"):
        """Status, headers as they came, and body of the answer.

        Raises:
            OSError, EOFError, TimeoutError: There is none.
        """
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(HOST, self.port)
        try:
            self.writer.write(head(method, path, len(content), kind) + content)
            async with asyncio.timeout(PATIENCE):
                top = (await self.reader.readuntil(b"\r\n\r\n")).lower()
                content = await body(self.reader, top)
        except BaseException:
            self.close()
            raise
        if b"connection: close" in top:
            self.close()
        return int(top[9:12]), top, content

    def close(self) -> None:
        """Breaks it off."""
        if self.writer is not None:
            self.writer.transport.abort()
            self.writer = None


class Upstream:
    """A model's server: answers what `model` numbers, a pair of libra-mini, at once or in pieces as it would write it.

    ``asked`` counts requests, ``cut`` those whose answer was not wanted any more.
    """

    def __init__(self) -> None:
        self.asked = self.cut = 0

    async def serve(self, reader, writer) -> None:
        """One connection, for ``asyncio.start_server``."""
        with suppress(EOFError, OSError, asyncio.CancelledError):
            while True:
                asked = json.loads(await body(reader, (await reader.readuntil(b"\r\n\r\n")).lower()))
                self.asked += 1
                self.cut += 1
                await (self.stream if asked["stream"] else self.whole)(writer, asked["model"])
                self.cut -= 1
        writer.close()

    async def whole(self, writer, model) -> None:
        """A completion."""
        message = {"role": "assistant", "content": pairs()[int(model)][1]}
        content = json.dumps(completion(model, message=message, finish_reason="stop")).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
        writer.write(b"content-length: %d\r\n\r\n%s" % (len(content), content))
        await writer.drain()

    async def stream(self, writer, model) -> None:
        """Chunks of one to eight characters, some 40 a second."""
        answer, at = pairs()[int(model)][1], 0
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        while at < len(answer):
            piece = answer[at : at + random.randint(1, 8)]
            at += len(piece)
            await send_event(writer, json.dumps(completion(model, delta={"content": piece}, finish_reason=None)))
            await asyncio.sleep(0.025)
        await send_event(writer, json.dumps(completion(model, delta={}, finish_reason="stop")))
        await send_event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def completion(model, **choice) -> dict:
    """A chat completion, or a chunk of one, with one choice."""
    kind = "chat.completion.chunk" if "delta" in choice else "chat.completion"
    return {"id": "c-1", "object": kind, "created": 1, "model": model, "choices": [{"index": 0, **choice}]}


async def send_event(writer, data) -> None:
    """A server-sent event, as a chunk of HTTP."""
    event = f"data: {data}\n\n".encode()
    writer.write(b"%x\r\n%s\r\n" % (len(event), event))
    await writer.drain()


class Server:
    """`libra serve` on a free port, before an upstream on another one, which nobody need have opened."""

    def __init__(self, scratch) -> None:
        with socket.socket() as free, socket.socket() as other:
            free.bind((HOST, 0))
            other.bind((HOST, 0))
            self.port, self.upstream_port = free.getsockname()[1], other.getsockname()[1]
        told = {"host": HOST, "port": self.port, "upstream": f"http://{HOST}:{self.upstream_port}/v1"}
        told |= {"queue_size": QUEUE, "batch_size": BATCH, "batch_chars": BATCH_CHARS}
        told = {f"LIBRA_SERVE_{name.upper()}": str(value) for name, value in told.items()}
        self.log = Path(scratch) / "server.log"
        with self.log.open("ab") as log:
            command = [Path(sys.executable).with_name("libra"), "serve"]
            self.process = subprocess.Popen(command, env=os.environ | told, stdout=log, stderr=log)
        asyncio.run(self.ready())

    async def ready(self) -> None:
        """Waits until it answers."""
        for _ in range(600):
            connection = Connection(self.port)
            with suppress(OSError, EOFError):
                if (await connection.ask("GET", "/readyz"))[0] == 200:
                    return
            if self.process.poll() is not None:
                break
            await asyncio.sleep(0.1)
        sys.exit(f"the server did not start: {self.log.read_text()[-2000:]}")

    def memory(self) -> float:
        """Resident set in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def descriptors(self) -> int:
        """Open files and sockets."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def times(self) -> dict[bytes, float]:
        """Milliseconds that requests were in the server, by id: from their heads to the ends of their answers."""
        lines = [json.loads(line) for line in self.log.read_text("utf-8").splitlines() if line.startswith("{")]
        return {line["request_id"].encode(): line["ms"] for line in lines if "ms" in line}

    def close(self) -> None:
        """Stops it, by force if need be."""
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
