"""PE-Core beside PyTorch: in its own names beside `perception_reference.py`, in timm's names beside timm."""

import numpy as np
import pytest

from mmduplex_jax.interop.huggingface import perception_encoder, vision
from mmduplex_jax.interop.huggingface.reader import TensorFiles, WeightsError, read_config
from tests.interop.huggingface.random_towers import (
    apply,
    assert_round_trip,
    difference,
    randomise,
    read,
    save_plain,
    timm_or_skip,
)

torch = pytest.importorskip("torch", reason="the reference is in PyTorch")

from tests.interop.huggingface import perception_reference as reference  # noqa: E402 (it needs torch)

# width, layers, heads, hidden, patch, side of the grid, class token, output
TOWERS = {
    "class token": (32, 2, 2, 64, 8, 3, True, 24),
    "odd heads": (24, 2, 3, 60, 4, 4, True, 16),
    "no class token, as G14": (48, 1, 4, 280, 8, 3, False, 20),
}


def vision_cfg(width, layers, heads, hidden, patch, side, class_token, output) -> dict:
    fields = dict(patch_size=patch, width=width, layers=layers, heads=heads, mlp_ratio=hidden / width)
    return fields | dict(output_dim=output, image_size=patch * side, use_cls_token=class_token, attn_pooler_heads=8)


def tensors(tower: str) -> dict:
    width, layers, _, hidden, patch, side, class_token, output = TOWERS[tower]
    generator = torch.Generator().manual_seed(0)
    return reference.random_vision(generator, width, layers, hidden, patch, side, class_token, output)


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)


def as_torch(pictures: np.ndarray):
    return torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize(("tower", "prefix"), [*((tower, "") for tower in TOWERS), ("odd heads", "visual.")])
def test_its_own_names(tower, prefix, tmp_path, parity):
    (tmp_path / "theirs").mkdir()
    theirs = tensors(tower)
    config = {"vision_cfg": vision_cfg(*TOWERS[tower])}
    save_plain({prefix + name: tensor for name, tensor in theirs.items()}, config, tmp_path / "theirs")
    found, params = read(tmp_path / "theirs")
    assert (found.family, found.vision_prefix) == ("pe", prefix)
    width, _, heads, _, patch, side, _, _ = TOWERS[tower]
    pictures = pixels(patch * side, patch * side)
    wanted = reference.vision(theirs, as_torch(pictures), heads, 8)
    got = apply(found, params, pictures)
    parity("PE-Core, own names", tower, max(difference(*pair) for pair in zip(got, wanted, strict=True)))
    assert_round_trip(tmp_path / "theirs", found, params, tmp_path / "ours")


@pytest.mark.parametrize("tower", ["class token", "no class token, as G14"])
def test_other_sizes_than_trained(tower, tmp_path, parity):
    theirs = tensors(tower)
    save_plain(theirs, {"vision_cfg": vision_cfg(*TOWERS[tower])}, tmp_path)
    found, params = read(tmp_path)
    pictures = pixels(40, 16)
    wanted = reference.vision(theirs, as_torch(pictures), TOWERS[tower][2], 8)
    got = apply(found, params, pictures)
    parity("PE-Core, own names", f"{tower}, 40x16 px", max(difference(*pair) for pair in zip(got, wanted, strict=True)))


def test_both_towers(tmp_path, parity):
    (tmp_path / "theirs").mkdir()
    generator = torch.Generator().manual_seed(1)
    theirs = tensors("class token")
    words = reference.random_text(generator, 20, 2, 80, 50, 10, 24)
    both = {f"visual.{name}": tensor for name, tensor in theirs.items()} | words
    text_cfg = dict(context_length=10, width=20, heads=5, layers=2, output_dim=24, vocab_size=50)
    config = {"vision_cfg": vision_cfg(*TOWERS["class token"]), "text_cfg": text_cfg}
    save_plain(both, config, tmp_path / "theirs")
    found, params = read(tmp_path / "theirs")
    assert found.kind == "contrastive"
    pictures = pixels(24, 24)
    ids = np.random.default_rng(2).integers(0, 50, (3, 7)).astype(np.int32)
    _, _, image = reference.vision(theirs, as_torch(pictures), 2, 8)
    _, text = reference.text(words, torch.from_numpy(ids.astype(np.int64)), 5)
    image, text = (torch.nn.functional.normalize(x, dim=-1) for x in (image, text))
    got = apply(found, params, pictures, ids)
    logits = image @ text.T * words["logit_scale"].exp()
    worst = max(difference(got.image, image), difference(got.text, text), difference(got.logits, logits))
    parity("PE-Core, own names, both towers", "class token; 5 heads", worst)
    assert_round_trip(tmp_path / "theirs", found, params, tmp_path / "ours")
    alone, only = read(tmp_path / "theirs", only_vision=True)
    assert (
        difference(apply(alone, only, pictures).embedding, reference.vision(theirs, as_torch(pictures), 2, 8)[2]) < 1e-4
    )


TIMM = {
    "class token": dict(img_size=24, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=20),
    "odd heads": dict(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.5, num_classes=7),
    "no projection": dict(img_size=24, patch_size=8, embed_dim=32, depth=1, num_heads=1, num_classes=0),
    "no class token": dict(
        img_size=24, patch_size=8, embed_dim=48, depth=1, num_heads=4, class_token=False, rope_grid_offset=0.0
    ),
}


@pytest.mark.parametrize("shape", TIMM)
def test_timms_names(shape, tmp_path, parity):
    timm = timm_or_skip()
    side = TIMM[shape]["img_size"] // TIMM[shape]["patch_size"]
    args = TIMM[shape] | dict(ref_feat_shape=[side, side])
    model = timm.create_model("vit_pe_core_small_patch16_384", **args).eval()
    randomise(model, 0)
    timm.models.save_for_hf(model, str(tmp_path / "theirs"), model_args=args, safe_serialization=True)
    found, params = read(tmp_path / "theirs")
    assert found.family == "pe_timm"
    pictures = pixels(args["img_size"], args["img_size"])
    with torch.no_grad():
        tokens = model.forward_features(as_torch(pictures))
        pooled = model.forward_head(tokens, pre_logits=True)
        embedding = model(as_torch(pictures))
    got = apply(found, params, pictures)
    worst = max(difference(*pair) for pair in zip(got, (tokens, pooled, embedding), strict=True))
    parity("PE-Core, timm's names", shape, worst)
    assert_round_trip(tmp_path / "theirs", found, params, tmp_path / "ours")
    out = vision.config_json(vision.exported(found.config, "pe_timm"))
    assert perception_encoder.timm_vision(out) == found.config


def test_timms_names_are_the_same_tower(tmp_path):
    """What timm converts from the published names is the same tower for us."""
    timm = timm_or_skip()
    from timm.models.eva import checkpoint_filter_fn

    theirs = tensors("class token")
    args = TIMM["class token"] | dict(num_classes=24, mlp_ratio=2.0, ref_feat_shape=[3, 3])
    model = timm.create_model("vit_pe_core_small_patch16_384", **args).eval()
    converted = checkpoint_filter_fn({f"visual.{name}": value.clone() for name, value in theirs.items()}, model)
    model.load_state_dict(converted)
    (tmp_path / "own").mkdir()
    save_plain(theirs, {"vision_cfg": vision_cfg(*TOWERS["class token"])}, tmp_path / "own")
    timm.models.save_for_hf(model, str(tmp_path / "timm"), model_args=args, safe_serialization=True)
    pictures = pixels(24, 24)
    own, from_timm = (apply(*read(tmp_path / name), pictures) for name in ("own", "timm"))
    with torch.no_grad():
        assert difference(own.embedding, model(as_torch(pictures))) < 1e-4
    np.testing.assert_array_equal(own.tokens, from_timm.tokens)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architecture": "vit_pe_core_huge_patch14_448"}, "of timm these are: vit_pe_core_tiny"),
        ({"architecture": "vit_pe_core_small_patch16_384", "model_args": {"qk_norm": True}}, "qk_norm=True"),
        ({"architecture": "vit_pe_core_small_patch16_384", "model_args": {"img_size": 32}}, "ref_feat_shape=None"),
        ({"vision_cfg": {"width": 3}}, r"vision_cfg lacks \['patch_size', 'layers'"),
        ({"architecture": "PE-Core-S16-384", "vision_cfg": {"pool_type": "none"}}, "pool_type='none'"),
    ],
)
def test_what_is_not_pe_core_is_an_error(config, said, tmp_path):
    name = "patch_embed.proj.weight" if str(config.get("architecture")).startswith("vit") else "conv1.weight"
    save_plain({name: torch.zeros(1)}, config, tmp_path)
    with pytest.raises(WeightsError, match=said):
        vision.architecture(read_config(tmp_path), TensorFiles(tmp_path))


def test_preprocessing_is_that_of_its_code(tmp_path):
    found = vision.Architecture("vision", "pe", perception_encoder.native_vision({"architecture": "PE-Core-S16-384"}))
    prepared = vision.preprocessing(tmp_path, {}, found)
    assert (prepared.resize_to, prepared.method, prepared.mean) == ((384, 384), "bilinear", (0.5, 0.5, 0.5))
