"""CLIP, SigLIP and SigLIP 2 of transformers, besides what `test_parity.py` compares."""

import numpy as np
import pytest

from mmduplex_jax.weights.huggingface import vision
from mmduplex_jax.weights.huggingface.reader import TensorFiles, WeightsError
from tests.weights.huggingface.clip_family_cases import SHAPES, as_torch, make, pair, pixels, texts
from tests.weights.huggingface.parity_cases import LIMIT
from tests.weights.huggingface.random_towers import apply, assert_round_trip, difference, randomise, read

torch = pytest.importorskip("torch", reason="transformers with PyTorch is the reference")
transformers = pytest.importorskip("transformers", reason="transformers is the reference")


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
