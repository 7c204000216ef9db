"""What the benchmarks of the server share: texts, a client that takes little of the machine, a server to ask."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).parent
HOST = "127.0.0.1"
PATIENCE = 60.0
QUEUE, BATCH = 256, 16
"""The server's defaults, told to it again so that the result stands for itself."""


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


class Connection:
    """One keep-alive connection, opened when it is needed."""

    def __init__(self, port) -> None:
        self.port, self.writer = port, None

    async def ask(self, method, path, body=b"", kind="application/json"):
        """Status, headers as they came, and body of the answer.

        Raises:
            OSError, EOFError, TimeoutError: There is none.
        """
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(HOST, self.port)
        try:
            self.writer.write(head(method, path, len(body), kind) + body)
            async with asyncio.timeout(PATIENCE):
                top = (await self.reader.readuntil(b"\r\n\r\n")).lower()
                content = await self.reader.readexactly(int(re.search(rb"content-length: (\d+)", top)[1]))
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


class Server:
    """`libra serve` on a free port."""

    def __init__(self, scratch) -> None:
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.port = free.getsockname()[1]
        told = {"host": HOST, "port": self.port, "queue_size": QUEUE, "batch_size": BATCH}
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

    def close(self) -> None:
        """Stops it, by force if need be."""
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
