"""The network as ONNX, for programs that know neither JAX nor this project: trackers, ONNX Runtime, TensorRT.

Written layer by layer from the weights, with batch normalisation folded into the convolutions: the trunks of
`models.trunk`, pooling and necks. What a method puts between them is refused by name; StableHLO has everything.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bdf_jax.config import Config
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.features import make_embed, similarity_of
from bdf_jax.models import Network
from bdf_jax.models.heads import BNNeck, NoNeck, Project
from bdf_jax.models.metrics import WORDS
from bdf_jax.models.mobilenet import BLOCKS, HEAD_STAGE
from bdf_jax.models.resnet import ARCHITECTURES, STAGES, Architecture
from bdf_jax.models.trunk import MobileNetV2, ResNet, Tiny
from bdf_jax.pixels import MEAN, STD, normalise
from bdf_jax.views import BASES

OPSET, IR_VERSION = 17, 8  # of 2022: every runtime in use reads them
EPSILON = 1e-5  # of `layers.BatchNorm`
INSTEAD = "--format=stablehlo,safetensors has all of it"


def check_onnx(config: Config, num_classes: int) -> None:
    """Refuses what cannot be written, before the work.

    Raises:
      BdfError: a package is missing, or the network has something that the layers here do not.
    """
    for package in ("onnx", "onnxruntime"):  # the second checks what the first has written
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise BdfError(f"--format=onnx needs a package: pip install onnx onnxruntime ({error})") from error
    network, settings = config.network, config.retrieve
    firsts = [Network.of(config, num_classes).views_of(base)[:1] for base in range(len(BASES))]
    reasons = {
        f"the trunk {type(network.trunk).__name__}": type(network.trunk) not in (ResNet, Tiny, MobileNetV2),
        f"the blocks {', '.join(network.blocks)}": bool(network.blocks),
        f"the neck {type(network.neck).__name__}": type(network.neck) not in (BNNeck, NoNeck, Project),
        f"--use={settings.use}": settings.use != "base",
        "--feature=fitted": settings.feature == "fitted",
        f"{firsts[0][0]} and {firsts[1][0]} in place of the images": any(first[0] not in BASES for first in firsts),
    }
    found = [reason for reason, there in reasons.items() if there]
    if found:
        raise BdfError(f"--format=onnx: this network has {' and '.join(found)}, which is not written there; {INSTEAD}")


def to_onnx(
    config: Config, num_classes: int, variables: Mapping[str, Any], modality: int, about: Mapping[str, str]
) -> bytes:
    """The embedder of one modality, serialised: `images` (N, H, W, 3) uint8 to `features` (N, D) float32.

    Args:
      config: with the `retrieve` section that is asked for; `check_onnx` has passed it.
      num_classes: identities in training.
      variables: `params` and `batch_stats`.
      modality: 0 visible, 1 infrared.
      about: kept in the file's metadata.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = _Graph()
    layers = _Layers(graph, config, num_classes, variables, modality)
    pixels = graph("Transpose", graph("Cast", "images", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    scale, shift = 1 / (255 * STD.astype(np.float64)), -MEAN.astype(np.float64) / STD
    normalised = graph("Add", graph("Mul", pixels, _channels(scale)), _channels(shift))
    features = layers.features(normalised)
    if config.retrieve.flip_tta:
        mirror = graph("Slice", normalised, *(np.array([n], np.int64) for n in (-1, np.iinfo(np.int64).min, 3, -1)))
        both = graph("Add", features, layers.features(mirror))
        features = graph("Mul", both, np.float32(0.5))
    if similarity_of(config.retrieve) != "euclidean":
        features = graph.of_length_1(features)
    graph.nodes.append(helper.make_node("Identity", [features], ["features"]))
    height, width = config.data.image_size
    made = helper.make_graph(
        graph.nodes,
        "embedder",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", height, width, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", layers.length])],
        [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
    )
    model = helper.make_model(made, producer_name="bdf_jax", opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def run_onnx(content: bytes, images_NHWC: np.ndarray) -> np.ndarray:
    """(N, D) float32: what ONNX Runtime makes of uint8 images on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (features,) = session.run(None, {"images": images_NHWC})
    return np.asarray(features)


def _channels(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, None, None]


class _Graph:
    """Nodes in the order of the computation; a value is its name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def __call__(self, operation: str, *inputs: str | np.ndarray | np.generic, **attributes: Any) -> str:
        """Adds a node with one output; inputs that are arrays become constants."""
        from onnx import helper

        names = [value if isinstance(value, str) else self._constant(np.asarray(value)) for value in inputs]
        output = f"{operation.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, names, [output], **attributes))
        return output

    def _constant(self, array: np.ndarray) -> str:
        """The same array once only: a mirrored image passes the network a second time."""
        array = np.asarray(array, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"constant_{len(self.constants)}"
            self.constants[self._known[key]] = array
        return self._known[key]

    def of_length_1(self, x_ND: str) -> str:
        length = self("ReduceL2", x_ND, axes=[1], keepdims=1)
        return self("Div", x_ND, self("Max", length, np.float32(1e-12)))


class _Layers:
    """The network's layers as nodes, NCHW; names of parameters are those of `Network`."""

    def __init__(self, graph: _Graph, config: Config, num_classes: int, variables: Mapping[str, Any], modality: int):
        self.graph, self.config, self.modality = graph, config, modality
        self.params, self.statistics = variables["params"], variables["batch_stats"]
        network = Network.of(config, num_classes)
        apart = config.network.bn == "per_view"
        self.row = network.inputs.index(network.views_of(modality)[0]) if apart else None
        images = jax.ShapeDtypeStruct((1, *config.data.image_size, 3), np.uint8)
        base, first = BASES[modality], network.views_of(modality)[:1]

        def last(variables: Any, images: Any) -> Any:
            outputs: Any = network.apply(variables, {base: normalise(images)}, train=False, views=first)
            return outputs["map"]

        self.rows = jax.eval_shape(last, dict(variables), images).shape[2]
        embed = make_embed(network, config.retrieve)
        self.length = jax.eval_shape(lambda v, x: embed(v, x, modality), dict(variables), images).shape[1]

    def features(self, x: str) -> str:
        """(N, 3, H, W) to (N, D), before anything is done about its length."""
        settings, network = self.config.retrieve, self.config.network
        for stage in range(network.trunk.stages):
            x = self._stage(x, stage)
        pooled = self._pooled(x)
        ends = [str(s) if len(pooled) > 1 else "" for s in range(len(pooled))]
        kinds = {"pooled": pooled}
        if settings.feature != "pooled":
            kinds["embedding"] = [self._neck(part, f"bnneck{end}") for part, end in zip(pooled, ends, strict=True)]
        if settings.feature == "stripes":
            return self._joined([self.graph.of_length_1(part) for part in kinds["embedding"]])
        if settings.feature == "both":
            return self._joined([self.graph.of_length_1(self._joined(kinds[name])) for name in ("pooled", "embedding")])
        return self._joined(kinds[settings.feature])

    def _joined(self, parts: Sequence[str]) -> str:
        return parts[0] if len(parts) == 1 else self.graph("Concat", *parts, axis=1)

    def _norm(self, module: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """A batch normalisation as factor and offset of its channels."""
        params, statistics = self.params, self.statistics
        for name in module:
            params, statistics = params[name], statistics[name]
        rows = {**params, **statistics}
        table = {name: np.asarray(rows[name], np.float64) for name in rows}
        if self.row is not None:
            table = {name: values[self.row] if values.ndim == 2 else values for name, values in table.items()}
        factor = table["scale"] / np.sqrt(table["var"] + EPSILON)
        return factor, table.get("bias", 0.0) - table["mean"] * factor

    def _conv(self, x: str, stage: str, conv: str, norm: str, stride: int = 1, groups: int = 1) -> str:
        """A convolution with the normalisation behind it."""
        kernel = np.asarray(self.params[stage][conv]["kernel"], np.float64)
        factor, offset = self._norm((stage, norm))
        weight = (kernel * factor).transpose(3, 2, 0, 1).astype(np.float32)
        side = kernel.shape[0]
        shape = {"kernel_shape": [side] * 2, "strides": [stride] * 2, "pads": [side // 2] * 4, "group": groups}
        return self.graph("Conv", x, weight, offset.astype(np.float32), **shape)

    def _relu(self, x: str) -> str:
        return self.graph("Relu", x)

    def _relu6(self, x: str) -> str:
        return self.graph("Clip", x, np.float32(0), np.float32(6))

    def _stage(self, x: str, stage: int) -> str:
        trunk = self.config.network.trunk
        name = STAGES[stage] + (f"_{WORDS[self.modality]}" if stage < self.config.network.split_at else "")
        if isinstance(trunk, MobileNetV2):
            return self._mobile_stage(x, stage, name)
        architecture = ARCHITECTURES[trunk.name]
        if stage == 0:
            small = architecture.small_stem
            x = self._relu(self._conv(x, name, "conv", "bn", stride=1 if small else 2))
            window = {"kernel_shape": [2, 2]} if small else {"kernel_shape": [3, 3], "pads": [1] * 4}
            return self.graph("MaxPool", x, strides=[2, 2], **window)
        blocks = architecture.blocks[stage - 1]
        non_local = min((0, *getattr(trunk, "non_local"))[stage], blocks)  # noqa: B009 -- of both kinds of ResNet
        for i in range(blocks):
            x = self._residual(x, name, f"block{i}", architecture, stride=2 if i == 0 and stage in (2, 3) else 1)
            if i >= blocks - non_local:
                x = self._non_local(x, name, f"non_local{i}")
        return x

    def _residual(self, x: str, stage: str, block: str, architecture: Architecture, stride: int) -> str:
        strides = (1, stride, 1) if architecture.bottleneck else (stride, 1)
        y = x
        for number, step in enumerate(strides, start=1):
            y = self._conv(
                y if number == 1 else self._relu(y), stage, f"{block}_conv{number}", f"{block}_bn{number}", step
            )
        if f"{block}_conv0" in self.params[stage]:
            x = self._conv(x, stage, f"{block}_conv0", f"{block}_bn0", stride)
        return self._relu(self.graph("Add", y, x))

    def _non_local(self, x: str, stage: str, block: str) -> str:
        def product(x: str, name: str, factor: Any = 1.0, offset: Any = 0.0) -> str:
            dense = {key: np.asarray(value, np.float64) for key, value in self.params[stage][block][name].items()}
            weight = (dense["kernel"] * factor).T[:, :, None, None].astype(np.float32)
            return self.graph("Conv", x, weight, (dense["bias"] * factor + offset).astype(np.float32))

        g, theta, phi = (product(x, name) for name in ("g", "theta", "phi"))
        mean = self.graph("ReduceMean", self.graph("Mul", phi, g), axes=[2, 3], keepdims=1)
        return self.graph("Add", x, product(self.graph("Mul", theta, mean), "W", *self._norm((stage, block, "bn"))))

    def _mobile_stage(self, x: str, stage: int, name: str) -> str:
        if stage == 0:
            x = self._relu6(self._conv(x, name, "conv", "bn", stride=2))
        for i, (expansion, features, stride) in enumerate(BLOCKS[stage]):
            block, y = f"block{i}", x
            if expansion > 1:
                y = self._relu6(self._conv(y, name, f"{block}_conv1", f"{block}_bn1"))
            hidden = self.params[name][f"{block}_conv2"]["kernel"].shape[-1]
            y = self._relu6(self._conv(y, name, f"{block}_conv2", f"{block}_bn2", stride, groups=hidden))
            y = self._conv(y, name, f"{block}_conv3", f"{block}_bn3")
            x = self.graph("Add", x, y) if stride == 1 and hidden == expansion * features else y
        return self._relu6(self._conv(x, name, "conv", "bn")) if stage == HEAD_STAGE else x

    def _pooled(self, x: str) -> list[str]:
        """(N, D) of each stripe, or of all of them in one."""
        pool, graph = self.config.network.pool, self.graph
        stripes = [x]
        if pool.stripes > 1:
            edges = [round(i * self.rows / pool.stripes) for i in range(pool.stripes + 1)]
            stripes = [
                graph("Slice", x, *(np.array([n], np.int64) for n in (top, bottom, 2)))
                for top, bottom in itertools.pairwise(edges)
            ]
        over: dict[str, Any] = {"axes": [2, 3], "keepdims": 0}
        if pool.kind == "gem":
            p = float(np.asarray(self.params["gem_p"]).item() if pool.learned else pool.p)
            parts = []
            for stripe in stripes:
                above = graph("Max", stripe, np.float32(1e-6))
                greatest = graph("ReduceMax", above, axes=[2, 3], keepdims=1)
                powers = graph("Pow", graph("Div", above, greatest), np.float32(p))
                root = graph("Pow", graph("ReduceMean", powers, **over), np.float32(1 / p))
                parts.append(graph("Mul", root, graph("ReduceMax", above, **over)))
        else:
            operation = {"avg": "ReduceMean", "max": "ReduceMax"}[pool.kind]
            parts = [graph(operation, stripe, **over) for stripe in stripes]
        return [self._joined(parts)] if pool.join else parts

    def _neck(self, x_ND: str, name: str) -> str:
        neck = self.config.network.neck
        if isinstance(neck, Project):
            dense = {key: np.asarray(value, np.float32) for key, value in self.params[f"{name}_project"].items()}
            if neck.norm and neck.before:
                x_ND = self._scaled(x_ND, name)
            x_ND = self.graph("MatMul", x_ND, dense["kernel"])
            x_ND = self.graph("Add", x_ND, dense["bias"]) if neck.bias else x_ND
            if neck.norm and not neck.before:
                x_ND = self._scaled(x_ND, name)
            return x_ND if neck.slope == 1 else self.graph("LeakyRelu", x_ND, alpha=float(neck.slope))
        return self._scaled(x_ND, name) if isinstance(neck, BNNeck) else x_ND

    def _scaled(self, x_ND: str, name: str) -> str:
        factor, offset = (values.astype(np.float32) for values in self._norm((name,)))
        return self.graph("Add", self.graph("Mul", x_ND, factor), offset)
