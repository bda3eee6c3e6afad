"""YOLOX's backbone and neck in an ONNX file.

What PyTorch exports has folded batch norms and numbers for names, so convolutions are told apart by the order in which
they run, which is that of ours; the kernel, stride, padding and groups of each must be ours too. Those that come behind
the neck are the head's, and left.
"""

import dataclasses
import functools
import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.layers.convolution import Convolution
from mmduplex_jax.towers.preprocessing import Preprocessing
from mmduplex_jax.towers.yolox import YoloxConfig
from mmduplex_jax.weights.convolutional.files import OnnxGraph
from mmduplex_jax.weights.huggingface.layout import Entry, Layout
from mmduplex_jax.weights.huggingface.reader import WeightsError

FAMILY = "yolox"
# Bytes as they are. YOLOX puts a picture into a square at the top left and pads with grey, which no step here does.
PREPROCESSING = Preprocessing(method="bilinear", mean=YoloxConfig.mean, std=YoloxConfig.std)
_STEM_CHANNELS = 12  # four pixels of three colours
_MOST_REPEATS = 4  # YOLOX-X


class Ours(NamedTuple):
    """A convolution of our tower.

    Attributes:
      path: of its parameters, `stage_2/join`.
      channels: that come in.
      features, kernel_px, stride, depthwise: its own.
    """

    path: str
    channels: int
    features: int
    kernel_px: int
    stride: int
    depthwise: bool


@functools.lru_cache(maxsize=8)
def convolutions(config: YoloxConfig) -> tuple[Ours, ...]:
    """Every convolution of the tower in the order in which they run."""
    found: list[Ours] = []

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if isinstance(layer, Convolution) and context.method_name == "__call__":
            own = layer.features, layer.kernel_px, layer.stride, layer.depthwise
            found.append(Ours("/".join(layer.path), args[0].shape[-1], *own))
        return call(*args, **kwargs)

    plain = dataclasses.replace(config, remat=False)
    with nn.intercept_methods(note):
        jax.eval_shape(plain.build().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return tuple(found)


def config_of(graph: OnnxGraph, where: object) -> YoloxConfig:
    """Our shape of a graph, with the output "neck_32".

    Raises:
      WeightsError: it is not YOLOX; says how the nearest one differs.
    """
    shapes = [graph.tensors[c.weight].shape if c.weight in graph.tensors else () for c in graph.convolutions]
    if not shapes or len(shapes[0]) != 4 or shapes[0][1:] != (_STEM_CHANNELS, 3, 3):
        raise WeightsError(
            f"{where}: its first convolution is {list(shapes[0]) if shapes else 'not there'}, that of a YOLOX "
            f"[C, {_STEM_CHANNELS}, 3, 3]: ONNX files that are read are exports of YOLOX"
        )
    depthwise = len(graph.convolutions) > 1 and graph.convolutions[1].groups > 1
    wrong: list[str] = []
    for n in range(1, _MOST_REPEATS + 1):
        config = YoloxConfig(
            stem=shapes[0][0], repeats=(n, 3 * n, 3 * n, n), neck_repeats=n, depthwise=depthwise, output="neck_32"
        )
        differences = compare(graph, config)
        if not differences:
            return config
        if not wrong or len(differences) < len(wrong):
            wrong = differences
    raise WeightsError(
        f"{where}: {len(wrong)} convolutions are not those of a YOLOX\n  "
        + "\n  ".join(wrong)
        + "\n-> is it an export of a YOLOX with batch norms folded, as PyTorch makes it of a model in eval mode?"
    )


def compare(graph: OnnxGraph, config: YoloxConfig) -> list[str]:
    """What of a graph differs from the tower, a line for each convolution."""
    ours = convolutions(config)
    wrong = []
    for mine, theirs in zip(ours, graph.convolutions, strict=False):
        half = mine.kernel_px // 2
        needed = {
            "weight": (mine.features, 1 if mine.depthwise else mine.channels, mine.kernel_px, mine.kernel_px),
            "stride": (mine.stride, mine.stride),
            "padding": (half,) * 4,
            "groups": mine.features if mine.depthwise else 1,
            "bias": (mine.features,),
        }
        tensor = lambda name: graph.tensors[name].shape if name in graph.tensors else "missing"
        found = theirs._asdict() | {"weight": tensor(theirs.weight), "bias": tensor(theirs.bias)}
        different = [f"{key} {found[key]}, not {value}" for key, value in needed.items() if found[key] != value]
        if different:
            wrong.append(f"{theirs.name} ({theirs.weight}), here {mine.path}: {'; '.join(different)}")
    return wrong + [f"missing: {mine.path}" for mine in ours[len(graph.convolutions) :]]


def layout(graph: OnnxGraph, config: YoloxConfig) -> Layout:
    """Which tensor of the graph is which parameter of the tower."""
    ours = convolutions(config)
    entries = [_entry(mine, theirs.weight, theirs.bias) for mine, theirs in zip(ours, graph.convolutions, strict=False)]
    head = [name for theirs in graph.convolutions[len(ours) :] for name in (theirs.weight, theirs.bias) if name]
    return Layout(tuple(entries), tuple(map(re.escape, (*head, *graph.of_others))))


def _entry(ours: Ours, weight: str, bias: str) -> Entry:
    def turned(kernel: np.ndarray) -> np.ndarray:
        """Blue, green and red of each of the four pixels as red, green and blue, or back."""
        return kernel.reshape(*kernel.shape[:2], -1, 3, kernel.shape[-1])[:, :, :, ::-1].reshape(kernel.shape)

    colours = turned if ours.path == "stem" else lambda kernel: kernel
    return Entry(
        (f"{ours.path}/kernel", f"{ours.path}/bias"),
        (weight, bias),
        lambda w, b: (colours(w.transpose(2, 3, 1, 0)), b),
        lambda k, b: (colours(k).transpose(3, 2, 0, 1), b),
    )
