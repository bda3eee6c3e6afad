"""What goes out with a vision tower: from imported weights, and from a training of stage `clip`."""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs import clip_quickstart
from launch import export_weights
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.towers.preprocessing import Preprocessing
from mmduplex_jax.towers.vision import VisionConfig, VisionTower
from mmduplex_jax.weights import portable
from mmduplex_jax.weights.checkpoint import write_weights
from mmduplex_jax.weights.huggingface import vision
from mmduplex_jax.weights.huggingface.layout import read_params, write_params
from mmduplex_jax.weights.huggingface.reader import SINGLE_FILE as FILE
from mmduplex_jax.weights.huggingface.source import open_source
from mmduplex_jax.weights.portable import flatten
from mmduplex_jax.weights.trained import load_tokenizer
from tests.tiny import random_params
from tests.weights.huggingface import llama_family
from tests.weights.huggingface.random_towers import shapes_of, timm_or_skip

PE = dict(class_token=True, patch_bias=False, pre_norm=True, rotary=True, pool_heads=8, pool_hidden=256)
PE |= dict(activation="gelu", norm_epsilon=1e-5)


def trained(folder, **tower):
    """A portable checkpoint of stage `clip` that has learned nothing, its parameters and its task."""
    config = clip_quickstart.get_config()
    config.frame_px = (32, 32)
    config.vision.update({"patch_px": 8, "width": 32, "layers": 2, "heads": 2, "hidden": 48, **tower})
    config.text.update(width=32, layers=1, heads=2, hidden=32, projection=tower["projection"] or 32)
    config.time.update(frames=2, layers=1, heads=2, hidden=32)
    config.pixels = dict(mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.25))
    tokenizer = load_tokenizer(config)
    task = build_task(config, tokenizer)
    params = random_params(task.init)
    words = json.loads(tokenizer.to_json())
    metadata = dict(config=json.loads(config.to_json_best_effort()), tokenizer=words, steps=1, data={}, scores={})
    portable.save(folder, params, metadata, dtype="float32")
    return params, task


def exported(weights, to, *flags):
    return export_weights.main([f"--weights={weights}", f"--out={to}", *flags])


@pytest.mark.parametrize(
    ("tower", "family"), [({"projection": 0}, "siglip"), (PE | {"width": 64, "projection": 16}, "pe_timm")]
)
def test_the_tower_of_a_training_goes_out(tower, family, tmp_path, capsys):
    params, task = trained(tmp_path / "clip", **tower)
    assert exported(tmp_path / "clip", tmp_path / "out", "--part=vision") == 1
    said = capsys.readouterr().err
    assert "parameters have no place in a model of type" in said
    assert "text/position" in said
    assert not (tmp_path / "out").exists()
    assert exported(tmp_path / "clip", tmp_path / "out", "--part=vision", "--leave_rest") == 0
    printed = capsys.readouterr().out
    assert ", with preprocessor_config.json" in printed
    assert "vision/" not in printed  # all of the tower went
    source = open_source(tmp_path / "out")
    assert (source.kind, source.family) == ("vision", family)
    wanted = Preprocessing(resize_to=(32, 32), method="bilinear", mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.25))
    assert source.preprocessing == wanted
    read = flatten(read_params(source.files, source.layout, source.shapes))
    mine = flatten(params["vision"])
    if family == "pe_timm":
        assert not read.pop("projection/bias").any()  # timm's projection has one
    assert read.keys() == mine.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(read[name], value, err_msg=name)
    if family == "siglip":
        return
    # timm reads how pictures are prepared from its own field.
    prepared = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert (prepared["mean"], prepared["std"]) == ([0.4, 0.5, 0.6], [0.3, 0.2, 0.25])


def test_transformers_sees_what_the_training_saw(tmp_path):
    torch, transformers = llama_family.libraries()
    params, task = trained(tmp_path / "clip", projection=0)
    assert exported(tmp_path / "clip", tmp_path / "out", "--part=vision", "--leave_rest") == 0
    model = transformers.SiglipVisionModel.from_pretrained(tmp_path / "out").eval()
    prepare = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    pixels = prepare(list(frames), return_tensors="pt")
    ours = np.asarray(task.normalised(frames))
    np.testing.assert_allclose(pixels["pixel_values"].permute(0, 2, 3, 1), ours, atol=2e-6)  # float32 rounding
    with torch.no_grad():
        theirs = model(**pixels).pooler_output.numpy()
    seen = VisionTower(task.config.vision).apply({"params": params["vision"]}, ours)
    np.testing.assert_allclose(seen.pooled, theirs, atol=1e-5)  # sums in another order, at values of 1


def test_timm_sees_what_the_training_saw(tmp_path):
    timm = timm_or_skip()
    import torch

    params, task = trained(tmp_path / "clip", **PE, width=64, projection=16)
    assert exported(tmp_path / "clip", tmp_path / "out", "--part=vision", "--leave_rest") == 0
    says = json.loads((tmp_path / "out" / "config.json").read_text())
    model = timm.create_model(says["architecture"], num_classes=says["num_classes"], **says["model_args"]).eval()
    model.load_state_dict({name: torch.tensor(value) for name, value in load_file(tmp_path / "out" / FILE).items()})
    pictures = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.tensor(pictures).permute(0, 3, 1, 2)).numpy()
    seen = VisionTower(task.config.vision).apply({"params": params["vision"]}, pictures)
    np.testing.assert_allclose(seen.embedding, theirs, atol=1e-5)  # sums in another order, at values of 1


@pytest.mark.parametrize("part", ["vision", "text"])
def test_what_a_training_has_not_is_said(part, portable_dir, tmp_path, capsys):
    folder = portable_dir
    if part == "text":
        folder = tmp_path / "clip"
        trained(folder, projection=0)
    assert exported(folder, tmp_path / "out", f"--part={part}") == 1
    wanted = {"vision": "stage 'duplex' has no vision tower", "text": "stage 'clip' has no language model"}[part]
    assert wanted in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 24},
    "crop_size": {"height": 16, "width": 16},
    "resample": 2,
}


def test_what_came_with_a_tower_goes_back_with_it(tmp_path):
    config = VisionConfig(image_px=16, patch_px=8, width=32, layers=1, heads=2, hidden=48)
    of = vision.exported(config, "siglip")
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), nn.unbox(shapes_of(config)))
    write_params(params, vision.layout(of), tmp_path / "theirs", vision.config_json(of))
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    source = open_source(tmp_path / "theirs")
    assert source.preprocessing.crop_to == (16, 16)
    write_weights(tmp_path / "ours", flatten(params).items(), source.metadata())
    assert exported(tmp_path / "ours", tmp_path / "back") == 0
    assert open_source(tmp_path / "back").preprocessing == source.preprocessing
    assert open_source(tmp_path / "back").config == source.config
