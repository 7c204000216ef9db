"""From a float32 ONNX model to int8, what int8 holds badly having been put elsewhere.

Dynamic quantisation gives all channels of an activation one common scale. Where a channel is ten times as large as the
rest, as behind a GELU, the rest keep hardly any digits. So the few channels that stand out are multiplied beside, in
float (LLM.int8, Dettmers et al., 2022, arXiv:2208.07339); and each of the others is divided by a factor and its row of
the weights multiplied by the same, which spreads the range over both (SmoothQuant, Xiao et al., 2023,
arXiv:2211.10438). In exact arithmetic nothing changes.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

Feed = Mapping[str, NDArray[Any]]
"""A model's inputs by name."""
Ranges = Mapping[str, NDArray[np.float32]]
"""Largest magnitudes by the name of the activation, shape ``(channels,)``."""

OUTLIER = 4.0
"""A channel stands out whose range is so many times the median channel's; docs/log.md tells what others give."""
STRENGTH = 0.7
"""How much of the range goes into the weights, 0 to 1; SmoothQuant's alpha."""
_LEAST = 1e-5
_BESIDE = "_outliers"


def quantise(path: Path, out: Path, feeds: Iterable[Feed], *, keep: Sequence[str] = ()) -> None:
    """Matrix products and tables of embeddings become int8, with a scale for each output channel.

    Args:
        path: Of the model, in float32.
        out: Of the file to write.
        feeds: A hundred or so inputs of the kind that will be judged; with none, the model is quantised as it is.
        keep: Names of weights that stay as they are.
    """
    model = smooth(*split(onnx.load(path), input_ranges(path, feeds)))
    kept = {name for node in model.graph.node for name in node.input if name in keep or name.endswith(_BESIDE)}
    with tempfile.TemporaryDirectory() as scratch:
        smoothed = Path(scratch) / "model.onnx"
        onnx.save(model, smoothed)
        quantize_dynamic(
            smoothed,
            out,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=[node.name for node in model.graph.node if kept & set(node.input)],
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


def input_ranges(path: Path, feeds: Iterable[Feed]) -> dict[str, NDArray[np.float32]]:
    """The largest magnitude of each channel of what the model's weights are multiplied with.

    Args:
        path: Of the model, in float32.
        feeds: See ``quantise``.

    Returns:
        Name of the activation → shape ``(channels,)``.
    """
    model = onnx.load(path)
    names = list(_products(model))
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ranges: dict[str, NDArray[np.float32]] = {}
    for feed in feeds:
        for name, values in zip(names, session.run(names, dict(feed)), strict=True):
            largest = np.abs(values).reshape(-1, values.shape[-1]).max(0)
            ranges[name] = np.maximum(ranges.get(name, largest), largest)
    return ranges


def split(model: onnx.ModelProto, ranges: Ranges, *, outlier: float = OUTLIER) -> tuple[onnx.ModelProto, Ranges]:
    """A model that computes the same, with the channels that stand out multiplied beside the rest.

    This is done where a wide activation is made narrow, as behind the GELU of a feed-forward: elsewhere it costs more
    time than it is worth.

    Args:
        model: In float32.
        ranges: Of ``input_ranges``; products whose input is not among them stay as they are.
        outlier: See ``OUTLIER``.

    Returns:
        The model, and the ranges of what is left in the products: 0 for the channels that were taken out.
    """
    made, left = _copy(model), dict(ranges)
    for activation, products in _products(made).items():
        found = ranges.get(activation)
        if found is None or any(_weights(made, node.input[1]).shape[1] >= len(found) for node in products):
            continue
        standing_out = found > outlier * np.median(found)
        if not standing_out.any():
            continue
        left[activation] = found * ~standing_out
        beside = f"{activation}_beside"
        indices = _constant(made, f"{beside}_channels", np.flatnonzero(standing_out))
        _insert(made, products[0], helper.make_node("Gather", [activation, indices], [beside], axis=-1), beside)
        for node in products:
            name, result = node.input[1], node.output[0]
            array = _weights(made, name)
            few = _constant(made, f"{name}{_BESIDE}", array[standing_out])
            _replace(made, name, array * ~standing_out[:, None])
            node.output[0] = f"{result}_rest"
            _insert(made, node, helper.make_node("MatMul", [beside, few], [f"{result}_beside"]), few, after=True)
            both = [node.output[0], f"{result}_beside"]
            _insert(made, node, helper.make_node("Add", both, [result]), f"{result}_joined", after=True, by=2)
    return made, left


def smooth(model: onnx.ModelProto, ranges: Ranges, *, strength: float = STRENGTH) -> onnx.ModelProto:
    """A model that computes the same, with channels of like range where its weights are multiplied.

    Channel ``j`` is divided by ``max|x_j|**strength / max|w_j|**(1 - strength)``, equation 4 of the paper. Products
    that share their input, as query, key and value do, share the division.

    Args:
        model: In float32.
        ranges: Of ``input_ranges`` or ``split``; products whose input is not among them stay as they are.
        strength: See ``STRENGTH``.
    """
    made = _copy(model)
    for activation, products in _products(made).items():
        if activation not in ranges:
            continue
        names = [node.input[1] for node in products]
        largest = np.max([np.abs(_weights(made, name)).max(1) for name in names], axis=0)
        factor = np.maximum(ranges[activation], _LEAST) ** strength / np.maximum(largest, _LEAST) ** (1 - strength)
        factor = factor.astype(np.float32)
        for name in names:
            _replace(made, name, _weights(made, name) * factor[:, None])
        divided = f"{activation}_smoothed"
        # A channel that meets no weight, as one that is multiplied beside, must not take the scale of the others.
        by = _constant(made, f"{activation}_smoothing", np.where(largest > 0, 1 / factor, 0).astype(np.float32))
        _insert(made, products[0], helper.make_node("Mul", [activation, by], [divided]), divided)
        for node in products:
            node.input[0] = divided
    return made


def _products(model: onnx.ModelProto) -> dict[str, list[Any]]:
    """Products with a matrix of weights that nothing else uses, by what they multiply it with."""
    matrices = {i.name for i in model.graph.initializer if len(i.dims) == 2 and not i.name.endswith(_BESIDE)}
    uses = Counter(name for node in model.graph.node for name in node.input)
    found: dict[str, list[Any]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in matrices and uses[node.input[1]] == 1:
            found.setdefault(node.input[0], []).append(node)
    return found


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def _weights(model: onnx.ModelProto, name: str) -> NDArray[np.float32]:
    return np.asarray(numpy_helper.to_array(next(i for i in model.graph.initializer if i.name == name)))


def _replace(model: onnx.ModelProto, name: str, array: NDArray[np.float32]) -> None:
    found = next(i for i in model.graph.initializer if i.name == name)
    found.CopyFrom(numpy_helper.from_array(array, name))


def _constant(model: onnx.ModelProto, name: str, array: NDArray[Any]) -> str:
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def _insert(
    model: onnx.ModelProto, near: onnx.NodeProto, node: onnx.NodeProto, name: str, *, after: bool = False, by: int = 1
) -> None:
    """Puts a node right before another, or ``by`` places after it: a node stands behind all that it reads."""
    node.name = f"{name}/{node.op_type}"
    place = next(i for i, one in enumerate(model.graph.node) if one.name == near.name)
    model.graph.node.insert(place + by if after else place, node)
