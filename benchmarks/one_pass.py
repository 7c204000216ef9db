"""One forward pass against the published procedure, on the same model and the same pairs.

    python benchmarks/one_pass.py --model MODEL --raw --few-shot 2

The published procedure generates 256 tokens a pair, greedily, in batches, and parses them. One pass reads the
probability of the label. Both run in this process, one after the other, on the first pairs of libra-mini; nothing else
should be running. Writes benchmarks/one_pass.json: rates, their ratio, and how often the labels agree where the
published procedure gives a readable one.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import machine

from libra_guard import Conversation, load_guard
from libra_guard.guards.libra_prompt import read_examples
from libra_guard.io import model_hash
from libra_guard.records import Method

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "data" / "libra-seed" / "illegal_activities_and_crime.jsonl"


def told(provenance: dict[str, Any]) -> dict[str, Any]:
    """Of the folders of models their names: where they lie tells nothing."""
    return {
        key: Path(value).name if key in ("model", "base", "adapter") and value else value
        for key, value in provenance.items()
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--raw", action="store_true", help="a base model: no chat template")
    parser.add_argument("--few-shot", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8, help="pairs generated together")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, default=HERE / "one_pass.json")
    options = parser.parse_args()
    samples = json.loads((HERE.parent / "examples" / "libra-mini.json").read_text(encoding="utf-8"))[: options.pairs]
    pairs = [Conversation.from_pair(s["question"], s["response"]) for s in samples]
    examples = read_examples(EXAMPLES, options.few_shot)
    # Greedy text takes the likelier label, whatever threshold a trained guard was given for its scores.
    about = {"dtype": options.dtype, "instruct": not options.raw, "examples": examples, "threshold": 0.5}
    guard = load_guard(f"libra:{options.model}", calibration=None, **about)

    guard.judge(pairs[:2])
    started = time.perf_counter()
    one_pass = guard.judge(pairs)
    one_pass_seconds = time.perf_counter() - started
    print(f"one pass: {one_pass_seconds:.1f} s", flush=True)

    guard.method = Method.GENERATE
    started = time.perf_counter()
    published = []
    for at in range(0, len(pairs), options.batch_size):
        published += guard.judge(pairs[at : at + options.batch_size])
        print(f"published: {len(published)} pairs, {time.perf_counter() - started:.0f} s", flush=True)
    published_seconds = time.perf_counter() - started

    assert all(v.method is Method.CHOOSE for v in one_pass)
    assert all(v.method is Method.GENERATE for v in published)
    readable = [(a, b) for a, b in zip(one_pass, published, strict=True) if b.valid]
    # An answer that begins with other talk gives its label in another context than the one that was scored.
    at_once = [(a, b) for a, b in readable if (b.raw or "").lstrip().startswith("{")]
    truth = [s["label"] for s in samples]
    result = {
        "guard": told(guard.provenance()) | {"model_hash": model_hash(options.model)},
        "dtype": options.dtype,
        "few_shot": options.few_shot,
        "pairs": len(pairs),
        "one_pass_pairs_per_second": round(len(pairs) / one_pass_seconds, 3),
        "published_pairs_per_second": round(len(pairs) / published_seconds, 3),
        "published_batch_size": options.batch_size,
        "ratio": round(published_seconds / one_pass_seconds, 1),
        "published_readable": len(readable),
        "same_label_where_readable": sum(a.label == b.label for a, b in readable),
        "published_readable_at_once": len(at_once),
        "same_label_where_readable_at_once": sum(a.label == b.label for a, b in at_once),
        "one_pass_readable": sum(v.valid for v in one_pass),
        "one_pass_accuracy": round(sum(v.label == t for v, t in zip(one_pass, truth, strict=True)) / len(truth), 4),
        "published_accuracy_readable": round(
            sum(v.label == t for v, t in zip(published, truth, strict=True) if v.valid) / max(1, len(readable)), 4
        ),
        "disagreements": [
            {
                "id": s["id"],
                "one_pass": a.label,
                "score": round(a.unsafe_score or 0, 4),
                "published": b.label,
                "text": b.raw,
            }
            for s, a, b in zip(samples, one_pass, published, strict=True)
            if b.valid and a.label != b.label
        ],
        "machine": machine(),
        "versions": {n: version(n) for n in ("libra-guard", "torch", "transformers")},
    }
    options.out.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in result.items() if k != "disagreements"}, ensure_ascii=False))


if __name__ == "__main__":
    main()
