"""PE-Core beside PyTorch: in its own names beside `perception_reference.py`, in timm's names beside timm."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from tests.weights.huggingface.clip_family_cases import as_torch, pixels
from tests.weights.huggingface.parity_cases import Case, Comparison, worst
from tests.weights.huggingface.random_towers import apply, difference, randomise, read, save_plain, timm_or_skip

# width, layers, heads, hidden, patch, side of the grid, class token, output
TOWERS = {
    "class token": (32, 2, 2, 64, 8, 3, True, 24),
    "odd heads": (24, 2, 3, 60, 4, 4, True, 16),
    "no class token, as G14": (48, 1, 4, 280, 8, 3, False, 20),
}
TIMM: dict[str, dict[str, Any]] = {
    "class token": dict(img_size=24, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=20),
    "odd heads": dict(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.5, num_classes=7),
    "no projection": dict(img_size=24, patch_size=8, embed_dim=32, depth=1, num_heads=1, num_classes=0),
    "no class token": dict(
        img_size=24, patch_size=8, embed_dim=48, depth=1, num_heads=4, class_token=False, rope_grid_offset=0.0
    ),
}


def vision_cfg(tower: str) -> dict[str, Any]:
    """What a config.json says of a tower."""
    width, layers, heads, hidden, patch, side, class_token, output = TOWERS[tower]
    fields = dict(patch_size=patch, width=width, layers=layers, heads=heads, mlp_ratio=hidden / width)
    return fields | dict(output_dim=output, image_size=patch * side, use_cls_token=class_token, attn_pooler_heads=8)


def tensors(tower: str) -> dict[str, Any]:
    """Random tensors of a tower in PE's own names."""
    import torch

    from tests.weights.huggingface import perception_reference as reference

    width, layers, _, hidden, patch, side, class_token, output = TOWERS[tower]
    generator = torch.Generator().manual_seed(0)
    return reference.random_vision(generator, width, layers, hidden, patch, side, class_token, output)


def own_vision(theirs: dict[str, Any], tower: str, pictures: np.ndarray):
    """What the reference sees: tokens, pooled vector, embedding."""
    from tests.weights.huggingface import perception_reference as reference

    return reference.vision(theirs, as_torch(pictures), TOWERS[tower][2], 8)


def _own(folder: Path, tower: str, prefix: str = "", size: tuple[int, int] | None = None) -> Comparison:
    theirs = tensors(tower)
    save_plain({prefix + name: tensor for name, tensor in theirs.items()}, {"vision_cfg": vision_cfg(tower)}, folder)
    found, params = read(folder)
    assert found.vision_prefix == prefix
    side = TOWERS[tower][4] * TOWERS[tower][5]
    pictures = pixels(*(size or (side, side)))
    return Comparison(_of_three(apply(found, params, pictures), own_vision(theirs, tower, pictures)), found, params)


def _of_three(got, wanted) -> dict[str, float]:
    hidden, pooled, embedding = (difference(*both) for both in zip(got, wanted, strict=True))
    return worst({"hidden": (hidden,), "pooled": (pooled, embedding)})


def both_towers(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Saves a pair in PE's own names; returns the tensors of either tower."""
    import torch

    from tests.weights.huggingface import perception_reference as reference

    theirs = tensors("class token")
    words = reference.random_text(torch.Generator().manual_seed(1), 20, 2, 80, 50, 10, 24)
    text_cfg = dict(context_length=10, width=20, heads=5, layers=2, output_dim=24, vocab_size=50)
    config = {"vision_cfg": vision_cfg("class token"), "text_cfg": text_cfg}
    save_plain({f"visual.{name}": tensor for name, tensor in theirs.items()} | words, config, folder)
    return theirs, words


def _own_pair(folder: Path) -> Comparison:
    import torch

    from tests.weights.huggingface import perception_reference as reference

    theirs, words = both_towers(folder)
    found, params = read(folder)
    assert found.kind == "contrastive"
    pictures = pixels(24)
    ids = np.random.default_rng(2).integers(0, 50, (3, 7)).astype(np.int32)
    tokens, _, image = own_vision(theirs, "class token", pictures)
    said, text = reference.text(words, torch.from_numpy(ids.astype(np.int64)), 5)
    image, text = (torch.nn.functional.normalize(x, dim=-1) for x in (image, text))
    got = apply(found, params, pictures, ids)
    seen = apply(found, params, pictures, method=lambda m, pictures: m.vision(pictures))
    heard = apply(found, params, ids, method=lambda m, ids: m.text(ids))
    differences = {
        "hidden": (difference(seen.tokens, tokens), difference(heard.tokens, said)),
        "pooled": (difference(got.image, image), difference(got.text, text)),
        "logits": (difference(got.logits, image @ text.T * words["logit_scale"].exp()),),
    }
    return Comparison(worst(differences), found, params)


def timm_model(shape: str):
    """A random tower of timm, and the arguments that make it."""
    timm = timm_or_skip()
    side = TIMM[shape]["img_size"] // TIMM[shape]["patch_size"]
    arguments = TIMM[shape] | dict(ref_feat_shape=[side, side])
    model = timm.create_model("vit_pe_core_small_patch16_384", **arguments).eval()
    randomise(model, 0)
    return model, arguments


def _timm(folder: Path, shape: str) -> Comparison:
    import torch

    timm = timm_or_skip()
    model, arguments = timm_model(shape)
    timm.models.save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
    found, params = read(folder)
    pictures = pixels(arguments["img_size"])
    with torch.no_grad():
        tokens = model.forward_features(as_torch(pictures))
        wanted = (tokens, model.forward_head(tokens, pre_logits=True), model(as_torch(pictures)))
    return Comparison(_of_three(apply(found, params, pictures), wanted), found, params)


def _own_case(tower: str, said: str = "", **options) -> Case:
    compare = functools.partial(_own, tower=tower, **options)
    return Case("PE-Core vision tower, own names", tower + said, "pe", compare, ("torch",))


def _timm_case(shape: str) -> Case:
    compare = functools.partial(_timm, shape=shape)
    return Case("PE-Core vision tower, timm's names", shape, "pe_timm", compare, ("torch", "timm"))


CASES = (
    *(_own_case(tower) for tower in TOWERS),
    _own_case("odd heads", ", names of a pair", prefix="visual."),
    *(_own_case(tower, ", 40x16 px", size=(40, 16)) for tower in ("class token", "no class token, as G14")),
    Case("PE-Core pair, own names", "class token; 5 heads", "pe", _own_pair, ("torch",)),
    *(
        Case(
            "PE-Core vision tower, timm's names",
            shape,
            "pe_timm",
            functools.partial(_timm, shape=shape),
            ("torch", "timm"),
        )
        for shape in TIMM
    ),
)
