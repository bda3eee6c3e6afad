"""PE-Core in its own names and in timm's, besides what `test_parity.py` compares."""

import numpy as np
import pytest

from mmduplex_jax.weights.huggingface import perception_encoder, vision
from mmduplex_jax.weights.huggingface.reader import TensorFiles, WeightsError, read_config
from tests.weights.huggingface.clip_family_cases import as_torch, pixels
from tests.weights.huggingface.parity_cases import LIMIT
from tests.weights.huggingface.perception_cases import (
    TIMM,
    both_towers,
    own_vision,
    tensors,
    timm_model,
    vision_cfg,
)
from tests.weights.huggingface.random_towers import apply, difference, read, save_plain, timm_or_skip

torch = pytest.importorskip("torch", reason="the reference is in PyTorch")


def test_the_vision_tower_of_a_pair_alone(tmp_path):
    theirs, _ = both_towers(tmp_path)
    found, params = read(tmp_path, only_vision=True)
    pictures = pixels(24)
    wanted = own_vision(theirs, "class token", pictures)[2]
    assert difference(apply(found, params, pictures).embedding, wanted) <= LIMIT


@pytest.mark.parametrize("shape", TIMM)
def test_what_is_written_for_timm_is_read_as_the_same(shape, tmp_path):
    timm = timm_or_skip()
    model, arguments = timm_model(shape)
    timm.models.save_for_hf(model, str(tmp_path), model_args=arguments, safe_serialization=True)
    found, _ = read(tmp_path)
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
    save_plain(theirs, {"vision_cfg": vision_cfg("class token")}, tmp_path / "own")
    timm.models.save_for_hf(model, str(tmp_path / "timm"), model_args=args, safe_serialization=True)
    pictures = pixels(24)
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
