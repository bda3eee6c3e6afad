"""CLIP, SigLIP and SigLIP 2 beside transformers, on random weights that it saved.

The bound is that of the `parity` fixture.
"""

import numpy as np
import pytest

from mmduplex_jax.interop.huggingface import vision
from mmduplex_jax.interop.huggingface.reader import TensorFiles, WeightsError
from tests.interop.huggingface.conftest import LIMIT
from tests.interop.huggingface.random_towers import apply, assert_round_trip, difference, randomise, read

torch = pytest.importorskip("torch", reason="transformers with PyTorch is the reference")
transformers = pytest.importorskip("transformers", reason="transformers is the reference")

# Widths, heads (odd ones too), MLPs, activations; each of a tower of two layers.
SHAPES = {
    "even heads": dict(hidden_size=32, num_attention_heads=4, intermediate_size=64),
    "odd heads": dict(hidden_size=30, num_attention_heads=3, intermediate_size=44, hidden_act="gelu"),
    "one head": dict(hidden_size=20, num_attention_heads=1, intermediate_size=20, hidden_act="gelu_pytorch_tanh"),
    "quick gelu": dict(
        hidden_size=40, num_attention_heads=5, intermediate_size=80, hidden_act="quick_gelu", layer_norm_eps=1e-3
    ),
}


def make(kind: str, seed: int = 0, **arguments):
    """A model of transformers with random weights."""
    config = getattr(transformers, f"{kind}Config")(**arguments)
    model = getattr(transformers, f"{kind}Model")._from_config(config, attn_implementation="eager").eval()
    randomise(model, seed)
    return model


def pixels(height: int, width: int = 0) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, height, width or height, 3)).astype(np.float32)


def as_torch(pictures: np.ndarray):
    return torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        *((kind, shape) for kind in ("CLIPVision", "SiglipVision") for shape in SHAPES),
        ("SiglipVision without head", "odd heads"),
    ],
)
def test_vision_towers(kind, shape, tmp_path, parity):
    arguments = dict(SHAPES[shape], num_hidden_layers=2, image_size=24, patch_size=8)
    if kind.endswith("without head"):
        arguments["vision_use_head"] = False
    model = make(kind.split()[0], **arguments)
    model.save_pretrained(tmp_path / "theirs")
    found, params = read(tmp_path / "theirs")
    pictures = pixels(24)
    with torch.no_grad():
        wanted = model(as_torch(pictures))
    got = apply(found, params, pictures)
    worst = difference(got.tokens, wanted.last_hidden_state)
    if wanted.pooler_output is None:
        assert got.pooled is None
    else:
        worst = max(worst, difference(got.pooled, wanted.pooler_output))
    parity(kind, shape, worst)
    assert_round_trip(tmp_path / "theirs", found, params, tmp_path / "ours")


@pytest.mark.parametrize("kind", ["CLIPVision", "SiglipVision"])
@pytest.mark.parametrize("size", [(24, 24), (16, 48)])
def test_other_sizes_than_trained(kind, size, tmp_path, parity):
    """Positions are fitted to another grid as by `interpolate_pos_encoding`."""
    model = make(kind, **SHAPES["even heads"], num_hidden_layers=1, image_size=32, patch_size=8)
    model.save_pretrained(tmp_path)
    found, params = read(tmp_path)
    pictures = pixels(*size)
    with torch.no_grad():
        wanted = model(as_torch(pictures), interpolate_pos_encoding=True)
    got = apply(found, params, pictures)
    worst = max(difference(got.tokens, wanted.last_hidden_state), difference(got.pooled, wanted.pooler_output))
    parity(kind, f"{size[0]}x{size[1]} px, trained at 32x32", worst)


def test_a_border_narrower_than_a_patch_is_not_looked_at(tmp_path, parity):
    """SigLIP so400m has patches of 14 px and pictures of 384, which is 27.4 of them."""
    model = make("SiglipVision", **SHAPES["odd heads"], num_hidden_layers=1, image_size=29, patch_size=8)
    model.save_pretrained(tmp_path / "theirs")
    found, params = read(tmp_path / "theirs")
    pictures = pixels(29)
    with torch.no_grad():
        wanted = model(as_torch(pictures))
    parity(
        "SiglipVision", "29 px in patches of 8", difference(apply(found, params, pictures).pooled, wanted.pooler_output)
    )
    assert_round_trip(tmp_path / "theirs", found, params, tmp_path / "ours")


@pytest.mark.parametrize(
    ("shape", "head"), [("even heads", True), ("odd heads", True), ("one head", False), ("quick gelu", True)]
)
def test_naflex(shape, head, tmp_path, parity):
    """Pictures of different proportions in one batch, padded; also hidden states of padding, which transformers has."""
    model = make(
        "Siglip2Vision", **SHAPES[shape], num_hidden_layers=2, patch_size=4, num_patches=36, vision_use_head=head
    )
    model.save_pretrained(tmp_path / "theirs")
    found, params = read(tmp_path / "theirs")
    rng = np.random.default_rng(2)
    grid = np.array([[6, 6], [3, 9], [1, 20], [4, 4]])
    patches = rng.normal(size=(4, 40, 48)).astype(np.float32)
    mask = np.arange(40) < grid.prod(axis=1, keepdims=True)
    with torch.no_grad():
        wanted = model(
            torch.from_numpy(patches),
            pixel_attention_mask=torch.from_numpy(mask.astype(np.int32)),
            spatial_shapes=torch.from_numpy(grid),
        )
    got = apply(found, params, patches, grid.astype(np.int32), mask, method="from_patches")
    worst = difference(got.tokens, wanted.last_hidden_state)
    if head:
        worst = max(worst, difference(got.pooled, wanted.pooler_output))
    parity("Siglip2Vision (NaFlex)" + ("" if head else " without head"), f"{shape}, four grids in a batch", worst)
    assert_round_trip(tmp_path / "theirs", found, params, tmp_path / "ours")


def pair(kind: str, vision_shape: str, text_shape: str, text: dict | None = None, **arguments):
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


@pytest.mark.parametrize(
    ("kind", "vision_shape", "text_shape", "text", "length"),
    [
        ("CLIP", "even heads", "odd heads", None, 12),
        ("CLIP", "odd heads", "quick gelu", {"eos_token_id": 2}, 12),
        ("CLIP", "quick gelu", "one head", {"hidden_act": "quick_gelu"}, 8),
        ("Siglip", "even heads", "odd heads", None, 12),
        ("Siglip", "one head", "quick gelu", None, 8),
        ("Siglip2", "odd heads", "even heads", None, 12),
    ],
)
def test_pairs(kind, vision_shape, text_shape, text, length, tmp_path, parity):
    model = pair(kind, vision_shape, text_shape, text, **({"projection_dim": 24} if kind == "CLIP" else {}))
    model.save_pretrained(tmp_path / "theirs")
    found, params = read(tmp_path / "theirs")
    assert found.kind == "contrastive"
    pictures, ids = pixels(24), texts(length)
    words = torch.from_numpy(ids.astype(np.int64))
    if kind == "Siglip2":
        patches = pictures.reshape(2, 3, 8, 3, 8, 3).swapaxes(2, 3).reshape(2, 9, 192)
        grid, mask = np.full((2, 2), 3), np.ones((2, 9), bool)
        seen = dict(pixel_values=patches, pixel_attention_mask=mask.astype(np.int32), spatial_shapes=grid)
        seen = {name: torch.from_numpy(value) for name, value in seen.items()}
        image = apply(found, params, patches, grid.astype(np.int32), mask, method="encode_patches")
        read_text = apply(found, params, ids, method="encode_text")
        got = apply(found, params, image, read_text, method="compare")
    else:
        seen = {"pixel_values": as_torch(pictures)}
        got = apply(found, params, pictures, ids)
    with torch.no_grad():
        wanted = model(input_ids=words, **seen)
    tokens = apply(found, params, ids, method=lambda m, ids: m.text(ids))
    worst = max(
        difference(got.image, wanted.image_embeds),
        difference(got.text, wanted.text_embeds),
        difference(got.logits, wanted.logits_per_image),
        difference(tokens.tokens, wanted.text_model_output.last_hidden_state),
    )
    parity(kind, f"{vision_shape} and {text_shape}, texts of {length} of 12", worst)
    assert_round_trip(tmp_path / "theirs", found, params, tmp_path / "ours")


def test_text_that_is_not_all_looked_at(tmp_path):
    model = pair("Siglip", "even heads", "even heads")
    model.save_pretrained(tmp_path)
    found, params = read(tmp_path)
    ids, valid = texts(), np.arange(12) < np.array([[5], [12], [3]])
    with torch.no_grad():
        wanted = model.text_model(torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(valid.astype(np.int64)))
    got = apply(found, params, ids, valid, method=lambda m, ids, valid: m.text(ids, valid))
    assert difference(got.embedding, wanted.pooler_output) <= LIMIT


def test_the_vision_tower_of_a_pair_alone(tmp_path):
    model = pair("CLIP", "odd heads", "even heads", projection_dim=16)
    model.save_pretrained(tmp_path)
    found, params = read(tmp_path, only_vision=True)
    assert (found.kind, found.config.projection) == ("vision", 16)
    pictures = pixels(24)
    with torch.no_grad():
        wanted = model.get_image_features(as_torch(pictures)).pooler_output
    assert difference(apply(found, params, pictures).embedding, wanted) <= LIMIT


def test_a_projection_beside_a_vision_tower(tmp_path):
    config = transformers.CLIPVisionConfig(
        **SHAPES["odd heads"], num_hidden_layers=1, image_size=16, patch_size=8, projection_dim=10
    )
    model = transformers.CLIPVisionModelWithProjection._from_config(config, attn_implementation="eager").eval()
    randomise(model, 0)
    model.save_pretrained(tmp_path / "theirs")
    found, params = read(tmp_path / "theirs")
    pictures = pixels(16)
    with torch.no_grad():
        wanted = model(as_torch(pictures))
    assert difference(apply(found, params, pictures).embedding, wanted.image_embeds) <= LIMIT
    assert_round_trip(tmp_path / "theirs", found, params, tmp_path / "ours")


@pytest.mark.parametrize("prefix", ["", "vision_model.", "clip.vision_model."])
def test_flat_and_prefixed_names(prefix, tmp_path):
    from safetensors.torch import save_file

    model = make("SiglipVision", **SHAPES["even heads"], num_hidden_layers=1, image_size=16, patch_size=8)
    model.config.save_pretrained(tmp_path)
    flat = {name.removeprefix("vision_model."): value for name, value in model.state_dict().items()}
    save_file({prefix + name: value.contiguous() for name, value in flat.items()}, str(tmp_path / "model.safetensors"))
    found, params = read(tmp_path)
    assert found.vision_prefix == prefix
    pictures = pixels(16)
    with torch.no_grad():
        wanted = model(as_torch(pictures))
    assert difference(apply(found, params, pictures).pooled, wanted.pooler_output) <= LIMIT


def test_what_we_write_transformers_loads(tmp_path):
    """Towers of ours, in the family that computes the same, as its own library loads them."""
    model = pair("CLIP", "odd heads", "even heads", projection_dim=16)
    model.save_pretrained(tmp_path / "theirs")
    found, params = read(tmp_path / "theirs")
    out = vision.exported(found.config)
    assert out.family == "clip"
    assert_round_trip(tmp_path / "theirs", out, params, tmp_path / "ours")
    again, info = transformers.CLIPModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_what_does_not_fit_is_named(tmp_path):
    model = make("SiglipVision", **SHAPES["even heads"], num_hidden_layers=1, image_size=16, patch_size=8)
    model.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    with pytest.raises(WeightsError, match=r"missing: .*encoder\.layers\.1\.layer_norm1\.weight \[32\]"):
        read(tmp_path)
    (tmp_path / "config.json").write_text(config.replace('"hidden_act": "gelu_pytorch_tanh"', '"hidden_act": "relu"'))
    with pytest.raises(WeightsError, match="hidden_act is 'relu'"):
        read(tmp_path)
    with pytest.raises(WeightsError, match="model_type 'bert'"):
        vision.architecture({"model_type": "bert"}, TensorFiles(tmp_path))
