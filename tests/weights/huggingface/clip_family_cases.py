"""CLIP, SigLIP and SigLIP 2 beside transformers: shapes of towers and pairs, and how they are compared."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from tests.weights.huggingface.parity_cases import Case, Comparison, worst
from tests.weights.huggingface.random_towers import apply, difference, randomise, read

# Widths, heads (odd ones too), MLPs, activations; each of a tower of two layers.
SHAPES: dict[str, dict[str, Any]] = {
    "even heads": dict(hidden_size=32, num_attention_heads=4, intermediate_size=64),
    "odd heads": dict(hidden_size=30, num_attention_heads=3, intermediate_size=44, hidden_act="gelu"),
    "one head": dict(hidden_size=20, num_attention_heads=1, intermediate_size=20, hidden_act="gelu_pytorch_tanh"),
    "quick gelu": dict(
        hidden_size=40, num_attention_heads=5, intermediate_size=80, hidden_act="quick_gelu", layer_norm_eps=1e-3
    ),
}


def make(kind: str, seed: int = 0, **arguments):
    """A model of transformers with random weights."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**arguments)
    model = getattr(transformers, f"{kind}Model")._from_config(config, attn_implementation="eager").eval()
    randomise(model, seed)
    return model


def pixels(height: int, width: int = 0) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, height, width or height, 3)).astype(np.float32)


def as_torch(pictures: np.ndarray):
    import torch

    return torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())


def pair(kind: str, vision_shape: str, text_shape: str, text: dict | None = None, **arguments):
    """A contrastive pair with random weights, whose scale and bias are not those of the start."""
    import torch

    vision_part = dict(SHAPES[vision_shape], num_hidden_layers=2, patch_size=8)
    vision_part |= {"num_patches": 9} if kind == "Siglip2" else {"image_size": 24}
    text_part = dict(SHAPES[text_shape], num_hidden_layers=2, vocab_size=50, max_position_embeddings=12)
    text_part |= {"eos_token_id": 49, "bos_token_id": 48} | (text or {})
    if kind != "CLIP":
        text_part["projection_size"] = vision_part["hidden_size"]
    model = make(kind, vision_config=vision_part, text_config=text_part, **arguments)
    with torch.no_grad():
        model.logit_scale.fill_(1.3)
        if kind != "CLIP":
            model.logit_bias.fill_(-2.5)
    return model


def texts(length: int = 12) -> np.ndarray:
    """Random ids with an end token at different places and something after it."""
    ids = np.random.default_rng(3).integers(3, 48, (3, length))
    ids[0, 4] = ids[0, 7] = ids[1, -1] = ids[2, 0] = 49
    return ids.astype(np.int32)


def _tower(
    folder: Path,
    kind: str,
    shape: str,
    size: tuple[int, int] = (24, 24),
    head: bool = True,
    interpolate: bool = False,
    **arguments,
) -> Comparison:
    """A vision tower, on pictures of its own size or, with `interpolate`, of another."""
    import torch

    given = dict(SHAPES[shape], num_hidden_layers=2, image_size=24, patch_size=8) | arguments
    model = make(kind, **given, **({} if head else {"vision_use_head": False}))
    model.save_pretrained(folder)
    found, params = read(folder)
    pictures = pixels(*size)
    with torch.no_grad():
        wanted = model(as_torch(pictures), **({"interpolate_pos_encoding": True} if interpolate else {}))
    return _seen(apply(found, params, pictures), wanted, found, params)


def _naflex(folder: Path, shape: str, head: bool = True) -> Comparison:
    """Pictures of different proportions in one batch, padded; also hidden states of padding, which transformers has."""
    import torch

    given = dict(num_hidden_layers=2, patch_size=4, num_patches=36, vision_use_head=head)
    model = make("Siglip2Vision", **SHAPES[shape], **given)
    model.save_pretrained(folder)
    found, params = read(folder)
    grid = np.array([[6, 6], [3, 9], [1, 20], [4, 4]])
    patches = np.random.default_rng(2).normal(size=(4, 40, 48)).astype(np.float32)
    mask = np.arange(40) < grid.prod(axis=1, keepdims=True)
    with torch.no_grad():
        wanted = model(
            torch.from_numpy(patches),
            pixel_attention_mask=torch.from_numpy(mask.astype(np.int32)),
            spatial_shapes=torch.from_numpy(grid),
        )
    got = apply(found, params, patches, grid.astype(np.int32), mask, method="from_patches")
    return _seen(got, wanted, found, params)


def _seen(got, wanted, found, params) -> Comparison:
    pooled: tuple[float, ...] = ()
    if wanted.pooler_output is None:
        assert got.pooled is None
    else:
        pooled = (difference(got.pooled, wanted.pooler_output),)
    hidden = (difference(got.tokens, wanted.last_hidden_state),)
    return Comparison(worst({"hidden": hidden, "pooled": pooled}), found, params)


def _pair(
    folder: Path, kind: str, vision_shape: str, text_shape: str, text: dict | None = None, length: int = 12
) -> Comparison:
    """Both towers, and their pictures and texts compared."""
    import torch

    model = pair(kind, vision_shape, text_shape, text, **({"projection_dim": 24} if kind == "CLIP" else {}))
    model.save_pretrained(folder)
    found, params = read(folder)
    assert found.kind == "contrastive"
    pictures, ids = pixels(24), texts(length)
    seen: dict[str, Any]
    if kind == "Siglip2":
        patches = pictures.reshape(2, 3, 8, 3, 8, 3).swapaxes(2, 3).reshape(2, 9, 192)
        grid, mask = np.full((2, 2), 3), np.ones((2, 9), bool)
        seen = dict(pixel_values=patches, pixel_attention_mask=mask.astype(np.int32), spatial_shapes=grid)
        seen = {name: torch.from_numpy(value) for name, value in seen.items()}
        looked = (patches, grid.astype(np.int32), mask)
        image = apply(found, params, *looked, method="encode_patches")
        tower = apply(found, params, *looked, method=lambda m, *a: m.vision.from_patches(*a))
        got = apply(found, params, image, apply(found, params, ids, method="encode_text"), method="compare")
    else:
        seen = {"pixel_values": as_torch(pictures)}
        tower = apply(found, params, pictures, method=lambda m, pictures: m.vision(pictures))
        got = apply(found, params, pictures, ids)
    with torch.no_grad():
        wanted = model(input_ids=torch.from_numpy(ids.astype(np.int64)), **seen)
    words = apply(found, params, ids, method=lambda m, ids: m.text(ids))
    differences = {
        "hidden": (
            difference(tower.tokens, wanted.vision_model_output.last_hidden_state),
            difference(words.tokens, wanted.text_model_output.last_hidden_state),
        ),
        "pooled": (difference(got.image, wanted.image_embeds), difference(got.text, wanted.text_embeds)),
        "logits": (difference(got.logits, wanted.logits_per_image),),
    }
    return Comparison(worst(differences), found, params)


_NAMES = {"CLIP": "clip", "Siglip": "siglip", "Siglip2": "siglip2"}
_WRITTEN = {"CLIP": "CLIP", "Siglip": "SigLIP", "Siglip2": "SigLIP 2 (NaFlex)"}


def _vision_case(kind: str, what: str, shape: str, **options) -> Case:
    compare = functools.partial(_tower, kind=f"{kind}Vision", shape=shape, **options)
    return Case(f"{_WRITTEN[kind]} vision tower{what}", shape, _NAMES[kind], compare)


def _sizes(kind: str, size: tuple[int, int]) -> Case:
    options = dict(size=size, interpolate=True, num_hidden_layers=1, image_size=32)
    compare = functools.partial(_tower, kind=f"{kind}Vision", shape="even heads", **options)
    said = f"{size[0]}x{size[1]} px, trained at 32x32"
    return Case(f"{_WRITTEN[kind]} vision tower", said, _NAMES[kind], compare)


def _pair_case(kind: str, vision_shape: str, text_shape: str, text: dict | None = None, length: int = 12) -> Case:
    compare = functools.partial(
        _pair, kind=kind, vision_shape=vision_shape, text_shape=text_shape, text=text, length=length
    )
    said = f"{vision_shape} and {text_shape}, texts of {length} of 12"
    return Case(f"{_WRITTEN[kind]} pair", said, _NAMES[kind], compare)


def _naflex_case(shape: str, head: bool = True) -> Case:
    what = "" if head else " without head"
    compare = functools.partial(_naflex, shape=shape, head=head)
    return Case(f"{_WRITTEN['Siglip2']} vision tower{what}", f"{shape}, four grids in a batch", "siglip2", compare)


CASES = (
    *(_vision_case(kind, "", shape) for kind in ("CLIP", "Siglip") for shape in SHAPES),
    _vision_case("Siglip", " without head", "odd heads", head=False),
    *(_sizes(kind, size) for kind in ("CLIP", "Siglip") for size in ((24, 24), (16, 48))),
    # SigLIP so400m has patches of 14 px and pictures of 384, which is 27.4 of them: a border is not looked at.
    Case(
        "SigLIP vision tower",
        "29 px in patches of 8",
        "siglip",
        functools.partial(_tower, kind="SiglipVision", shape="odd heads", size=(29, 29), image_size=29),
    ),
    *(_naflex_case(shape, shape != "one head") for shape in SHAPES),
    _pair_case("CLIP", "even heads", "odd heads"),
    _pair_case("CLIP", "odd heads", "quick gelu", {"eos_token_id": 2}),
    _pair_case("CLIP", "quick gelu", "one head", {"hidden_act": "quick_gelu"}, 8),
    _pair_case("Siglip", "even heads", "odd heads"),
    _pair_case("Siglip", "one head", "quick gelu", length=8),
    _pair_case("Siglip2", "odd heads", "even heads"),
)
