"""Small random networks in the names of others, and what they compute by XLA's own convolutions."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.towers.efficientnet_lite import EfficientNetLiteConfig
from mmduplex_jax.towers.yolox import YoloxConfig
from mmduplex_jax.weights.convolutional.files import OnnxConvolution, OnnxGraph

LITE = EfficientNetLiteConfig(stages=((1, 3, 1, 1, 4), (2, 5, 2, 3, 6), (1, 3, 2, 2, 8)), stem=5, head=10)
YOLOX = YoloxConfig(stem=4, output="neck_32")


def convolve(x, weight, stride: int, padding, groups: int):
    """Of `[B, C, H, W]` with `[F, C / groups, k, k]`."""
    return jax.lax.conv_general_dilated(
        x, weight, (stride, stride), padding, feature_group_count=groups, precision="highest"
    )


# EfficientNet-Lite.


def lite_tensors(config: EfficientNetLiteConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A state dict as the package's file has it, with batch norms."""
    tensors: dict[str, np.ndarray] = {}

    def add(name: str, norm: str, features: int, channels: int, kernel_px: int) -> None:
        draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
        tensors[f"{name}.weight"] = draw(features, channels, kernel_px, kernel_px)
        tensors[f"{norm}.weight"], tensors[f"{norm}.bias"] = 1 + 0.1 * draw(features), draw(features)
        tensors[f"{norm}.running_mean"] = draw(features)
        tensors[f"{norm}.running_var"] = rng.uniform(4, 40, features).astype(np.float32)
        tensors[f"{norm}.num_batches_tracked"] = np.int64(7)

    add("_conv_stem", "_bn0", config.stem, 3, 3)
    number, width = 0, config.stem
    for stage in config.stages:
        for _ in range(stage.repeats):
            name, wide = f"_blocks.{number}", width * stage.expansion
            if stage.expansion > 1:
                add(f"{name}._expand_conv", f"{name}._bn0", wide, width, 1)
            add(f"{name}._depthwise_conv", f"{name}._bn1", wide, 1, stage.kernel_px)
            add(f"{name}._project_conv", f"{name}._bn2", stage.width, wide, 1)
            number, width = number + 1, stage.width
    add("_conv_head", "_bn1", config.head, width, 1)
    tensors["_fc.weight"], tensors["_fc.bias"] = np.zeros((7, config.head)), np.zeros(7)
    return tensors


def lite_folded(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same network as a file with folded norms has it."""
    folded = {"fc.W": tensors["_fc.weight"], "fc.b": tensors["_fc.bias"]}
    for name, weight in tensors.items():
        if "conv" in name:
            norm = norm_of(name.removesuffix(".weight"))
            factor = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + 1e-3)
            folded[f"{name.removesuffix('.weight')}.W"] = weight * factor[:, None, None, None]
            shift = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * factor
            folded[f"{name.removesuffix('.weight')}.b"] = shift
    return folded


def norm_of(convolution: str) -> str:
    """The batch norm behind a convolution."""
    block, _, kind = convolution.rpartition(".")
    number = {"_conv_stem": 0, "_conv_head": 1, "_expand_conv": 0, "_depthwise_conv": 1, "_project_conv": 2}[kind]
    return f"{block}._bn{number}" if block else f"_bn{number}"


def lite_map(config: EfficientNetLiteConfig, tensors: dict[str, np.ndarray], pictures) -> jax.Array:
    """What the last layer gives, `[B, h, w, head]`."""

    def layer(x, name: str, stride: int = 1, active: bool = True):
        weight, norm = tensors[f"{name}.weight"], norm_of(name)
        x = convolve(x, weight, stride, "SAME", x.shape[1] if "depthwise" in name else 1)
        scale, shift, mean, variance = (
            tensors[f"{norm}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        x = (x - mean) / np.sqrt(variance + 1e-3) * scale + shift
        return jnp.clip(x, 0, 6) if active else x

    x, number = layer(pictures.transpose(0, 3, 1, 2), "_conv_stem", 2), 0
    for stage in config.stages:
        for i in range(stage.repeats):
            name, before = f"_blocks.{number}", x
            x = layer(x, f"{name}._expand_conv") if stage.expansion > 1 else x
            x = layer(x, f"{name}._depthwise_conv", stage.stride if i == 0 else 1)
            x = layer(x, f"{name}._project_conv", active=False)
            x = x + before if x.shape == before.shape else x
            number += 1
    return layer(x, "_conv_head").transpose(0, 2, 3, 1)


# YOLOX.


def yolox_layers(config: YoloxConfig) -> Iterator[tuple[int, int, int, int, int]]:
    """Every convolution as it runs: features, channels, kernel, stride, groups; and one of a head."""

    def spatial(features: int, channels: int, stride: int):
        if config.depthwise:
            yield channels, 1, 3, stride, channels
            yield features, channels, 1, 1, 1
        else:
            yield features, channels, 3, stride, 1

    def partial(features: int, channels: int, repeats: int):
        half = features // 2
        yield half, channels, 1, 1, 1
        yield half, channels, 1, 1, 1
        for _ in range(repeats):
            yield half, half, 1, 1, 1
            yield from spatial(half, half, 1)
        yield features, features, 1, 1, 1

    c = config.stem
    yield c, 12, 3, 1, 1
    for width, repeats in zip((2 * c, 4 * c, 8 * c, 16 * c), config.repeats, strict=True):
        yield from spatial(width, width // 2, 2)
        if width == 16 * c:
            yield 8 * c, 16 * c, 1, 1, 1
            yield 16 * c, 32 * c, 1, 1, 1
        yield from partial(width, width, repeats)
    yield 8 * c, 16 * c, 1, 1, 1
    yield from partial(8 * c, 16 * c, config.neck_repeats)
    yield 4 * c, 8 * c, 1, 1, 1
    yield from partial(4 * c, 8 * c, config.neck_repeats)
    yield from spatial(4 * c, 4 * c, 2)
    yield from partial(8 * c, 8 * c, config.neck_repeats)
    yield from spatial(8 * c, 8 * c, 2)
    yield from partial(16 * c, 16 * c, config.neck_repeats)
    yield 4 * c, 4 * c, 1, 1, 1


def yolox_graph(config: YoloxConfig, rng: np.random.Generator) -> OnnxGraph:
    """A graph with names that say nothing, as PyTorch exports it."""
    tensors, convolutions = {}, []
    for number, (features, channels, kernel_px, stride, groups) in enumerate(yolox_layers(config)):
        weight = rng.standard_normal((features, channels, kernel_px, kernel_px)) * (channels * kernel_px**2) ** -0.5
        tensors[f"{3 * number}"] = weight.astype(np.float32)
        tensors[f"{3 * number + 1}"] = rng.standard_normal(features).astype(np.float32)
        names = f"Conv_{number}", f"{3 * number}", f"{3 * number + 1}"
        convolutions.append(OnnxConvolution(*names, (stride, stride), (kernel_px // 2,) * 4, groups))
    tensors["factors"] = np.array([1, 1, 2, 2], np.float32)
    return OnnxGraph(tensors, tuple(convolutions), ("factors",))


def yolox_maps(config: YoloxConfig, graph: OnnxGraph, pictures) -> dict[str, jax.Array]:
    """The neck's maps of RGB pictures, `[B, h, w, F]`, by name."""
    rest = iter(graph.convolutions)

    def layer(x):
        c = next(rest)
        x = convolve(x, graph.tensors[c.weight], c.stride[0], [(c.padding[0],) * 2] * 2, c.groups)
        x = x + graph.tensors[c.bias][:, None, None]
        return x / (1 + jnp.exp(-x))

    spatial = lambda x: layer(layer(x)) if config.depthwise else layer(x)
    beside = lambda *maps: jnp.concatenate(maps, axis=1)
    doubled = lambda x: jnp.kron(x, np.ones((2, 2), np.float32))

    def partial(x, repeats: int, shortcut: bool):
        through, past = layer(x), layer(x)
        for _ in range(repeats):
            inside = spatial(layer(through))
            through = through + inside if shortcut else inside
        return layer(beside(through, past))

    def largest(x, size_px: int):
        window = (1, 1, size_px, size_px)
        return jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, (1, 1, 1, 1), "SAME")

    x = pictures[..., ::-1].transpose(0, 3, 1, 2)
    x = layer(beside(x[:, :, ::2, ::2], x[:, :, 1::2, ::2], x[:, :, ::2, 1::2], x[:, :, 1::2, 1::2]))
    levels = []
    for i, repeats in enumerate(config.repeats):
        x = spatial(x)
        if i == 3:
            narrow = layer(x)
            x = layer(beside(narrow, *(largest(narrow, size) for size in (5, 9, 13))))
        x = partial(x, repeats, i < 3)
        levels.append(x)
    coarse = layer(levels[3])
    middle = layer(partial(beside(doubled(coarse), levels[2]), config.neck_repeats, False))
    fine = partial(beside(doubled(middle), levels[1]), config.neck_repeats, False)
    up = partial(beside(spatial(fine), middle), config.neck_repeats, False)
    top = partial(beside(spatial(up), coarse), config.neck_repeats, False)
    maps = {"neck_8": fine, "neck_16": up, "neck_32": top}
    return {name: value.transpose(0, 2, 3, 1) for name, value in maps.items()}
