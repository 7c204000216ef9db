"""Kills a running inference at random moments and resumes it, again and again: are the files those of a quiet run?

    python benchmarks/kill_resume.py --guard mini --kills 200

After each kill the predictions must be a beginning of the quiet run's, but for a half-written last line; after the last
resume of a round, predictions, rejects and run.json must be the same bytes. Writes benchmarks/kill_resume.json.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from machine import machine

HERE = Path(__file__).parent
FILES = ("0-of-1.jsonl", "rejects.jsonl", "run.json")


def write_data(path: Path, copies: int) -> int:
    """Libra-mini some times over, with rows that must be rejected and rows without an id between them."""
    samples = json.loads((HERE.parent / "examples" / "libra-mini.json").read_text(encoding="utf-8"))
    lines = []
    for copy in range(copies):
        for i, sample in enumerate(samples):
            row = {**sample, "id": f"{sample['id']}-{copy}"}
            if i % 11 == 3:
                del row["id"]
                row["copy"] = copy
            if i % 29 == 5:
                row["response"] = ""
            lines.append("{broken" if i % 53 == 7 else json.dumps(row, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def start(guard: str, data: Path, out: Path) -> subprocess.Popen:
    """`libra infer`, in small chunks so that there is much to be interrupted."""
    command = [str(Path(sys.executable).with_name("libra")), "infer", "--guard", guard, "--data", str(data)]
    return subprocess.Popen([*command, "--out", str(out), "--chunk", "4"], stderr=subprocess.DEVNULL)


def empty(folder: Path) -> None:
    """Removes the files of the last round."""
    for file in folder.glob("*"):
        file.unlink()


def main() -> None:
    """Runs rounds of kills until there were enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guard", default="mini")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--copies", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "kill_resume.json")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    kills = rounds = half_lines = broken = 0
    with tempfile.TemporaryDirectory() as scratch:
        data, out = Path(scratch) / "data.jsonl", Path(scratch) / "out"
        rows = write_data(data, options.copies)
        # The command is part of run.json, so the quiet runs write to the same folder; the first one warms the disk.
        for _ in range(2):
            empty(out)
            started = time.monotonic()
            start(options.guard, data, out).wait()
            quiet_seconds = time.monotonic() - started
        wanted = {name: (out / name).read_bytes() for name in FILES}
        while kills < options.kills:
            empty(out)
            while True:
                process = start(options.guard, data, out)
                try:
                    process.wait(timeout=rng.uniform(0.3, 1.0) * quiet_seconds)
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                kills += 1
                found = (out / FILES[0]).read_bytes() if (out / FILES[0]).exists() else b""
                whole = found[: found.rfind(b"\n") + 1]
                half_lines += whole != found
                broken += not wanted[FILES[0]].startswith(whole)
                if kills >= options.kills:
                    start(options.guard, data, out).wait()
                    break
            rounds += 1
            broken += any((out / name).read_bytes() != content for name, content in wanted.items())
    result = {
        "command": shlex.join(["python", "benchmarks/kill_resume.py", *sys.argv[1:]]),
        "guard": json.loads(wanted["run.json"])["guard"],
        "rows": rows,
        "quiet_run_seconds": round(quiet_seconds, 2),
        "kills": kills,
        "rounds": rounds,
        "half_written_lines_found": half_lines,
        "differences": broken,
        "machine": machine(),
        "versions": {name: version(name) for name in ("libra-guard", "onnxruntime")},
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
