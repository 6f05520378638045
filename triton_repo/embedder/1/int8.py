"""The network of MiniLM-L6-v2 for int8 arithmetic, made of a file whose weights are only stored as int8.

ONNX Runtime makes floats of such weights when it loads them, and multiplies floats: that takes two to three times as
long. Here activations become int8, too, each row (a token) by its own largest value, so that a vector does not depend
on what else is in the batch, as it would with one scale for all of it. What is around the products is as in the file,
in operators that ONNX Runtime has as one.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_PREFIX = "inner."
_HEADS = 12
_EPSILON = 1e-12
_RUNTIME = "com.microsoft"
_STEP = np.float32(1 / 127)
_MIDDLE = np.uint8(128)
_LEAST = np.float32(1e-9)


def network(path):
    """Returns a serialised model with the inputs and the output of the file at `path`; `token_type_ids` are ignored.

    Raises:
        KeyError: the file is another model's.
    """
    return _Network(onnx.load(path).graph).built()


class _Network:
    """A graph as it grows. Methods that add an operator return the name of its output."""

    def __init__(self, source):
        self._weights = {weight.name: numpy_helper.to_array(weight) for weight in source.initializer}
        self._matrices = _matrices(source)
        self._nodes = []
        self._constants = {}

    def built(self):
        hidden = self._embedded()
        layers = {name.split(".")[2] for name in self._matrices if name.startswith("encoder.layer.")}
        for layer in range(len(layers)):
            hidden = self._layer(f"encoder.layer.{layer}.", hidden)
        self._nodes.append(helper.make_node("Identity", [hidden], ["last_hidden_state"]))
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names]
        output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", "width"])
        constants = [numpy_helper.from_array(value, name) for name, value in self._constants.items()]
        graph = helper.make_graph(self._nodes, "embedder", inputs, [output], constants)
        versions = [helper.make_opsetid("", 18), helper.make_opsetid(_RUNTIME, 1)]
        return helper.make_model(graph, opset_imports=versions, ir_version=9).SerializeToString()

    def _embedded(self):
        words, places, kinds = (f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type"))
        # Words stay int8, as there are 30,522 of them; every text is of the first kind.
        word = self._add("Cast", self._add("Gather", self._constant(words + "_q"), "input_ids"), to=TensorProto.FLOAT)
        word = self._add("Mul", word, self._add("Gather", self._constant(words + "_scale"), "input_ids"))
        place = self._of(places + "_q") * self._of(places + "_scale") + self._of(kinds)[0]
        zero, count = self._constant("zero", np.zeros(1, np.int64)), self._add("Shape", "input_ids", start=1)
        place = self._add("Slice", self._constant(places, place), zero, count, zero)
        self._mask = self._add("Cast", "attention_mask", to=TensorProto.INT32)
        return self._normalised("embeddings.LayerNorm", self._add("Add", word, place))

    def _layer(self, prefix, hidden):
        attention = prefix + "attention."
        parts = [f"{attention}self.{part}" for part in ("query", "key", "value")]
        parts = self._add("Split", self._linear(hidden, *parts), outputs=3, axis=-1, num_outputs=3)
        seen = self._add("MultiHeadAttention", *parts, "", self._mask, domain=_RUNTIME, num_heads=_HEADS)
        seen = self._add("Add", self._linear(seen, attention + "output.dense"), hidden)
        seen = self._normalised(attention + "output.LayerNorm", seen)
        inner = self._add("Gelu", self._linear(seen, prefix + "intermediate.dense"), domain=_RUNTIME)
        outer = self._add("Add", self._linear(inner, prefix + "output.dense"), seen)
        return self._normalised(prefix + "output.LayerNorm", outer)

    def _linear(self, rows, *names):
        """The product with one matrix, or with several side by side, and their biases."""
        weights, scales = zip(*(self._matrices[name] for name in names), strict=True)
        name = names[0]
        weight = self._constant(name + ".weight", np.concatenate([self._weights[each] for each in weights], 1))
        scale = self._constant(name + ".scale", np.concatenate([self._weights[each][0] for each in scales]))
        bias = self._constant(name + ".bias", np.concatenate([self._of(each + ".bias") for each in names]))
        step, middle = self._constant("step", _STEP), self._constant("middle", _MIDDLE)
        last, least = self._constant("last", np.array([-1])), self._constant("least", _LEAST)
        largest = self._add("Max", self._add("ReduceMax", self._add("Abs", rows), last), least)
        small = self._add("QuantizeLinear", self._add("Div", rows, largest), step, middle)
        product = self._add("MatMulIntegerToFloat", small, weight, step, scale, middle, domain=_RUNTIME)
        return self._add("Add", self._add("Mul", product, largest), bias)

    def _normalised(self, name, rows):
        factor, summand = self._constant(name + ".weight"), self._constant(name + ".bias")
        return self._add("LayerNormalization", rows, factor, summand, axis=-1, epsilon=_EPSILON)

    def _add(self, operator, *inputs, outputs=1, domain="", **attributes):
        names = [f"{operator}_{len(self._nodes)}_{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(operator, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def _constant(self, name, value=None):
        self._constants.setdefault(name, self._of(name) if value is None else np.ascontiguousarray(value))
        return name

    def _of(self, name):
        return self._weights[_PREFIX + name]


def _matrices(source):
    """Names of the int8 matrix and of its scales, by the layer's name, which only the bias tells."""
    made = {output: node for node in source.node for output in node.output}
    found = {}
    for node in source.node:
        if node.op_type == "Add" and node.input[1].endswith(".bias"):
            product = made.get(node.input[0])
            if product is not None and product.op_type == "MatMul":
                scaled = made[product.input[1]]
                name = node.input[1].removeprefix(_PREFIX).removesuffix(".bias")
                found[name] = made[scaled.input[0]].input[0], scaled.input[1]
    return found
