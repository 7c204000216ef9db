"""Kills a running pipeline at random moments and starts it again: is what it writes that of a quiet run?

    python benchmarks/synth_kill.py --kills 20
    python benchmarks/synth_kill.py --kills 20 --served --out benchmarks/synth_kill_served.json

Runs configs/synth/offline.yaml, or with --served two models with prices that write, answer and judge on a server, twice
in quiet (the bytes must be equal), then with kills: two in each step, the others where the time goes, each at a random
moment of the step; a run that got past a step begins anew. Compared are all files of steps/ and data/, the card too, of
each run that came to its end. The result tells in which step each kill fell. Writes benchmarks/synth_kill.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from machine import machine

from libra_guard.synth import run

HERE = Path(__file__).parent
CONFIG = HERE.parent / "configs" / "synth" / "offline.yaml"
STEPS = tuple(run.STEPS)
TRIES = 5
"""To hit a step of some milliseconds; a kill that missed it hit another one."""


POOL = "风花雪月山川湖海春夏秋冬东南西北金木水火土日星云雨雷电江河田野草树竹石桥路车船琴棋书画诗酒茶米油盐酱醋"


class Model(BaseHTTPRequestHandler):
    """Writes, answers and judges by rule: the same for the same text and seed, after a while that is never the same."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Chat completions."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        time.sleep(random.uniform(0, 0.02))
        question = asked["model"] + asked["messages"][-1]["content"]
        # One in five answers can be used in none of the seats, of which another seed brings a new one.
        draw = hashlib.sha256(f"{question}{asked.get('seed')}".encode()).digest()[0]
        text = said(question) if draw % 5 else "Sorry?"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": len(str(asked)), "completion_tokens": len(text), "total_tokens": 0}
        body = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "choices": [choice], "usage": usage})
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Server(ThreadingHTTPServer):
    """Takes a client that is killed as a matter of course."""

    def handle_error(self, *_: object) -> None:
        """Says nothing."""


def said(text: str) -> str:
    """What a model says in the seat that a text shows."""

    def words(*about: object) -> str:
        return "".join(POOL[byte % len(POOL)] for byte in hashlib.sha256(repr(about).encode()).digest()[:14])

    if "条提问" in text:
        return "\n".join(f"{n}. {words(text, n)}怎么办" for n in range(1, 11))
    if "大语言模型的回答" in text:
        label = "不安全" if hashlib.sha256(text.encode()).digest()[0] % 3 else "安全"
        return json.dumps({"答案": label, "分析": words(text)}, ensure_ascii=False)
    return f"改写：{words(text)}怎么办" if "改写" in text else f"{words(text)}。"


def served(scratch: Path) -> Path:
    """Starts the server; the settings of a run on it."""
    server = Server(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    models = {
        name: {
            "backend": "openai",
            "model": name,
            "endpoints": [f"http://127.0.0.1:{server.server_port}/{name}/v1"],
            "concurrency": 4,
            "price": {"input": 0.1, "output": 0.7},
        }
        for name in ("one", "two")
    }
    judges = [{"guard": "libra", "model": name} for name in models]
    seats = {"writer": "one", "responders": list(models), "judges": judges, "arbiter": judges[1]}
    config = scratch / "served.yaml"
    settings = {"name": "served", "for_trying": True, "models": models, "seats": seats}
    settings["queries"] = {"harmful": 4, "borderline": 2, "benign": 20}
    config.write_text(json.dumps(settings), encoding="utf-8")
    return config


def start(config: Path, out: Path, settings: Sequence[str]) -> subprocess.Popen:
    """`libra synth run`."""
    command = [str(Path(sys.executable).with_name("libra")), "synth", "run", str(config), "--out", str(out)]
    return subprocess.Popen([*command, *(f"--set={one}" for one in settings)], stderr=subprocess.DEVNULL)


def content(out: Path) -> dict[str, bytes]:
    """All that a run wrote but its store of calls."""
    files = (file for part in ("steps", "data") for file in (out / part).rglob("*"))
    return {str(file.relative_to(out)): file.read_bytes() for file in files if file.is_file()}


def unfinished(out: Path) -> str:
    """The step that a run is at; empty where all are done."""
    return next((step for step in STEPS if not (out / "steps" / f"{step}.json").exists()), "")


def timed(process: subprocess.Popen, out: Path) -> dict[str, float]:
    """Waits for a run; the seconds that each step took, its start among the first one's."""
    ended, began = {}, time.monotonic()
    while process.poll() is None:
        done = STEPS[: STEPS.index(at)] if (at := unfinished(out)) else STEPS
        for step in done:
            ended.setdefault(step, time.monotonic() - began)
        time.sleep(0.02)
    moments = [0.0, *(ended.get(step, time.monotonic() - began) for step in STEPS)]
    return {step: max(0.0, end - begin) for step, (begin, end) in zip(STEPS, pairwise(moments), strict=True)}


def planned(kills: int, seconds: dict[str, float]) -> list[str]:
    """In which step each kill is to fall, in order."""
    plan = [step for step in STEPS for _ in range(2)]
    while len(plan) < kills:
        plan.append(max(STEPS, key=lambda step: seconds[step] / (1 + plan.count(step))))
    return sorted(plan[:kills], key=STEPS.index)


def kill_in(step: str, process: subprocess.Popen, out: Path, after: float) -> str | None:
    """Kills a run so many seconds after it came to a step; the step that it was at, None where it ended before."""
    while STEPS.index(unfinished(out) or STEPS[-1]) < STEPS.index(step) and process.poll() is None:
        time.sleep(0.002)
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return unfinished(out) or "after the last"
    return None


def past(step: str, out: Path) -> bool:
    """Whether a run has nothing more to do in a step."""
    at = unfinished(out)
    return not at or STEPS.index(at) > STEPS.index(step)


def main() -> None:
    """Two quiet runs and a killed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--served", action="store_true", help="Models on a server, in place of a grammar.")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="As for `libra synth run`.")
    parser.add_argument("--out", type=Path, default=HERE / "synth_kill.json")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        config = served(Path(scratch)) if options.served else CONFIG
        quiet, steps = [], {}
        for name in ("first", "second"):
            out = Path(scratch, name)
            steps = timed(start(config, out, options.set), out)
            quiet.append((sum(steps.values()), content(out)))
        killed, kills, same = Path(scratch, "killed"), [], []
        for step in planned(options.kills, steps):
            for _ in range(TRIES):
                if past(step, killed):
                    shutil.rmtree(killed, ignore_errors=True)
                # Work that is kept is not done again: a second visit to a step is shorter than the first.
                after = draw.uniform(0, max(steps[step], 0.05))
                at = kill_in(step, start(config, killed, options.set), killed, after)
                if at is None:
                    same.append(content(killed) == quiet[0][1] != {})
                    shutil.rmtree(killed)
                else:
                    kills.append(at)
                if at == step:
                    break
        start(config, killed, options.set).wait()
        same.append(content(killed) == quiet[0][1] != {})
        rows = {path.stem: path.read_bytes().count(b"\n") for path in sorted((killed / "steps").glob("*.jsonl"))}
        outcome = {
            "command": " ".join(["python benchmarks/synth_kill.py", *sys.argv[1:]]),
            "seconds": [round(one, 1) for one, _ in quiet],
            "seconds_of_steps": {step: round(one, 1) for step, one in steps.items()},
            "twice_the_same_bytes": quiet[0][1] == quiet[1][1] != {},
            "kills": {step: kills.count(step) for step in [*STEPS, "after the last"] if step in kills},
            "runs_compared": len(same),
            "the_same_bytes_after_kills": all(same),
            "rows": {name: count for name, count in rows.items() if not name.endswith(".rejects")},
            "machine": machine(),
            "libra-guard": version("libra-guard"),
        }
    text = json.dumps(outcome, ensure_ascii=False, indent=2)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
