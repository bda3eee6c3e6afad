"""CLIP, SigLIP and SigLIP 2 (fixed sizes and NaFlex), in the names and config fields of transformers."""

import math
from collections.abc import Mapping
from typing import Any

from mmduplex_jax.towers.contrastive import ContrastiveConfig
from mmduplex_jax.towers.text import TextTowerConfig
from mmduplex_jax.towers.vision import VisionConfig
from mmduplex_jax.weights.huggingface.layout import (
    QUERY_KEY_VALUE,
    Entry,
    Layout,
    fused_linear,
    linear,
    norm,
    patch_convolution,
    reshaped,
    same,
    vector,
)
from mmduplex_jax.weights.huggingface.reader import WeightsError

FAMILIES = ("clip", "siglip", "siglip2")
VISION_ANCHOR = "embeddings.patch_embedding.weight"
TEXT_ANCHOR = "embeddings.token_embedding.weight"
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
# What transformers takes where a config.json does not say; the published ones say little.
_CLIP = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_hidden_layers": 12}
_SIGLIP = {
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
}
_PICTURE = {"num_channels": 3, "image_size": 224}
_VISION: Mapping[str, Mapping[str, Any]] = {
    "clip": _CLIP
    | _PICTURE
    | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "patch_size": 32},
    "siglip": _SIGLIP | _PICTURE | {"patch_size": 16, "vision_use_head": True},
    "siglip2": _SIGLIP | {"num_channels": 3, "patch_size": 16, "num_patches": 256, "vision_use_head": True},
}
_CLIP_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "vocab_size": 49408}
_SIGLIP_TEXT = _SIGLIP | {"vocab_size": 32000, "max_position_embeddings": 64, "projection_size": None}
_TEXT: Mapping[str, Mapping[str, Any]] = {
    "clip": _CLIP | _CLIP_TEXT | {"max_position_embeddings": 77, "eos_token_id": 49407},
    "siglip": _SIGLIP_TEXT,
    "siglip2": _SIGLIP_TEXT,
}
_PROJECTION_DIM = 512
_ARCHITECTURES = {"clip": "CLIP", "siglip": "Siglip", "siglip2": "Siglip2"}


def vision_config(family: str, given: Mapping[str, Any], projection: int = 0) -> VisionConfig:
    """Our shape of a vision tower.

    Args:
      family: one of `FAMILIES`.
      given: the `vision_config`, or the whole config where there is only this tower.
      projection: width of CLIP's projection; 0 without.

    Raises:
      WeightsError: the config asks for something that our tower does not compute.
    """
    values = {**_VISION[family], **{key: value for key, value in given.items() if value is not None}}
    patch = square(values["patch_size"], "patch_size")
    if family == "siglip2":
        side = math.isqrt(values["num_patches"])
        if side * side != values["num_patches"]:
            raise WeightsError(f"num_patches {values['num_patches']} is no square: positions need a square grid")
        image = side * patch
    else:
        image = square(values["image_size"], "image_size")
    clip = family == "clip"
    pool = "class" if clip else "attention" if values["vision_use_head"] else "none"
    return VisionConfig(
        image_px=(image, image),
        patch_px=patch,
        channels=values["num_channels"],
        class_token=clip,
        patch_bias=not clip,
        pre_norm=clip,
        last_norm="pooled" if clip else "tokens",
        positions="naflex" if family == "siglip2" else "bicubic",
        pool=pool,
        projection=projection,
        **_layers(values),
    )


def text_config(family: str, given: Mapping[str, Any], projection: int = 0) -> TextTowerConfig:
    """Our shape of a text tower; arguments and errors as of `vision_config`."""
    values = {**_TEXT[family], **{key: value for key, value in given.items() if value is not None}}
    shape = {"vocab_size": values["vocab_size"], "length": values["max_position_embeddings"], **_layers(values)}
    if family != "clip":
        return TextTowerConfig(projection=values["projection_size"] or shape["width"], projection_bias=True, **shape)
    end = values["eos_token_id"]
    if not isinstance(end, int):
        raise WeightsError(f"eos_token_id {end!r} of a CLIP text tower must be one id")
    # The first CLIPs say 2, which is not their end token: with it transformers pools at the largest id.
    where = {"pool": "largest"} if end == 2 else {"pool": "end", "end_id": end}
    return TextTowerConfig(causal=True, projection=projection, **where, **shape)


def contrastive_config(family: str, config: Mapping[str, Any]) -> ContrastiveConfig:
    """Our shape of both towers, of a whole `config.json`; errors as of `vision_config`."""
    projection = int(config.get("projection_dim", _PROJECTION_DIM)) if family == "clip" else 0
    return ContrastiveConfig(
        vision_config(family, _part(config, "vision", _VISION[family]), projection),
        text_config(family, _part(config, "text", _TEXT[family]), projection),
        bias_init=None if family == "clip" else -10.0,
    )


def _part(config: Mapping[str, Any], tower: str, defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tower's config; `vision_config_dict`, of older versions, wins with all of its defaults over `vision_config`."""
    given = config.get(f"{tower}_config") or {}
    older = config.get(f"{tower}_config_dict")
    return {**given, **defaults, **older} if older else given


def _layers(values: Mapping[str, Any]) -> dict[str, Any]:
    if values["hidden_act"] not in _ACTIVATIONS:
        raise WeightsError(f"hidden_act is {values['hidden_act']!r}; computed are {', '.join(_ACTIVATIONS)}")
    return {
        "width": values["hidden_size"],
        "layers": values["num_hidden_layers"],
        "heads": values["num_attention_heads"],
        "hidden": values["intermediate_size"],
        "activation": _ACTIVATIONS[values["hidden_act"]],
        "norm_epsilon": values["layer_norm_eps"],
    }


def square(size: Any, name: str) -> int:
    """The side of what configs give as one number or as two equal ones.

    Raises:
      WeightsError: two that differ: these libraries know towers of square pictures.
    """
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1:
        raise WeightsError(f"{name} is {size}: read and written are square ones")
    return int(sides.pop())


def vision_layout(family: str, config: VisionConfig, prefix: str) -> Layout:
    """Tensors of a vision tower.

    Args:
      family: one of `FAMILIES`.
      config: our shape; a projection is left out (its name does not start with the prefix).
      prefix: of their names, e.g. "vision_model."; "" for flat names.
    """
    theirs = f"{prefix}embeddings."
    if family == "siglip2":
        entries = linear("patch", f"{theirs}patch_embedding")
    else:
        entries = [patch_convolution("patch", f"{theirs}patch_embedding.weight", config.patch_px, config.channels)]
        if config.patch_bias:
            entries.append(same("patch/bias", f"{theirs}patch_embedding.bias"))
    entries.append(same("position", f"{theirs}position_embedding.weight"))
    if config.class_token:
        entries.append(same("class_token", f"{theirs}class_embedding"))
    if config.pre_norm:
        entries += norm("pre_norm", f"{prefix}pre_layrnorm")  # the name as it is published
    entries += _encoder(config.layers, prefix)
    entries += norm("norm", f"{prefix}post_layernorm")
    if config.pool == "attention":
        head = f"{prefix}head."
        entries.append(vector("pool/probe", f"{head}probe", (1, 1, config.width), rows=1))
        fused = f"{head}attention.in_proj_"
        entries += fused_linear("pool/attention", QUERY_KEY_VALUE, f"{fused}weight", f"{fused}bias")
        entries += linear("pool/attention/out", f"{head}attention.out_proj")
        entries += norm("pool/norm", f"{head}layernorm")
        entries += linear("pool/mlp/up", f"{head}mlp.fc1") + linear("pool/mlp/down", f"{head}mlp.fc2")
    return Layout(tuple(entries), _buffers(prefix))


def text_layout(family: str, config: TextTowerConfig, prefix: str) -> Layout:
    """Tensors of a text tower; arguments as of `vision_layout` (SigLIP's projection, its head, is there)."""
    entries = [
        same("embed/embedding", f"{prefix}embeddings.token_embedding.weight"),
        same("position", f"{prefix}embeddings.position_embedding.weight"),
        *_encoder(config.layers, prefix),
        *norm("encoder/norm", f"{prefix}final_layer_norm"),
    ]
    if family != "clip":
        entries += linear("projection", f"{prefix}head")
    return Layout(tuple(entries), _buffers(prefix))


def contrastive_layout(family: str, config: ContrastiveConfig, vision: str, text: str) -> Layout:
    """Tensors of both towers and what compares them; `vision` and `text` are the prefixes of the towers."""
    layout = vision_layout(family, config.vision, vision).prefixed(ours="vision/")
    layout += text_layout(family, config.text, text).prefixed(ours="text/")
    scalar = () if family == "clip" else (1,)
    entries = [reshaped("logit_scale", "logit_scale", (), scalar)]
    if family == "clip":
        entries += projection("vision/", "visual_projection") + projection("text/", "text_projection")
    else:
        entries.append(reshaped("logit_bias", "logit_bias", (), scalar))
    return layout + Layout(tuple(entries))


def projection(ours: str, theirs: str) -> list[Entry]:
    """CLIP's projection of a tower."""
    return linear(f"{ours}projection", theirs, bias=False)


def _encoder(layers: int, prefix: str) -> list[Entry]:
    entries = []
    for i in range(layers):
        ours, theirs = f"encoder/block_{i}", f"{prefix}encoder.layers.{i}"
        entries += norm(f"{ours}/attention_norm", f"{theirs}.layer_norm1")
        for name, short in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
            entries += linear(f"{ours}/attention/{name}", f"{theirs}.self_attn.{short}_proj")
        entries += norm(f"{ours}/mlp_norm", f"{theirs}.layer_norm2")
        entries += linear(f"{ours}/mlp/up", f"{theirs}.mlp.fc1") + linear(f"{ours}/mlp/down", f"{theirs}.mlp.fc2")
    return entries


def _buffers(prefix: str) -> tuple[str, ...]:
    """Buffers that older versions of transformers saved."""
    return (prefix.replace(".", r"\.") + r"embeddings\.position_ids",)


def vision_json(family: str, config: VisionConfig) -> dict[str, Any]:
    """The `config.json` of a vision tower by itself."""
    values = _layers_json(config) | {"model_type": f"{family}_vision_model", "num_channels": config.channels}
    values["patch_size"] = config.patch_px
    if family == "siglip2":
        values["num_patches"] = config.patches
    else:
        values["image_size"] = square(config.image_px, "image_px")
    name = f"{_ARCHITECTURES[family]}VisionModel"
    if family == "clip":
        values["projection_dim"] = config.projection or _PROJECTION_DIM
        name += "WithProjection" if config.projection else ""
    else:
        values["vision_use_head"] = config.pool == "attention"
    return {"architectures": [name], **values}


def text_json(family: str, config: TextTowerConfig) -> dict[str, Any]:
    """The `text_config` of a `config.json`."""
    values = _layers_json(config) | {"model_type": f"{family}_text_model", "vocab_size": config.vocab_size}
    values["max_position_embeddings"] = config.length
    if family == "clip":
        end = 2 if config.pool == "largest" else config.end_id
        return values | {"projection_dim": config.projection, "eos_token_id": end, "bos_token_id": None}
    return values | {"projection_size": config.projection}


def contrastive_json(family: str, config: ContrastiveConfig) -> dict[str, Any]:
    """The `config.json` of both towers."""
    values: dict[str, Any] = {
        "architectures": [f"{_ARCHITECTURES[family]}Model"],
        "model_type": family,
        "vision_config": vision_json(family, config.vision),
        "text_config": text_json(family, config.text),
    }
    del values["vision_config"]["architectures"]
    return values | ({"projection_dim": config.vision.projection} if family == "clip" else {})


def _layers_json(config: VisionConfig | TextTowerConfig) -> dict[str, Any]:
    back = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "hidden_act": back[config.activation],
        "layer_norm_eps": config.norm_epsilon,
        "torch_dtype": "float32",
    }
