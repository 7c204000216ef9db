"""Kills a running pipeline at random moments and starts it again: is what it writes that of a quiet run?

    python benchmarks/synth_kill.py --kills 20

Runs configs/synth/offline.yaml twice in quiet (the bytes must be equal), then a third time with kills spread over the
quiet run's time. Compared are all files of steps/ and data/, so also the card. Writes benchmarks/synth_kill.json.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
CONFIG = HERE.parent / "configs" / "synth" / "offline.yaml"


def start(out: Path, settings: Sequence[str]) -> subprocess.Popen:
    """`libra synth run`."""
    command = [str(Path(sys.executable).with_name("libra")), "synth", "run", str(CONFIG), "--out", str(out)]
    return subprocess.Popen([*command, *(f"--set={one}" for one in settings)], stderr=subprocess.DEVNULL)


def content(out: Path) -> dict[str, bytes]:
    """All that a run wrote but its store of calls."""
    files = (file for part in ("steps", "data") for file in (out / part).rglob("*"))
    return {str(file.relative_to(out)): file.read_bytes() for file in files if file.is_file()}


def main() -> None:
    """Two quiet runs and a killed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="As for `libra synth run`.")
    parser.add_argument("--out", type=Path, default=HERE / "synth_kill.json")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        quiet, seconds = [], []
        for name in ("first", "second"):
            began = time.monotonic()
            start(Path(scratch, name), options.set).wait()
            seconds.append(time.monotonic() - began)
            quiet.append(content(Path(scratch, name)))
        killed, kills = Path(scratch, "killed"), 0
        while kills < options.kills:
            process = start(killed, options.set)
            try:
                # A start alone takes a second or two: a kill is to hit the work behind it.
                process.wait(timeout=draw.uniform(0.5, 2.5 + seconds[0] / options.kills))
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
        start(killed, options.set).wait()
        rows = {path.stem: path.read_bytes().count(b"\n") for path in sorted((killed / "steps").glob("*.jsonl"))}
        outcome = {
            "seconds": [round(one, 1) for one in seconds],
            "twice_the_same_bytes": quiet[0] == quiet[1] != {},
            "kills": kills,
            "the_same_bytes_after_kills": content(killed) == quiet[0] != {},
            "rows": {name: count for name, count in rows.items() if not name.endswith(".rejects")},
        }
    text = json.dumps(outcome, ensure_ascii=False, indent=2)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
