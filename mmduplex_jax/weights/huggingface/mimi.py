"""Mimi's weights: as transformers has them (`kyutai/mimi`), and in moshi's own file (`tokenizer-….safetensors`).

Names of both: transformers 5.23, models/mimi/modeling_mimi.py, and kyutai-labs/moshi e6a55d2, modules/. moshi's rotary
angles turn neighbouring channels, those of transformers and ours the halves of a head, so rows of its queries and keys
change places. Its file comes without a configuration: what shapes do not tell is Mimi's.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.weights.huggingface.layout import (
    QUERY_KEY_VALUE,
    Entry,
    Layout,
    norm,
    reshaped,
    rotary_places,
    same,
    stacked,
    transposed,
)
from mmduplex_jax.weights.huggingface.reader import Tensors, WeightsError

MODEL_TYPE = "mimi"
MOSHI = "moshi_mimi"
FAMILIES = (MODEL_TYPE, MOSHI)
_MOSHI_SIGN = "quantizer.rvq_first.input_proj.weight"

# Fields of transformers' config that say what our codec always does; what else they may say is not read.
_FIXED: Mapping[str, Any] = {
    "audio_channels": 1,
    "use_causal_conv": True,
    "pad_mode": "constant",
    "use_conv_shortcut": False,
    "trim_right_ratio": 1.0,
    "attention_bias": False,
}
# Ours, theirs, and what they are where a config does not say.
_FIELDS: Mapping[str, tuple[str, Any]] = {
    "sample_rate_hz": ("sampling_rate", 24_000),
    "ratios": ("upsampling_ratios", (8, 6, 5, 4)),
    "filters": ("num_filters", 64),
    "kernel": ("kernel_size", 7),
    "residual_kernel": ("residual_kernel_size", 3),
    "last_kernel": ("last_kernel_size", 3),
    "residual_layers": ("num_residual_layers", 1),
    "dilation_base": ("dilation_growth_rate", 2),
    "compress": ("compress", 2),
    "width": ("hidden_size", 512),
    "layers": ("num_hidden_layers", 8),
    "heads": ("num_attention_heads", 8),
    "hidden": ("intermediate_size", 2048),
    "activation": ("hidden_act", "gelu"),
    "norm_epsilon": ("norm_eps", 1e-5),
    "layer_scale": ("layer_scale_initial_scale", 0.01),
    "context_frames": ("sliding_window", 250),
    "codebooks": ("num_quantizers", 32),
    "semantic_codebooks": ("num_semantic_quantizers", 1),
    "codebook_size": ("codebook_size", 2048),
    "codebook_width": ("vector_quantization_hidden_dimension", 256),
}


def is_moshi(files: Tensors) -> bool:
    """Whether tensors are a codec under moshi's names."""
    return _MOSHI_SIGN in files


def config_of_json(their_config: Mapping[str, Any]) -> CodecConfig:
    """Our shape of transformers' `config.json`.

    Raises:
      WeightsError: it asks for what our codec does not do; all of it is named.
    """
    get = lambda name, default: default if their_config.get(name) is None else their_config[name]
    values = {ours: get(theirs, default) for ours, (theirs, default) in _FIELDS.items()}
    heads, width = values["heads"], values["width"]
    rope = their_config.get("rope_parameters") or their_config.get("rope_scaling") or {}
    asked: dict[str, tuple[Any, Any]] = {name: (get(name, value), value) for name, value in _FIXED.items()}
    asked |= {
        "num_key_value_heads": (get("num_key_value_heads", heads), heads),
        "head_dim": (get("head_dim", width // heads), width // heads),
        "codebook_dim": (get("codebook_dim", values["codebook_width"]), values["codebook_width"]),
        "rope_type": (rope.get("rope_type", "default"), "default"),
    }
    wrong = [f"{name} is {found!r}, read is {wanted!r}" for name, (found, wanted) in asked.items() if found != wanted]
    groups = get("upsample_groups", 512)
    if groups not in (1, width):
        wrong.append(f"upsample_groups is {groups}, read are 1 and hidden_size ({width})")
    if values["codebook_width"] == width:
        wrong.append("vector_quantization_hidden_dimension is hidden_size: then there are no projections to read")
    frame_hz = math.ceil(values["sample_rate_hz"] / math.prod(values["ratios"]))
    frames_per_step = frame_hz / get("frame_rate", frame_hz / 2)
    if frames_per_step != int(frames_per_step) or frames_per_step < 2:
        wrong.append(f"frame_rate is {their_config['frame_rate']}, read are {frame_hz} over a whole number from 2 on")
    if wrong:
        raise WeightsError("this Mimi is none that is read:\n  " + "\n  ".join(wrong))
    return CodecConfig(
        **values,
        rope_base=float(get("rope_theta", rope.get("rope_theta", 10_000.0))),
        upsample_by_channel=groups == width,
        frames_per_step=int(frames_per_step),
    )


def config_of_moshi(files: Tensors) -> CodecConfig:
    """Our shape of moshi's tensors. Heads, dilations, the context and the rates are Mimi's, as no tensor tells them.

    Raises:
      WeightsError: they are not laid out as Mimi's.
    """
    count = lambda pattern: len({m[1] for name in files.names if (m := re.fullmatch(pattern, name))})
    lengthening = [
        (int(m[1]), files.shape(name)[-1])
        for name in files.names
        if (m := re.fullmatch(r"decoder\.model\.(\d+)\.convtr\.convtr\.weight", name))
    ]
    try:
        first = files.shape("encoder.model.0.conv.conv.weight")
        block = files.shape("encoder.model.1.block.1.conv.conv.weight")
        width = files.shape(_MOSHI_SIGN)[1]
        entries, codebook_width = files.shape(_moshi_codebook("rvq_first", 0) + "embedding_sum")
        books = [count(rf"quantizer\.{part}\.vq\.layers\.(\d+)\..*") for part in ("rvq_first", "rvq_rest")]
        return CodecConfig(
            ratios=tuple(taps // 2 for _, taps in sorted(lengthening)),
            filters=first[0],
            kernel=first[2],
            residual_kernel=block[2],
            last_kernel=files.shape(f"encoder.model.{3 * len(lengthening) + 2}.conv.conv.weight")[2],
            compress=first[0] // block[0],
            width=width,
            layers=count(r"encoder_transformer\.transformer\.layers\.(\d+)\..*"),
            hidden=files.shape("encoder_transformer.transformer.layers.0.linear1.weight")[0],
            frames_per_step=files.shape("downsample.conv.conv.conv.weight")[2] // 2,
            upsample_by_channel=files.shape("upsample.convtr.convtr.convtr.weight")[1] == 1,
            codebooks=sum(books),
            semantic_codebooks=books[0],
            codebook_size=entries,
            codebook_width=codebook_width,
        )
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(f"{files.path} has {_MOSHI_SIGN}, and yet it is no Mimi of moshi's: {error!r}") from error


class _Names(NamedTuple):
    """How one of the two libraries calls things.

    Attributes:
      seanet: of a SEANet's layers, before their number.
      conv, lengthen, downsample, upsample: behind that, of a convolution and of those between frames and steps.
      transformer: of a transformer's layers, behind "encoder_transformer." and before their number.
      parts: of a layer's parts, by ours.
      codebooks: of the quantisers, by ours, each with what stands before the number of a codebook.
      codebook, initialized, sums: behind that number.
    """

    seanet: str
    conv: str
    lengthen: str
    downsample: str
    upsample: str
    transformer: str
    parts: Mapping[str, str]
    quantizers: Mapping[str, tuple[str, str]]
    codebook: str
    initialized: str
    sums: str


_TRANSFORMERS_NAMES = _Names(
    seanet="layers",
    conv="conv",
    lengthen="conv",
    downsample="downsample.conv",
    upsample="upsample.conv",
    transformer="layers",
    parts={
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
        "attention_scale": "self_attn_layer_scale",
        "mlp_scale": "mlp_layer_scale",
        "mlp/up": "mlp.fc1",
        "mlp/down": "mlp.fc2",
    },
    quantizers={
        "semantic": ("quantizer.semantic_residual_vector_quantizer", "layers"),
        "acoustic": ("quantizer.acoustic_residual_vector_quantizer", "layers"),
    },
    codebook="codebook",
    initialized="initialized",
    sums="embed_sum",
)
_MOSHI_NAMES = _Names(
    seanet="model",
    conv="conv.conv",
    lengthen="convtr.convtr",
    downsample="downsample.conv.conv.conv",
    upsample="upsample.convtr.convtr.convtr",
    transformer="transformer.layers",
    parts={
        "attention_norm": "norm1",
        "mlp_norm": "norm2",
        "attention_scale": "layer_scale_1",
        "mlp_scale": "layer_scale_2",
        "mlp/up": "linear1",
        "mlp/down": "linear2",
    },
    quantizers={
        "semantic": ("quantizer.rvq_first", "vq.layers"),
        "acoustic": ("quantizer.rvq_rest", "vq.layers"),
    },
    codebook="_codebook",
    initialized="_initialized",
    sums="embedding_sum",
)


def _moshi_codebook(part: str, number: int) -> str:
    return f"quantizer.{part}.vq.layers.{number}.{_MOSHI_NAMES.codebook}."


def layout(config: CodecConfig, files: Tensors | None = None) -> Layout:
    """Which tensor is which parameter, in the names that the tensors have; transformers' where there are none yet."""
    moshi = files is not None and is_moshi(files)
    names = _MOSHI_NAMES if moshi else _TRANSFORMERS_NAMES
    entries = [*_seanet(config, names, "encoder"), *_seanet(config, names, "decoder")]
    for part in ("encoder_transformer", "decoder_transformer"):
        for number in range(config.layers):
            ours, theirs = f"{part}/block_{number}", f"{part}.{names.transformer}.{number}"
            if files is not None and moshi:
                entries += _moshi_attention(config, ours, theirs, files)
            else:
                entries += _attention(ours, theirs)
            for which, called in names.parts.items():
                mine, other = f"{ours}/{which}", f"{theirs}.{called}"
                if which.endswith("_norm"):
                    entries += norm(mine, other)
                elif which.endswith("_scale"):
                    entries.append(same(f"{mine}/scale", f"{other}.scale"))
                else:
                    entries.append(transposed(f"{mine}/kernel", f"{other}.weight"))
    entries.append(_kernel("downsample", names.downsample))
    entries.append(_upsampling("upsample", names.upsample, config.frames_per_step, config.upsample_by_channel))
    books = {"semantic": config.semantic_codebooks, "acoustic": config.codebooks - config.semantic_codebooks}
    for part, count in books.items():
        entries += _quantizer(f"quantizer/{part}", *names.quantizers[part], count, names)
    return Layout(tuple(entries))


def _attention(ours: str, theirs: str) -> list[Entry]:
    called = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
    return [
        transposed(f"{ours}/attention/{mine}/kernel", f"{theirs}.self_attn.{other}.weight")
        for mine, other in called.items()
    ]


def _moshi_attention(config: CodecConfig, ours: str, theirs: str, files: Tensors) -> list[Entry]:
    """Queries, keys and values in one tensor; newer files have a number in its name, for weights by step."""
    newer = f"{theirs}.self_attn.in_projs.0.weight" in files
    fused = f"{theirs}.self_attn." + ("in_projs.0.weight" if newer else "in_proj_weight")
    out = f"{theirs}.self_attn." + ("out_projs.0.weight" if newer else "out_proj.weight")
    to_halves, to_pairs = rotary_places(config.heads)

    def cut(weight: np.ndarray) -> tuple[np.ndarray, ...]:
        query, key, value = np.split(weight, 3)
        return np.transpose(to_halves(query)), np.transpose(to_halves(key)), np.transpose(value)

    def join(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
        return np.concatenate([to_pairs(np.transpose(query)), to_pairs(np.transpose(key)), np.transpose(value)])

    kernels = tuple(f"{ours}/attention/{name}/kernel" for name in QUERY_KEY_VALUE)
    return [Entry(kernels, fused, cut, join), transposed(f"{ours}/attention/out/kernel", out)]


def _seanet(config: CodecConfig, names: _Names, part: str) -> list[Entry]:
    """All convolutions of the encoder or the decoder; theirs are numbered with the activations between them."""
    entries: list[Entry] = []
    at = lambda number: f"{part}.{names.seanet}.{number}"

    def convolution(ours: str, theirs: str) -> None:
        entries.append(_kernel(f"{part}/{ours}", theirs))
        entries.append(same(f"{part}/{ours}/bias", f"{theirs}.bias"))

    def residual(stage: int, number: int) -> None:
        for layer in range(config.residual_layers):
            convolution(f"residual_{stage}_{layer}/narrow", f"{at(number + layer)}.block.1.{names.conv}")
            convolution(f"residual_{stage}_{layer}/widen", f"{at(number + layer)}.block.3.{names.conv}")

    convolution("first", f"{at(0)}.{names.conv}")
    number, blocks = 1, config.residual_layers
    ratios: Sequence[int] = config.ratios if part == "decoder" else config.ratios[::-1]
    for stage, ratio in enumerate(ratios):
        if part == "encoder":
            residual(stage, number)
            convolution(f"shorten_{stage}", f"{at(number + blocks + 1)}.{names.conv}")
        else:
            theirs = f"{at(number + 1)}.{names.lengthen}"
            entries.append(_upsampling(f"{part}/lengthen_{stage}", theirs, ratio, by_channel=False))
            entries.append(same(f"{part}/lengthen_{stage}/bias", f"{theirs}.bias"))
            residual(stage, number + 2)
        number += blocks + 2
    convolution("last", f"{at(number + 1)}.{names.conv}")
    return entries


def _kernel(ours: str, theirs: str) -> Entry:
    """A convolution: ours `[taps, C, F]`, theirs `[F, C, taps]`."""
    turn = lambda a: a.transpose(2, 1, 0)
    return Entry(f"{ours}/kernel", f"{theirs}.weight", turn, turn)


def _upsampling(ours: str, theirs: str, stride: int, by_channel: bool) -> Entry:
    """A transposed convolution: ours `[taps, C, stride, F]` (C is 1 by channel), theirs `[C, F, taps · stride]`.

    Their tap counts from the newest sample, ours from the oldest.
    """
    order = (2, 1, 3, 0) if by_channel else (2, 0, 3, 1)
    back = (3, 1, 0, 2) if by_channel else (1, 3, 0, 2)

    def to_ours(a: np.ndarray) -> np.ndarray:
        return a.reshape(*a.shape[:2], -1, stride)[:, :, ::-1].transpose(order)

    def to_theirs(a: np.ndarray) -> np.ndarray:
        a = a.transpose(back)[:, :, ::-1]
        return a.reshape(*a.shape[:2], -1)

    return Entry(f"{ours}/kernel", f"{theirs}.weight", to_ours, to_theirs)


def _quantizer(ours: str, theirs: str, layers: str, count: int, names: _Names) -> list[Entry]:
    """The codebooks, stacked, and both projections, which are convolutions of one tap in theirs."""
    tensor = lambda number, what: f"{theirs}.{layers}.{number}.{names.codebook}.{what}"
    project = [
        Entry(f"{ours}/{mine}/kernel", f"{theirs}.{other}.weight", lambda a: a[..., 0].T, lambda a: a.T[..., None])
        for mine, other in (("project_in", "input_proj"), ("project_out", "output_proj"))
    ]
    return [
        *project,
        stacked([same(f"{ours}/sums", tensor(i, names.sums)) for i in range(count)]),
        stacked([same(f"{ours}/usage", tensor(i, "cluster_usage")) for i in range(count)]),
        stacked([reshaped(f"{ours}/initialized", tensor(i, names.initialized), (), (1,)) for i in range(count)]),
    ]


def config_json(config: CodecConfig) -> dict[str, Any]:
    """Transformers' `config.json` of a codec of ours.

    Raises:
      WeightsError: transformers has no such codec.
    """
    if config.frames_per_step != 2:
        raise WeightsError(f"transformers' Mimi has 2 frames a step, this codec {config.frames_per_step}")
    values = dataclasses.asdict(config)
    return {
        "architectures": ["MimiModel"],
        "model_type": MODEL_TYPE,
        **_FIXED,
        **{theirs: values[ours] for ours, (theirs, _) in _FIELDS.items()},
        "num_key_value_heads": config.heads,
        "head_dim": config.width // config.heads,
        "codebook_dim": config.codebook_width,
        "upsample_groups": config.width if config.upsample_by_channel else 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
    }
