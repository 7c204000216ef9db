import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from libra_guard.train.quantisation import input_ranges, quantise, smooth, split

CHANNELS, LARGE = 16, 3


@pytest.fixture
def model(tmp_path):
    """Two products of one activation that has a channel far larger than the rest, and a table of embeddings."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(50, CHANNELS)).astype(np.float32)
    table[:, LARGE] *= 100
    arrays = {"table": table}
    for name in ("first", "second"):
        arrays[name] = rng.normal(size=(CHANNELS, 8)).astype(np.float32)
        arrays[name][LARGE] /= 100
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"], name="embed"),
        helper.make_node("MatMul", ["x", "first"], ["a"], name="a"),
        helper.make_node("MatMul", ["x", "second"], ["b"], name="b"),
        helper.make_node("Add", ["a", "b"], ["y"], name="sum"),
    ]
    graph = helper.make_graph(
        nodes,
        "two products",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 8])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    onnx.save(made, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


FEEDS = [{"ids": np.arange(start, start + 5)} for start in range(0, 45, 5)]


def outputs(model):
    session = onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model))
    return np.concatenate([session.run(None, feed)[0] for feed in FEEDS])


def test_ranges_are_the_largest_magnitude_of_each_channel(model):
    found = input_ranges(model, FEEDS)
    table = numpy_helper.to_array(onnx.load(model).graph.initializer[0])
    assert list(found) == ["x"]
    assert found["x"] == pytest.approx(np.abs(table[:45]).max(0))


def test_a_smoothed_model_computes_the_same(model):
    smoothed = smooth(onnx.load(model), input_ranges(model, FEEDS))
    onnx.checker.check_model(smoothed)
    assert outputs(smoothed.SerializeToString()) == pytest.approx(outputs(model), rel=1e-4, abs=1e-4)


def test_a_split_model_computes_the_same(model):
    parted, _ = split(onnx.load(model), input_ranges(model, FEEDS))
    onnx.checker.check_model(parted)
    assert outputs(parted.SerializeToString()) == pytest.approx(outputs(model), rel=1e-4, abs=1e-4)


def test_channels_that_stand_out_are_multiplied_beside(model):
    before = {i.name: numpy_helper.to_array(i) for i in onnx.load(model).graph.initializer}
    parted, ranges = split(onnx.load(model), input_ranges(model, FEEDS))
    after = {i.name: numpy_helper.to_array(i) for i in parted.graph.initializer}
    for name in ("first", "second"):
        assert (after[f"{name}_outliers"] == before[name][[LARGE]]).all()
        assert not after[name][LARGE].any()
        assert (np.delete(after[name], LARGE, 0) == np.delete(before[name], LARGE, 0)).all()
    assert np.flatnonzero(ranges["x"] == 0).tolist() == [LARGE]
    assert [n.op_type for n in parted.graph.node].count("Gather") == 2


def test_what_is_multiplied_beside_is_not_in_the_rest(model, tmp_path):
    made = smooth(*split(onnx.load(model), input_ranges(model, FEEDS)))
    onnx.checker.check_model(made)
    assert outputs(made.SerializeToString()) == pytest.approx(outputs(model), rel=1e-4, abs=1e-4)
    onnx.save(made, model)
    assert np.flatnonzero(input_ranges(model, FEEDS)["x_smoothed"] == 0).tolist() == [LARGE]


def test_a_channel_that_was_zero_on_the_samples_still_counts(model):
    ranges = input_ranges(model, FEEDS)
    ranges["x"][5] = 0
    assert outputs(smooth(onnx.load(model), ranges).SerializeToString()) == pytest.approx(outputs(model), rel=1e-3)


def test_an_activation_that_is_not_made_narrow_is_not_split(model):
    wide = onnx.load(model)
    for i in wide.graph.initializer:
        if i.name in ("first", "second"):
            i.CopyFrom(numpy_helper.from_array(np.tile(numpy_helper.to_array(i), 2), i.name))
    assert split(wide, input_ranges(model, FEEDS))[0] == wide


def test_where_nothing_stands_out_nothing_is_split(model):
    plain = onnx.load(model)
    given = {"x": np.linspace(1, 3, CHANNELS, dtype=np.float32)}
    parted, ranges = split(plain, given)
    assert parted == plain
    assert (ranges["x"] == given["x"]).all()
    assert split(plain, {})[0] == plain


def test_products_of_one_activation_share_its_division(model):
    smoothed = smooth(onnx.load(model), input_ranges(model, FEEDS))
    assert [node.op_type for node in smoothed.graph.node] == ["Gather", "Mul", "MatMul", "MatMul", "Add"]


def test_channels_have_like_ranges_afterwards(model):
    ranges = input_ranges(model, FEEDS)
    smoothed = smooth(onnx.load(model), ranges)
    onnx.save(smoothed, model)
    after = input_ranges(model, FEEDS)["x_smoothed"]
    assert after.max() / np.median(after) < ranges["x"].max() / np.median(ranges["x"]) / 4


@pytest.mark.parametrize("feeds", [[], FEEDS], ids=["as it is", "made ready"])
def test_weights_become_int8_but_for_those_kept(model, tmp_path, feeds):
    quantise(model, tmp_path / "int8.onnx", feeds, keep=["table"])
    kinds = {i.name: i.data_type for i in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    assert kinds["table"] == TensorProto.FLOAT
    assert kinds["first_quantized"] == kinds["second_quantized"] == TensorProto.INT8
    assert not {"first", "second"} & set(kinds)
    assert kinds.get("first_outliers", TensorProto.FLOAT) == TensorProto.FLOAT


def test_int8_is_nearer_to_float32_with_each_of_the_two(model, tmp_path):
    exact, ranges = outputs(model), input_ranges(model, FEEDS)

    def error(made):
        onnx.save(made, tmp_path / "made.onnx")
        quantise(tmp_path / "made.onnx", tmp_path / "int8.onnx", [], keep=["table"])
        return np.sqrt(np.mean((outputs(tmp_path / "int8.onnx") - exact) ** 2))

    plain = onnx.load(model)
    assert error(smooth(plain, ranges)) < error(plain) / 2
    split_alone, left = split(plain, ranges)
    assert error(smooth(split_alone, left, strength=0)) < error(plain) / 2


def test_what_is_written_is_made_ready(model, tmp_path):
    quantise(model, tmp_path / "int8.onnx", FEEDS, keep=["table"])
    names = {i.name for i in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    assert {"first_outliers", "x_smoothing"} <= names


def test_weights_that_something_else_uses_stay(model):
    tied = onnx.load(model)
    tied.graph.node.append(helper.make_node("Neg", ["first"], ["negative"], name="neg"))
    before, after = ({i.name: i for i in m.graph.initializer} for m in (tied, smooth(tied, input_ranges(model, FEEDS))))
    assert before["first"] == after["first"]
    assert before["second"] != after["second"]
