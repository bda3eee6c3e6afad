"""PE-Core (Bolya et al., 2025), in its own names (`perception_models`) and, the vision tower, in timm's.

A directory with its own names has a `config.json` with `"architecture": "PE-Core-S16-384"` or another published name,
or with the fields that `perception_models` has for a model, as `"vision_cfg"` and (for both towers) `"text_cfg"`. timm
writes its `config.json` itself.
"""

from collections.abc import Mapping
from typing import Any

from mmduplex_jax.towers.contrastive import ContrastiveConfig
from mmduplex_jax.towers.text import TextTowerConfig
from mmduplex_jax.towers.vision import VisionConfig
from mmduplex_jax.weights.huggingface.clip_family import square
from mmduplex_jax.weights.huggingface.layout import (
    QUERY_KEY_VALUE,
    Entry,
    Layout,
    fused_linear,
    linear,
    norm,
    patch_convolution,
    same,
    vector,
)
from mmduplex_jax.weights.huggingface.reader import WeightsError

FAMILIES = ("pe", "pe_timm")
VISION_ANCHORS = {"pe": "conv1.weight", "pe_timm": "patch_embed.proj.weight"}
TEXT_ANCHOR = "token_embedding.weight"
_TIMM_PREFIX = "vit_pe_core_"

_VISION_FIELDS = ("patch_size", "width", "layers", "heads", "mlp_ratio", "output_dim", "image_size", "use_cls_token")
_TEXT_FIELDS = ("context_length", "width", "heads", "layers", "output_dim")
# Published shapes: patch, width, layers, heads, MLP, output, image, class token; then the text tower's.
_VISION = {
    "PE-Core-T16-384": (16, 192, 12, 3, 4.0, 512, 384, True),
    "PE-Core-S16-384": (16, 384, 12, 6, 4.0, 512, 384, True),
    "PE-Core-B16-224": (16, 768, 12, 12, 4.0, 1024, 224, True),
    "PE-Core-L14-336": (14, 1024, 24, 16, 4.0, 1024, 336, True),
    "PE-Core-G14-448": (14, 1536, 50, 16, 8960 / 1536, 1280, 448, False),
}
_TEXT = {
    "PE-Core-T16-384": (32, 512, 8, 12, 512),
    "PE-Core-S16-384": (32, 512, 8, 12, 512),
    "PE-Core-B16-224": (32, 1024, 16, 24, 1024),
    "PE-Core-L14-336": (32, 1024, 16, 24, 1024),
    "PE-Core-G14-448": (72, 1280, 20, 24, 1280),
}
_TIMM = {
    "vit_pe_core_tiny_patch16_384": "PE-Core-T16-384",
    "vit_pe_core_small_patch16_384": "PE-Core-S16-384",
    "vit_pe_core_base_patch16_224": "PE-Core-B16-224",
    "vit_pe_core_large_patch14_336": "PE-Core-L14-336",
    "vit_pe_core_gigantic_patch14_448": "PE-Core-G14-448",
}
_POOL_HEADS = 8
# Fields that change what is computed, and the value that PE-Core has.
_MUST_BE = {"pool_type": "attn", "use_abs_posemb": True, "use_rope2d": True, "use_ln_pre": True, "use_ln_post": True}
_MUST_BE |= {"ls_init_value": None}
_TEXT_MUST_BE = {"pool_type": "argmax", "no_causal_mask": False, "proj_bias": False, "use_ln_post": True}
_TEXT_MUST_BE |= {"ls_init_value": None}
_TIMM_MUST_BE = {"rope_grid_indexing": "xy", "global_pool": "map", "attn_pool_mlp_ratio": 4.0, "in_chans": 3}
_TIMM_MUST_BE |= {"use_abs_pos_emb": True, "use_rot_pos_emb": True, "use_pre_transformer_norm": True, "qkv_bias": True}


def family_of(config: Mapping[str, Any]) -> str | None:
    """Which of `FAMILIES` a `config.json` is of; None for neither."""
    name = config.get("architecture")
    if isinstance(name, str) and name.startswith(_TIMM_PREFIX):
        return "pe_timm"
    return "pe" if name in _VISION or "vision_cfg" in config else None


def native_vision(config: Mapping[str, Any]) -> VisionConfig:
    """Our shape of the vision tower of a `config.json` with PE's own names.

    Raises:
      WeightsError: a field is missing, or asks for something that is not PE-Core.
    """
    fields = _fields(config, "vision_cfg", _VISION, _VISION_FIELDS, _MUST_BE)
    return _vision(fields, fields["output_dim"] or 0, False)


def native_contrastive(config: Mapping[str, Any]) -> ContrastiveConfig:
    """Our shape of both towers; errors as of `native_vision`."""
    fields = _fields(config, "text_cfg", _TEXT, _TEXT_FIELDS, _TEXT_MUST_BE)
    text = TextTowerConfig(
        vocab_size=fields.get("vocab_size", 49408),
        length=fields["context_length"],
        width=fields["width"],
        layers=fields["layers"],
        heads=fields["heads"],
        hidden=int(fields["width"] * fields.get("mlp_ratio", 4.0)),
        norm_epsilon=1e-5,
        causal=True,
        pool="largest",
        projection=fields["output_dim"],
    )
    return ContrastiveConfig(native_vision(config), text)


def timm_vision(config: Mapping[str, Any]) -> VisionConfig:
    """Our shape of the vision tower of a `config.json` of timm.

    Raises:
      WeightsError: it is no `vit_pe_core_*` that is known, or differs from it in what is computed.
    """
    name = str(config["architecture"]).split(".")[0]
    if name not in _TIMM:
        raise WeightsError(f"architecture {name!r} is not read; of timm these are: {', '.join(_TIMM)}")
    published = dict(zip(_VISION_FIELDS, _VISION[_TIMM[name]], strict=True))
    fields = dict(published)
    args = dict(config.get("model_args") or {})
    ours = {"patch_size": "patch_size", "embed_dim": "width", "depth": "layers", "num_heads": "heads"}
    ours |= {"mlp_ratio": "mlp_ratio", "img_size": "image_size", "class_token": "use_cls_token"}
    fields |= {ours[key]: args.pop(key) for key in list(args) if key in ours}
    fields |= {name: square(fields[name], name) for name in ("image_size", "patch_size")}
    fields["attn_pooler_heads"] = args.pop("attn_pool_num_heads", _POOL_HEADS)
    outputs = args.pop("num_classes", config.get("num_classes", fields["output_dim"]))
    side = fields["image_size"] // fields["patch_size"]
    known = {"rope_grid_offset": float(fields["use_cls_token"]), **_TIMM_MUST_BE}
    reference = args.pop("ref_feat_shape", None)
    wrong = [f"{key}={args[key]!r}" for key in args if key not in known or args[key] != known[key]]
    # timm stretches the rotary positions to the grid of its pretraining; PE's own code does not.
    if (reference is None and side != published["image_size"] // published["patch_size"]) or (
        reference is not None and list(reference) != [side, side]
    ):
        wrong.append(f"ref_feat_shape={reference} for {side}x{side} patches")
    if wrong:
        raise WeightsError(f"model_args of {name} ask for what PE-Core does not compute: {', '.join(wrong)}")
    return _vision(fields, outputs, bool(outputs))


def _vision(fields: Mapping[str, Any], projection: int, projection_bias: bool) -> VisionConfig:
    return VisionConfig(
        image_px=fields["image_size"],
        patch_px=fields["patch_size"],
        width=fields["width"],
        layers=fields["layers"],
        heads=fields["heads"],
        hidden=int(fields["width"] * fields["mlp_ratio"]),
        activation="gelu",
        norm_epsilon=1e-5,
        class_token=fields["use_cls_token"],
        patch_bias=False,
        pre_norm=True,
        rotary=True,
        positions="bilinear",
        pool="attention",
        pool_heads=fields.get("attn_pooler_heads", _POOL_HEADS),
        pool_hidden=4 * fields["width"],
        projection=projection,
        projection_bias=projection_bias,
    )


def _fields(
    config: Mapping[str, Any],
    key: str,
    published: Mapping[str, tuple[Any, ...]],
    names: tuple[str, ...],
    must_be: Mapping[str, Any],
) -> dict[str, Any]:
    name = str(config.get("architecture"))
    fields = dict(zip(names, published[name], strict=True)) if name in published else {}
    fields |= dict(config.get(key) or {})
    missing = [field for field in names if field not in fields]
    if missing:
        known = ", ".join(published)
        raise WeightsError(f'config.json: {key} lacks {missing}; or name a published "architecture": {known}')
    wrong = [f"{k}={fields[k]!r}" for k, value in must_be.items() if fields.get(k, value) != value]
    if wrong:
        raise WeightsError(f"config.json: {key} asks for what PE-Core does not compute: {', '.join(wrong)}")
    return fields


def native_layout(config: VisionConfig, prefix: str) -> Layout:
    """Tensors of the vision tower in PE's own names, which start with `prefix` ("visual." in a whole model)."""
    entries = [
        patch_convolution("patch", f"{prefix}conv1.weight", config.patch_px, config.channels),
        same("position", f"{prefix}positional_embedding"),
        *norm("pre_norm", f"{prefix}ln_pre"),
        *norm("norm", f"{prefix}ln_post"),
        *_native_encoder(config.layers, prefix, config.heads),
    ]
    if config.class_token:
        entries.append(same("class_token", f"{prefix}class_embedding"))
    pool = f"{prefix}attn_pool"
    entries.append(vector("pool/probe", f"{pool}.probe", (1, 1, config.width), rows=1))
    fused = f"{pool}.attn.in_proj_"
    entries += fused_linear("pool/attention", QUERY_KEY_VALUE, f"{fused}weight", f"{fused}bias")
    entries += linear("pool/attention/out", f"{pool}.attn.out_proj")
    entries += norm("pool/norm", f"{pool}.layernorm")
    entries += linear("pool/mlp/up", f"{pool}.mlp.c_fc") + linear("pool/mlp/down", f"{pool}.mlp.c_proj")
    if config.projection:
        entries.append(same("projection/kernel", f"{prefix}proj"))
    return Layout(tuple(entries))


def native_contrastive_layout(config: ContrastiveConfig, vision: str, text: str) -> Layout:
    """Tensors of both towers in PE's own names; `vision` and `text` are the prefixes of the towers."""
    entries = [
        same("embed/embedding", f"{text}{TEXT_ANCHOR}"),
        same("position", f"{text}positional_embedding"),
        *_native_encoder(config.text.layers, text),
        *norm("encoder/norm", f"{text}ln_final"),
        same("projection/kernel", f"{text}text_projection"),
    ]
    layout = native_layout(config.vision, vision).prefixed(ours="vision/")
    layout += Layout(tuple(entries)).prefixed(ours="text/")
    return layout + Layout((same("logit_scale", f"{text}logit_scale"),))


def _native_encoder(layers: int, prefix: str, turned_heads: int = 0) -> list[Entry]:
    entries: list[Entry] = []
    for i in range(layers):
        names = ("ln_1", "attn.in_proj_", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
        entries += _block(i, f"{prefix}transformer.resblocks.{i}", names, turned_heads)
    return entries


def _block(number: int, theirs: str, names: tuple[str, str, str, str, str, str], turned_heads: int) -> list[Entry]:
    """A layer; `names` are theirs of its norm, query, key and value in one, output, second norm and MLP."""
    ours = f"encoder/block_{number}"
    first, fused, out, second, up, down = (f"{theirs}.{name}" for name in names)
    return [
        *norm(f"{ours}/attention_norm", first),
        *fused_linear(
            f"{ours}/attention", QUERY_KEY_VALUE, f"{fused}weight", f"{fused}bias", turned_heads=turned_heads
        ),
        *linear(f"{ours}/attention/out", out),
        *norm(f"{ours}/mlp_norm", second),
        *linear(f"{ours}/mlp/up", up),
        *linear(f"{ours}/mlp/down", down),
    ]


def timm_layout(config: VisionConfig, prefix: str) -> Layout:
    """Tensors of the vision tower in timm's names, which start with `prefix`."""
    positions = config.patches + config.class_token
    entries = [
        patch_convolution("patch", f"{prefix}patch_embed.proj.weight", config.patch_px, config.channels),
        vector("position", f"{prefix}pos_embed", (1, positions, config.width), rows=positions),
        *norm("pre_norm", f"{prefix}norm_pre"),
        *norm("norm", f"{prefix}norm"),
    ]
    if config.class_token:
        entries.append(vector("class_token", f"{prefix}cls_token", (1, 1, config.width)))
    for i in range(config.layers):
        names = ("norm1", "attn.qkv.", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        entries += _block(i, f"{prefix}blocks.{i}", names, config.heads)
    pool = f"{prefix}attn_pool"
    entries.append(vector("pool/probe", f"{pool}.latent", (1, 1, config.width), rows=1))
    entries += linear("pool/attention/query", f"{pool}.q")
    entries += fused_linear("pool/attention", ("key", "value"), f"{pool}.kv.weight", f"{pool}.kv.bias")
    entries += linear("pool/attention/out", f"{pool}.proj")
    entries += norm("pool/norm", f"{pool}.norm")
    entries += linear("pool/mlp/up", f"{pool}.mlp.fc1") + linear("pool/mlp/down", f"{pool}.mlp.fc2")
    if config.projection:
        entries += linear("projection", f"{prefix}head", bias=config.projection_bias)
    return Layout(tuple(entries))


def native_json(config: VisionConfig | ContrastiveConfig) -> dict[str, Any]:
    """A `config.json` for PE's own names, as this file reads it; its fields are those of `perception_models`."""
    vision = config.vision if isinstance(config, ContrastiveConfig) else config
    fields = {
        "patch_size": vision.patch_px,
        "width": vision.width,
        "layers": vision.layers,
        "heads": vision.heads,
        "mlp_ratio": vision.hidden / vision.width,
        "output_dim": vision.projection or None,
        "image_size": square(vision.image_px, "image_px"),
        "use_cls_token": vision.class_token,
        "attn_pooler_heads": vision.pool_heads,
    }
    if not isinstance(config, ContrastiveConfig):
        return {"vision_cfg": fields}
    text = config.text
    return {
        "vision_cfg": fields,
        "text_cfg": {
            "context_length": text.length,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
            "output_dim": text.projection,
            "mlp_ratio": text.hidden / text.width,
            "vocab_size": text.vocab_size,
        },
    }


def timm_json(config: VisionConfig) -> dict[str, Any]:
    """A `config.json` as timm has it: the published model of that patch that is nearest, and what differs from it."""
    published = lambda name: _VISION[_TIMM[name]]
    near = min(_TIMM, key=lambda n: (published(n)[0] != config.patch_px, abs(published(n)[1] - config.width)))
    image_px = square(config.image_px, "image_px")
    args = {
        "patch_size": config.patch_px,
        "embed_dim": config.width,
        "depth": config.layers,
        "num_heads": config.heads,
        "mlp_ratio": config.hidden / config.width,
        "img_size": image_px,
        "class_token": config.class_token,
        "rope_grid_offset": float(config.class_token),
        "ref_feat_shape": list(config.grid),
        "attn_pool_num_heads": config.pool_heads,
    }
    return {
        "architecture": near,
        "num_classes": config.projection,
        "num_features": config.width,
        "global_pool": "map",
        "model_args": args,
        "pretrained_cfg": {
            "input_size": [config.channels, image_px, image_px],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": config.projection,
        },
    }
