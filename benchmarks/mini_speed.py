"""Speed of the bundled guard: pairs a second, latency, start-up, memory; and the same weights in torch fp32.

    python benchmarks/mini_speed.py --encoder runs/mini/stage-finetune

Everything runs in one process after another on the same machine; nothing else should be running. The comparison with
torch needs the encoder's weights as training left them (--encoder) and is left out without. Writes
benchmarks/mini_speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from machine import machine

HERE = Path(__file__).parent
LENGTHS = (100, 300, 1000)
SECONDS = 6.0


def texts(length: int, count: int = 64) -> list[tuple[str, str]]:
    """Pairs of ``length`` characters in all: real Chinese, cut from libra-mini."""
    samples = json.loads((HERE.parent / "examples" / "libra-mini.json").read_text(encoding="utf-8"))
    river = "".join(s["question"] + s["response"] for s in samples).replace("\n", "")
    step = length
    pieces = [river[i * step : (i + 1) * step] for i in range(len(river) // step)]
    question = length // 5
    return [(p[:question], p[question:]) for p in (pieces * (count // len(pieces) + 1))[:count]]


def throughput(run, pairs) -> float:
    """Median pairs a second over passes of all pairs, for some seconds, after a warm-up."""
    run(pairs[:8])
    rates, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(rates) < 3:
        started = time.perf_counter()
        run(pairs)
        rates.append(len(pairs) / (time.perf_counter() - started))
    return statistics.median(rates)


def measure_mini() -> dict:
    """Rate and latency at each length, and the memory of it all."""
    from libra_guard import Conversation, load_guard

    guard = load_guard("mini")
    found: dict = {}
    for length in LENGTHS:
        conversations = [Conversation.from_pair(q, r) for q, r in texts(length)]
        rate = throughput(guard.judge, conversations)
        times = []
        for conversation in conversations:
            started = time.perf_counter()
            guard.judge([conversation])
            times.append((time.perf_counter() - started) * 1000)
        cuts = statistics.quantiles(times, n=20)
        found[str(length)] = {
            "pairs_per_second": round(rate, 1),
            "p50_ms": round(statistics.median(times), 1),
            "p95_ms": round(cuts[18], 1),
        }
    found["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return found


def measure_onnx() -> float:
    """The model alone, tokenizer and n-grams included, at 300 characters."""
    from importlib.resources import files

    from libra_guard.backends.onnx import OnnxBackend

    return throughput(OnnxBackend(str(files("libra_guard") / "assets" / "mini")).logits, texts(300))


def measure_torch(encoder: str, batch_size: int) -> float:
    """The encoder in torch fp32 at 300 characters: tokenized, sorted, padded batches, all cores."""
    import torch
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import AutoModel, BertConfig

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    folder = Path(encoder)
    config = BertConfig.from_dict(json.loads((folder / "encoder.json").read_text()))
    # The base was stored in half precision, and its config would have the model built in it.
    model = AutoModel.from_config(config, add_pooling_layer=False, dtype=torch.float32).eval()
    weights = load_file(folder / "encoder.safetensors")
    model.load_state_dict({k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")})
    head = torch.nn.Linear(config.hidden_size, weights["head.bias"].shape[0])
    head.load_state_dict({"weight": weights["head.weight"], "bias": weights["head.bias"]})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    @torch.inference_mode()
    def run(pairs) -> None:
        rows = sorted((tokenizer.encode(*p).ids for p in pairs), key=len)
        for start in range(0, len(rows), batch_size):
            chunk = rows[start : start + batch_size]
            ids = torch.full((len(chunk), len(chunk[-1])), config.pad_token_id)
            mask = torch.zeros_like(ids)
            for i, row in enumerate(chunk):
                ids[i, : len(row)] = torch.tensor(row)
                mask[i, : len(row)] = 1
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
            weight = mask.unsqueeze(-1).float()
            head((states * weight).sum(1) / weight.sum(1)).sigmoid()

    return throughput(run, texts(300))


def start_up(runs: int = 5) -> dict[str, float]:
    """Wall seconds of `libra check --json`, and without the analysis, from process start to exit."""
    libra = Path(sys.executable).with_name("libra")
    found = {}
    for name, extra in (("check_seconds", []), ("check_no_explain_seconds", ["--no-explain"])):
        times = []
        for _ in range(runs + 1):
            started = time.perf_counter()
            subprocess.run(
                [libra, "check", "-q", "如何泡绿茶？", "-r", "水温八十度左右。", "--json", *extra],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            times.append(time.perf_counter() - started)
        found[name] = round(statistics.median(times[1:]), 3)
    return found


def in_process(expression: str) -> float | dict:
    """Evaluates one measurement in a process of its own, so that memory and threads are its own."""
    code = f"import json, mini_speed; print(json.dumps(mini_speed.{expression}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", help="folder with encoder.safetensors, for the comparison with torch")
    parser.add_argument("--out", type=Path, default=HERE / "mini_speed.json")
    options = parser.parse_args()
    result: dict = {"guard": in_process("measure_mini()"), "start_up": start_up()}
    result["onnx_int8_pairs_per_second"] = round(in_process("measure_onnx()"), 1)
    if options.encoder:
        encoder = str(Path(options.encoder).resolve())
        for size in (1, 8, 16):
            rate = in_process(f"measure_torch({encoder!r}, {size})")
            result[f"torch_fp32_batch_{size}_pairs_per_second"] = round(rate, 1)
        best = max(v for k, v in result.items() if k.startswith("torch_fp32"))
        result["onnx_over_best_torch"] = round(result["onnx_int8_pairs_per_second"] / best, 2)
    result["machine"] = machine()
    result["versions"] = {n: version(n) for n in ("libra-guard", "onnxruntime", "tokenizers", "numpy")}
    text = json.dumps(result, ensure_ascii=False, indent=2)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
