"""Batch inference with the published interface: every row of the data with the model's own text in `critic`.

    python scripts/inference.py --base_model MODEL --data_path DATA --out_path outputs

Writes {out_path}/{machine_rank}-of-{machine_num}.jsonl and resumes an interrupted run, also one of the published
script, whose rows stay as they are. `libra infer` has more choices, and tells verdicts in one forward pass.

Exit status: 0 done, 1 done but rows could not be judged, which are in rejects.jsonl, 2 wrong use or a model that fails;
130 after Ctrl-C, and then the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from heapq import merge
from itertools import count, groupby, repeat
from pathlib import Path
from typing import Any

from libra_guard.cli.main import exit_code
from libra_guard.errors import LibraError, UsageError
from libra_guard.guards.registry import load_guard
from libra_guard.io import atomic, count_rows, dumps, write_atomic
from libra_guard.predict.record import Asked
from libra_guard.predict.runner import Settings, run, spare_data
from libra_guard.predict.shards import RECORD, REJECTS, Shard, common_and_own, join_records
from libra_guard.predict.show import progress_bar, summary

EXAMPLES = Path(__file__).parent.parent / "data" / "libra-seed" / "illegal_activities_and_crime.jsonl"
SAMPLING_TEMPERATURE = 0.7
Numbered = Iterator[tuple[int, dict[str, Any]]]
"""Records with the numbers of their rows in the data."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The published arguments, and what the published script lacked: --few_shot_path, --trust_remote_code, --retry."""
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
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run code that the model brings with it (default: refuse it)"
    )
    parser.add_argument("--retry", action="store_true", help="also judge again the rows that the model failed on")
    parser.add_argument("--machine_rank", type=int, default=0)
    parser.add_argument("--machine_num", type=int, default=1)
    options = parser.parse_args(arguments)
    if not 0 <= options.machine_rank < options.machine_num:
        parser.error("--machine_rank counts from 0 and is less than --machine_num")
    for name in ("batch_size", "num_itera"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is at least 1")
    if options.few_shot < 0:
        parser.error("--few_shot is at least 0")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs; returns 0, 1 with rejects, 2 for wrong use or a failure."""
    return exit_code(lambda: int(infer(parse(arguments)) > 0), "error")


@contextmanager
def own_names() -> Iterator[None]:
    """Errors for people name the options as this script has them."""
    try:
        yield
    except LibraError as error:
        told = re.sub(r"--out\b", "--out_path", str(error))
        error.args = (told.replace("--set trust_remote_code=true", "--trust_remote_code"),)
        raise


@own_names()
def infer(options: argparse.Namespace) -> int:
    """Runs once, or once for each iteration and joins the texts; returns the number of rejected rows."""
    spec = f"libra:{options.base_model}"
    further: dict[str, Any] = {
        "method": "generate",
        "instruct": bool(options.is_instruct),
        **({"examples": str(options.few_shot_path), "few_shot": options.few_shot} if options.few_shot else {}),
        "temperature": SAMPLING_TEMPERATURE if options.num_itera > 1 else 0.0,
        "seed": options.seed,
        **({"trust_remote_code": True} if options.trust_remote_code else {}),
    }
    guard = load_guard(spec, **further)
    shard = Shard(options.machine_rank, options.machine_num)
    folders = [options.out_path]
    if options.num_itera > 1:
        folders = [options.out_path / f"generation-{i}" for i in range(options.num_itera)]
        joined = Settings(data=options.data_path, out=options.out_path, shard=shard)
        spare_data(joined.data, joined.out, joined.written)
        check_joined(joined, folders[0] / shard.own(RECORD))
    rejected = 0
    for i, folder in enumerate(folders):
        guard.seed = options.seed + i
        settings = Settings(data=options.data_path, out=folder, shard=shard, chunk=options.batch_size)
        with progress_bar(settings) as progress:
            asked = Asked(spec, options={**further, "seed": options.seed + i})
            outcome = run(
                guard,
                settings,
                command=shlex.join(sys.argv),
                asked=asked,
                progress=progress,
                retry=options.retry,
                take_up=options.num_itera == 1,
            )
        print(summary(outcome, settings), file=sys.stderr)
        rejected += outcome.rejected
    if options.num_itera > 1:
        first = 1 if shard.count == 1 else shard.range(count_rows(options.data_path)).start + 1
        print(join(options.out_path, folders, shard, first), file=sys.stderr)
    return rejected


def check_joined(joined: Settings, begun: Path) -> None:
    """Makes sure that joining the generations does not replace the output of another run, or of another program.

    Args:
        joined: Where the joined files go.
        begun: The record of the first generation, where there is one.

    Raises:
        UsageError: It would.
    """
    if joined.record.exists():
        if '"generations"' not in joined.record.read_text(encoding="utf-8"):
            raise UsageError(f"{joined.out} holds a run without --num_itera: choose another --out_path")
    elif joined.predictions.exists() and not begun.exists():
        raise UsageError(
            f"{joined.predictions} is there without {joined.record.name}, and --num_itera above 1 goes on with no such "
            "file: choose another --out_path, or move it away"
        )


def join(out: Path, folders: list[Path], shard: Shard, first: int) -> str:
    """One file of all generations: `critic` is the list of a row's texts, `verdict` that of the first.

    The rejects and run.json are joined too. Nothing is read whole.

    Args:
        out: Where the joined files go.
        folders: Of the generations, in order.
        shard: The part of the data that they hold.
        first: Number in the data of the part's first row.

    Returns:
        What to tell people: how many rows there are, and how many of them lack a text.
    """
    rows = short = 0
    with atomic(out / f"{shard}.jsonl") as stream:
        for found in side_by_side(judged(folder, shard, first) for folder in folders):
            texts = [record["critic"] for record in found.values()]
            stream.write(dumps({**next(iter(found.values())), "critic": texts}) + "\n")
            rows += 1
            short += len(texts) < len(folders)
    with atomic(out / shard.own(REJECTS)) as stream:
        for found in side_by_side(rejects(folder, shard) for folder in folders):
            stream.write(dumps({**next(iter(found.values())), "generations": list(found)}) + "\n")
    records = [json.loads((folder / shard.own(RECORD)).read_text(encoding="utf-8")) for folder in folders]
    common, own = common_and_own(records)
    text = json.dumps({**common, "generations": own}, ensure_ascii=False, indent=2)
    write_atomic(out / shard.own(RECORD), text + "\n")
    if shard.count > 1:
        join_records(out)
    told = f"{rows} rows with their {len(folders)} texts → {out / f'{shard}.jsonl'}"
    if short:
        told += f"\n{short} of them have fewer, for a generation could not judge them → {out / shard.own(REJECTS)}"
    return told


def side_by_side(generations: Iterable[Numbered]) -> Iterator[dict[int, dict[str, Any]]]:
    """For each row of the data that some generation has: the generations that have it, and what they have."""

    def number(tagged: tuple[int, tuple[int, dict[str, Any]]]) -> int:
        return tagged[1][0]

    tagged = [zip(repeat(i), rows, strict=False) for i, rows in enumerate(generations)]
    for _, found in groupby(merge(*tagged, key=number), number):
        yield {i: record for i, (_, record) in found}


def judged(folder: Path, shard: Shard, first: int) -> Numbered:
    """The predictions: of the rows from the first on, those that were not rejected."""
    gone = {number for number, _ in rejects(folder, shard)}
    numbers = (number for number in count(first) if number not in gone)
    return zip(numbers, lines(folder / f"{shard}.jsonl"), strict=False)


def rejects(folder: Path, shard: Shard) -> Numbered:
    """The rejects, which keep their numbers."""
    return ((record["number"], record) for record in lines(folder / shard.own(REJECTS)))


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file that a run wrote."""
    with path.open(encoding="utf-8", newline="\n") as stream:
        yield from map(json.loads, stream)


if __name__ == "__main__":
    sys.exit(main())
