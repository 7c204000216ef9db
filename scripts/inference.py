"""Batch inference with the published interface: every row of the data with the model's own text in `critic`.

    python scripts/inference.py --base_model MODEL --data_path DATA --out_path outputs

Writes {out_path}/{machine_rank}-of-{machine_num}.jsonl and resumes an interrupted run. Exits with 1 if rows could not
be judged; they are in rejects.jsonl. `libra infer` has more choices, and tells verdicts in one forward pass.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from libra_guard.errors import LibraError
from libra_guard.guards.libra import read_examples
from libra_guard.guards.registry import load_guard
from libra_guard.io import dumps, write_atomic
from libra_guard.predict.rows import row_key
from libra_guard.predict.runner import Settings, run
from libra_guard.predict.shards import Shard
from libra_guard.predict.show import progress_bar, summary

EXAMPLES = Path(__file__).parent.parent / "data" / "libra-seed" / "illegal_activities_and_crime.jsonl"
SAMPLING_TEMPERATURE = 0.7


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The published arguments, and --few_shot_path, which the published script lacked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", required=True, help="folder or hub name of a causal language model")
    parser.add_argument("--data_path", required=True, help="JSON, JSONL, Parquet, or a folder of them")
    parser.add_argument("--batch_size", type=int, default=1, help="rows generated together")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out_path", type=Path, default=Path("./outputs"))
    parser.add_argument("--num_itera", type=int, default=1, help="above 1: so many sampled texts a row, as a list")
    parser.add_argument("--few_shot", type=int, default=0, help="number of examples in the prompt")
    parser.add_argument("--few_shot_path", type=Path, default=EXAMPLES, help="labelled samples to take them from")
    parser.add_argument("--is_instruct", type=int, choices=(0, 1), default=1, help="1: use the chat template")
    parser.add_argument("--machine_rank", type=int, default=0)
    parser.add_argument("--machine_num", type=int, default=1)
    options = parser.parse_args(arguments)
    if not 0 <= options.machine_rank < options.machine_num:
        parser.error("--machine_rank counts from 0 and is less than --machine_num")
    for name in ("batch_size", "num_itera"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is at least 1")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs; returns 0, 1 with rejects, 2 for wrong use."""
    try:
        return int(infer(parse(arguments)) > 0)
    except LibraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def infer(options: argparse.Namespace) -> int:
    """Runs once, or once for each iteration and joins the texts; returns the number of rejected rows."""
    guard = load_guard(
        f"libra:{options.base_model}",
        method="generate",
        instruct=bool(options.is_instruct),
        examples=read_examples(options.few_shot_path, options.few_shot) if options.few_shot else (),
        temperature=SAMPLING_TEMPERATURE if options.num_itera > 1 else 0.0,
        seed=options.seed,
    )
    folders = [options.out_path]
    if options.num_itera > 1:
        folders = [options.out_path / f"generation-{i}" for i in range(options.num_itera)]
    rejected = 0
    for i, folder in enumerate(folders):
        guard.seed = options.seed + i
        settings = Settings(
            data=options.data_path,
            out=folder,
            shard=Shard(options.machine_rank, options.machine_num),
            chunk=options.batch_size,
        )
        with progress_bar(settings) as progress:
            outcome = run(guard, settings, command=shlex.join(sys.argv), progress=progress)
        print(summary(outcome, settings), file=sys.stderr)
        rejected += outcome.rejected
    if options.num_itera > 1:
        join(options.out_path, folders, f"{settings.shard}.jsonl")
    return rejected


def join(out: Path, folders: list[Path], name: str) -> None:
    """One file of all generations: `critic` is the list of a row's texts, `verdict` that of the first."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for folder in folders:
        seen: Counter[str] = Counter()
        with (folder / name).open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                record = json.loads(line)
                # Equal rows without an id are told apart by their order.
                key = row_key(record)
                known = rows.setdefault((key, seen[key]), {**record, "critic": []})
                known["critic"].append(record["critic"])
                seen[key] += 1
    write_atomic(out / name, "".join(dumps(row) + "\n" for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
