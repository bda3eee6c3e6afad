"""Imported convolutional towers beside what they came from: ONNX Runtime's run of the file, PyTorch's convolutions.

The other side shares no code with ours: the ONNX file is run as it is, up to the neck; EfficientNet-Lite0's tensors go
through PyTorch's own operators by their names, batch norms and all.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.towers.efficientnet_lite import EfficientNetLiteConfig
from mmduplex_jax.towers.vision import normalise
from mmduplex_jax.towers.yolox import Yolox, YoloxConfig
from mmduplex_jax.weights.convolutional import efficientnet_lite, yolox
from mmduplex_jax.weights.convolutional.files import find_file, read_npz, read_onnx, read_pth
from mmduplex_jax.weights.convolutional.source import ConvolutionalConfig
from mmduplex_jax.weights.huggingface.reader import import_optional

# That the towers were not trained at; ONNX files of YOLOX take multiples of 32 only.
SIZES_PX = {"yolox": ((64, 64), (96, 160)), "efficientnet_lite": ((64, 64), (75, 130))}

Outputs = dict[str, np.ndarray]


def check_possible(family: str) -> None:
    """WeightsError where what the reference needs is not installed."""
    if family == yolox.FAMILY:
        for package in ("onnx", "onnxruntime"):
            import_optional(package, "onnx", "verifying a YOLOX")
    else:
        import_optional("torch", "parity", "verifying an EfficientNet-Lite")


def compare(
    source: str | Path, config: ConvolutionalConfig, params: Mapping[str, Any], rows: int, rng: np.random.Generator
) -> tuple[Outputs, Outputs, str]:
    """Theirs, ours and the name of the reference, for random pictures of two sizes."""
    file = find_file(source)
    assert file is not None  # it was imported from there
    theirs, ours, name = Outputs(), Outputs(), ""
    for height, width in SIZES_PX[config.kind]:
        frames = rng.integers(0, 256, (rows, height, width, 3), np.uint8)
        pictures = np.asarray(normalise(jnp.asarray(frames), config.mean, config.std))
        at = f" at {height}x{width} px"
        if isinstance(config, YoloxConfig):
            found, name = _onnx_maps(file, config, pictures)
            see = jax.jit(lambda p, x: config.build().apply({"params": p}, x, method=Yolox.maps))
            mine = see(params, pictures)
        else:
            found, name = _torch_maps(file, config, pictures)
            mine = {
                output: jax.jit(dataclasses.replace(config, output=output).build().apply)({"params": params}, pictures)
                for output in found
                if output != "pooled"
            }
            mine["pooled"] = jnp.mean(mine["head"], axis=(1, 2))
        theirs |= {key + at: value for key, value in found.items()}
        ours |= {key + at: np.asarray(mine[key]) for key in found}
    return theirs, ours, name


def _onnx_maps(file: Path, config: YoloxConfig, pictures: np.ndarray) -> tuple[Outputs, str]:
    """The neck's maps of an ONNX file, by the names that ours have."""
    onnx, runtime = (import_optional(name, "onnx", "verifying a YOLOX") for name in ("onnx", "onnxruntime"))
    graph, ours = read_onnx(file), yolox.convolutions(config)
    order = {mine.path: theirs.name for mine, theirs in zip(ours, graph.convolutions, strict=False)}
    model = onnx.load(file)
    ends = {"neck_8": "top_down_8/join", "neck_16": "bottom_up_16/join", "neck_32": "bottom_up_32/join"}
    outputs = {name: _activated(model.graph, order[path]) for name, path in ends.items()}
    cut = onnx.utils.Extractor(model).extract_model([model.graph.input[0].name], list(outputs.values()))
    blue_first = np.ascontiguousarray(pictures[..., ::-1].transpose(0, 3, 1, 2))
    for axis, size in zip(cut.graph.input[0].type.tensor_type.shape.dim, blue_first.shape, strict=True):
        axis.dim_value = size
    del cut.graph.value_info[:]  # sizes of the size that it was exported for
    for output in cut.graph.output:
        output.type.tensor_type.ClearField("shape")
    session = runtime.InferenceSession(cut.SerializeToString(), providers=["CPUExecutionProvider"])
    maps = session.run(list(outputs.values()), {cut.graph.input[0].name: blue_first})
    named = {name: value.transpose(0, 2, 3, 1) for name, value in zip(outputs, maps, strict=True)}
    return named, f"ONNX Runtime {runtime.__version__}"


def _activated(graph: Any, convolution: str) -> str:
    """The tensor that the SiLU behind a convolution gives: it is its product with its sigmoid."""
    (plain,) = (node.output[0] for node in graph.node if (node.name or node.output[0]) == convolution)
    (product,) = (node for node in graph.node if node.op_type == "Mul" and plain in node.input)
    return str(product.output[0])


def _torch_maps(file: Path, config: EfficientNetLiteConfig, pictures: np.ndarray) -> tuple[Outputs, str]:
    """The maps of all stages of EfficientNet-Lite, by the names that ours have, and what is pooled."""
    torch = import_optional("torch", "parity", "verifying an EfficientNet-Lite")
    functional = torch.nn.functional
    folded = file.suffix == ".npz"
    arrays = read_npz(file) if folded else read_pth(file)
    tensors = {name: torch.tensor(array).float() for name, array in arrays.items()}

    def layer(x: Any, name: str, norm: str, stride: int, active: bool) -> Any:
        weight = tensors[f"{name}.{'W' if folded else 'weight'}"]
        size, kernel = x.shape[-2:], weight.shape[-1]
        short = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in size]
        x = functional.pad(x, [short[1] // 2, short[1] - short[1] // 2, short[0] // 2, short[0] - short[0] // 2])
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        x = functional.conv2d(x, weight, tensors[f"{name}.b"] if folded else None, stride, groups=groups)
        if not folded:
            part = lambda what: tensors[f"{norm}.{what}"]
            moments = part("running_mean"), part("running_var")
            x = functional.batch_norm(x, *moments, part("weight"), part("bias"), eps=efficientnet_lite.NORM_EPSILON)
        return functional.relu6(x) if active else x

    maps = {}
    with torch.no_grad():
        x = layer(torch.tensor(pictures).permute(0, 3, 1, 2), "_conv_stem", "_bn0", 2, True)
        blocks = sorted({int(name.split(".")[1]) for name in tensors if re.match(r"_blocks\.\d", name)})
        strides = [stage.stride if i == 0 else 1 for stage in config.stages for i in range(stage.repeats)]
        ends = np.cumsum([stage.repeats for stage in config.stages]).tolist()
        for number, stride in zip(blocks, strides, strict=True):
            name, before = f"_blocks.{number}", x
            if any(key.startswith(f"{name}._expand_conv") for key in tensors):
                x = layer(x, f"{name}._expand_conv", f"{name}._bn0", 1, True)
            x = layer(x, f"{name}._depthwise_conv", f"{name}._bn1", stride, True)
            x = layer(x, f"{name}._project_conv", f"{name}._bn2", 1, False)
            x = x + before if x.shape == before.shape else x
            if number + 1 in ends:
                maps[f"stage_{ends.index(number + 1) + 1}"] = x
        maps["head"] = x = layer(x, "_conv_head", "_bn1", 1, True)
        found = {key: value.permute(0, 2, 3, 1).numpy() for key, value in maps.items()}
        found["pooled"] = x.mean(dim=(2, 3)).numpy()
    return found, f"PyTorch {torch.__version__}"
