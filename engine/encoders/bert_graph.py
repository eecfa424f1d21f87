"""A BERT encoder as an ONNX graph, from its weights: tokens in, unit vectors out, one file, no PyTorch.

The graph is written in the operators that ONNX Runtime itself fuses a transformer into (embedding with its
normalisation, attention over all heads, skip with normalisation, bias with GELU), so nothing is left to fuse when it is
loaded. After the last layer come the mean over the tokens and the division by its norm.
Sources: Devlin et al. 2019 (BERT, §3); Reimers and Gurevych 2019 (Sentence-BERT, §3: mean pooling);
https://onnxruntime.ai/docs/reference/operators/ContribOperators.html (the operators).
"""

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import EncoderError

IDS, MASK, VECTORS, STATES = "ids", "mask", "vectors", "states"
_FUSED = "com.microsoft"
_OPSET, _FUSED_OPSET, _IR_VERSION = 17, 1, 8


def bert_as_onnx(configuration: bytes, weights: bytes) -> bytes:
    """Return the ONNX model of a BERT sentence encoder, from its config.json and model.safetensors.

    Inputs ``ids`` and ``mask`` are int32 (n, t), each row's tokens first and zeros behind; the output ``vectors`` is
    float32 (n, d), and ``states``, of each token in its context, float32 (n, t, d). Raises `EncoderError` for a model
    of another make.
    """
    from safetensors.numpy import load

    config = json.loads(configuration)
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise EncoderError("The model is no BERT with GELU: name its folder, and sentence-transformers runs it.")
    graph = _Graph(load(weights), epsilon=float(config["layer_norm_eps"]))
    x = graph.embeddings()
    for layer in range(config["num_hidden_layers"]):
        x = graph.layer(f"encoder.layer.{layer}.", x, heads=config["num_attention_heads"])
    graph.mean_of(x)
    return graph.to_bytes(int(config["hidden_size"]))


class _Graph:
    """Nodes and weights in the order in which they are added; each step returns the name of what it makes."""

    def __init__(self, weights: dict[str, npt.NDArray[np.float32]], *, epsilon: float) -> None:
        self._given, self._epsilon = weights, epsilon
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def embeddings(self) -> str:
        """Word, position and segment, summed and normalised. All tokens are of the first segment."""
        given = self._given
        positions = given["embeddings.position_embeddings.weight"] + given["embeddings.token_type_embeddings.weight"][0]
        words = self._weight("words", given["embeddings.word_embeddings.weight"])
        return self._fused(
            "EmbedLayerNormalization",
            [IDS, "", words, self._weight("positions", positions), "", *self._norm("embeddings.LayerNorm"), MASK],
            ["embedded", "lengths"],
            epsilon=self._epsilon,
        )

    def layer(self, name: str, x: str, *, heads: int) -> str:
        """One layer of attention and a feed-forward network."""
        parts = [f"{name}attention.self.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([self._given[f"{part}.weight"].T for part in parts], axis=1)  # (d, 3d)
        bias = np.concatenate([self._given[f"{part}.bias"] for part in parts])
        inputs = [x, self._weight(f"{name}qkv", weight), self._weight(f"{name}qkv.bias", bias), "lengths"]
        attended = self._fused("Attention", inputs, [f"{name}attended"], num_heads=heads)
        x = self._skip(f"{name}attention.output", attended, x)
        opened = self._times(f"{name}intermediate.dense", x)
        curved = self._fused("BiasGelu", [opened, self._bias(f"{name}intermediate.dense")], [f"{name}curved"])
        return self._skip(f"{name}output", curved, x)

    def mean_of(self, x: str) -> None:
        """The mean over the tokens, at norm one: the sum over them has the same direction."""
        self._plain("Identity", [x], STATES)
        cast = self._plain("Cast", [MASK], "weights", to=1)  # 1 is float32.
        wide = self._plain("Unsqueeze", [cast, self._weight("last", np.array([2]))], "column")
        kept = self._plain("Mul", [x, wide], "kept")
        total = self._plain("ReduceSum", [kept, self._weight("tokens", np.array([1]))], "total", keepdims=0)
        self._plain("LpNormalization", [total], VECTORS, axis=1, p=2)

    def to_bytes(self, dimension: int) -> bytes:
        """The serialized model."""
        from onnx import TensorProto, helper

        inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, ["n", "t"]) for name in (IDS, MASK)]
        shapes = {VECTORS: ["n", dimension], STATES: ["n", "t", dimension]}
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
        graph = helper.make_graph(self._nodes, "encoder", inputs, outputs, initializer=self._weights)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_FUSED, _FUSED_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        result: bytes = model.SerializeToString(deterministic=True)
        return result

    def _skip(self, name: str, x: str, before: str) -> str:
        """A product, its bias, what came before, normalised."""
        inputs = [
            self._times(f"{name}.dense", x),
            before,
            *self._norm(f"{name}.LayerNorm"),
            self._bias(f"{name}.dense"),
        ]
        return self._fused("SkipLayerNormalization", inputs, [f"{name}.done"], epsilon=self._epsilon)

    def _times(self, name: str, x: str) -> str:
        return self._plain("MatMul", [x, self._weight(name, self._given[f"{name}.weight"].T)], f"{name}.product")

    def _bias(self, name: str) -> str:
        return self._weight(f"{name}.bias", self._given[f"{name}.bias"])

    def _norm(self, name: str) -> list[str]:
        return [self._weight(f"{name}.{part}", self._given[f"{name}.{part}"]) for part in ("weight", "bias")]

    def _weight(self, name: str, values: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _fused(self, operator: str, inputs: list[str], outputs: list[str], **options: Any) -> str:
        from onnx import helper

        self._nodes.append(helper.make_node(operator, inputs, outputs, domain=_FUSED, **options))
        return outputs[0]

    def _plain(self, operator: str, inputs: list[str], output: str, **options: Any) -> str:
        from onnx import helper

        self._nodes.append(helper.make_node(operator, inputs, [output], **options))
        return output
