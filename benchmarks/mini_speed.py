"""Speed of the bundled guard: pairs a second, latency, start-up, memory; and the same weights in torch fp32.

    python benchmarks/mini_speed.py

Everything runs in one process after another on the same machine; nothing else should be running. Torch runs the encoder
with the weights of the bundled file, read back from their 8 bits; --encoder takes them as training left them instead.
Writes benchmarks/mini_speed.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from machine import machine

HERE = Path(__file__).parent
MINI = HERE.parent / "src" / "libra_guard" / "assets" / "mini"
PRODUCTS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
"""What is multiplied with a layer's weights, in order."""
HEAD_SIZE = 32
"""Of multilingual-e5-small, which has 12 heads of 384 numbers."""
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
    from libra_guard.backends.onnx import OnnxBackend

    return throughput(OnnxBackend(str(MINI)).logits, texts(300))


def bundled_weights() -> dict:
    """The encoder's weights in fp32 by the names of the torch model, read back from the bundled file's 8 bits."""
    import onnx
    import torch
    from onnx.numpy_helper import to_array

    model = onnx.load(MINI / "model.onnx")
    there = {i.name: to_array(i) for i in model.graph.initializer}
    # Float tensors and quantised tables keep their names; products lost theirs, and stand in the layers' own order.
    found = {name.removeprefix("deep."): value for name, value in there.items() if name.startswith("deep.")}
    for name in [name for name in found if name.endswith("_quantized")]:
        scale, zero = found[name[: -len("quantized")] + "scale"], found[name[: -len("quantized")] + "zero_point"]
        found[name[: -len("_quantized")]] = (found[name].astype("float32") - zero) * scale
    products = [n for n in model.graph.node if n.op_type == "MatMulInteger" and n.input[1].startswith("onnx::")]
    assert len(products) % len(PRODUCTS) == 0, "the bundled file has another form"
    for number, node in enumerate(products):
        name, read = node.input[1].removesuffix("_quantized"), node.input[0].removesuffix("_quantized")
        weight = there[f"{name}_quantized"].astype("float32") * there[f"{name}_scale"]
        plain = read.removesuffix("_smoothed")
        if plain != read:
            weight *= there[f"{plain}_smoothing"].reshape(-1, 1)
        if f"{name}_outliers" in there:
            weight[there[f"{plain}_beside_channels"]] += there[f"{name}_outliers"]
        layer, place = divmod(number, len(PRODUCTS))
        found[f"encoder.encoder.layer.{layer}.{PRODUCTS[place]}.weight"] = weight.T
    found["head.weight"] = found["head.weight"].T
    made = (".weight", ".bias")
    return {name: torch.tensor(value.copy()) for name, value in found.items() if name.endswith(made)}


def torch_model(encoder: str) -> tuple:
    """The encoder, its head and its tokenizer, from a folder of the training; the bundled ones without a folder."""
    import torch
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import AutoModel, BertConfig

    if encoder:
        folder = Path(encoder)
        weights = load_file(folder / "encoder.safetensors")
        config = BertConfig.from_dict(json.loads((folder / "encoder.json").read_text()))
    else:
        folder, weights = MINI, bundled_weights()
        words, positions = (weights[f"encoder.embeddings.{n}_embeddings.weight"] for n in ("word", "position"))
        inner = weights["encoder.encoder.layer.0.intermediate.dense.bias"]
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=words.shape[1],
            num_hidden_layers=1 + max(int(name.split(".")[3]) for name in weights if ".layer." in name),
            num_attention_heads=words.shape[1] // HEAD_SIZE,
            intermediate_size=len(inner),
            max_position_embeddings=len(positions),
            pad_token_id=1,
        )
    # The base was stored in half precision, and its config would have the model built in it.
    model = AutoModel.from_config(config, add_pooling_layer=False, dtype=torch.float32).eval()
    model.load_state_dict({k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")})
    head = torch.nn.Linear(config.hidden_size, weights["head.bias"].shape[0])
    head.load_state_dict({"weight": weights["head.weight"], "bias": weights["head.bias"]})
    return model, head, Tokenizer.from_file(str(folder / "tokenizer.json"))


def measure_torch(encoder: str, batch_size: int) -> float:
    """The encoder in torch fp32 at 300 characters: tokenized, sorted, padded batches, all cores."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model, head, tokenizer = torch_model(encoder)

    @torch.inference_mode()
    def run(pairs) -> None:
        rows = sorted((tokenizer.encode(*p).ids for p in pairs), key=len)
        for start in range(0, len(rows), batch_size):
            chunk = rows[start : start + batch_size]
            ids = torch.full((len(chunk), len(chunk[-1])), model.config.pad_token_id)
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
    parser.add_argument("--encoder", help="folder with encoder.safetensors, whose weights torch runs instead")
    parser.add_argument("--out", type=Path, default=HERE / "mini_speed.json")
    options = parser.parse_args()
    result: dict = {"guard": in_process("measure_mini()"), "start_up": start_up()}
    result["onnx_int8_pairs_per_second"] = round(in_process("measure_onnx()"), 1)
    encoder = str(Path(options.encoder).resolve()) if options.encoder else ""
    for size in (1, 8, 16):
        rate = in_process(f"measure_torch({encoder!r}, {size})")
        result[f"torch_fp32_batch_{size}_pairs_per_second"] = round(rate, 1)
    best = max(v for k, v in result.items() if k.startswith("torch_fp32"))
    result["onnx_over_best_torch"] = round(result["onnx_int8_pairs_per_second"] / best, 2)
    result["torch_weights"] = "as training left them" if encoder else "the bundled file's, read back from 8 bits"
    result["model_sha256"] = hashlib.sha256((MINI / "model.onnx").read_bytes()).hexdigest()
    result["command"] = shlex.join(["python", "benchmarks/mini_speed.py", *sys.argv[1:]])
    result["machine"] = machine()
    result["versions"] = {n: version(n) for n in ("libra-guard", "onnxruntime", "torch", "tokenizers", "numpy")}
    text = json.dumps(result, ensure_ascii=False, indent=2)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
