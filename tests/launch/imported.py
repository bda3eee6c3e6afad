"""Imported weights with random numbers: directories in the format of others, written by us, and read from there."""

import json
from pathlib import Path

import flax.linen as nn
import numpy as np

from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.language import LanguageConfig
from mmduplex_jax.towers.contrastive import ContrastiveConfig
from mmduplex_jax.towers.text import TextTowerConfig
from mmduplex_jax.towers.vision import VisionConfig
from mmduplex_jax.weights.huggingface import text, vision
from mmduplex_jax.weights.huggingface.layout import write_params
from mmduplex_jax.weights.huggingface.source import boxed_shapes, open_source
from mmduplex_jax.weights.importing import import_weights
from mmduplex_jax.weights.portable import flatten

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def random_arrays(config, seed: int = 0) -> dict[str, np.ndarray]:
    """Parameters of a shape, by path."""
    rng = np.random.default_rng(seed)
    shapes = flatten(nn.unbox(boxed_shapes(config)))
    return {name: 0.1 * rng.standard_normal(leaf.shape, np.float32) for name, leaf in shapes.items()}


def llama(vocab_size: int, head: str = "tied", **stack) -> LanguageConfig:
    """A small language model of the Llama family."""
    values = dict(width=32, layers=2, heads=2, kv_heads=1, head_width=16, hidden=48)
    return LanguageConfig(StackConfig(**(values | stack)), vocab_size, head)


def import_language(config: LanguageConfig, folder: Path, tokenizer_json: str | None = None) -> Path:
    """Writes a language model as its family's directory and imports it; returns the folder of imported weights."""
    arrays = random_arrays(config)
    write_params(arrays, text.layout(config), folder / "theirs", text.config_json(config))
    if tokenizer_json is not None:
        (folder / "theirs" / "tokenizer.json").write_text(tokenizer_json)
    import_weights(open_source(folder / "theirs"), folder / "weights")
    return folder / "weights"


def siglip(**changes) -> VisionConfig:
    """A small vision tower of SigLIP's architecture."""
    values = dict(image_px=64, patch_px=16, width=24, layers=2, heads=2, hidden=40, activation="gelu_tanh")
    return VisionConfig(**(values | changes))


def clip(**changes) -> VisionConfig:
    """A small vision tower of CLIP's architecture, with its projection."""
    values = dict(
        activation="quick_gelu",
        norm_epsilon=1e-5,
        class_token=True,
        patch_bias=False,
        pre_norm=True,
        pool="class",
        last_norm="pooled",
        projection=20,
    )
    return siglip(**(values | changes))


def clip_pair() -> ContrastiveConfig:
    """`clip()` with a small text tower."""
    text = TextTowerConfig(
        vocab_size=40,
        length=8,
        width=16,
        layers=1,
        heads=2,
        hidden=24,
        activation="quick_gelu",
        norm_epsilon=1e-5,
        causal=True,
        pool="largest",
        projection=20,
    )
    return ContrastiveConfig(clip(), text)


def import_tower(config: VisionConfig | ContrastiveConfig, folder: Path, preprocessing: bool = True) -> Path:
    """Writes a tower, or a pair, as its family's directory and imports it; returns the folder of imported weights."""
    tower = config.vision if isinstance(config, ContrastiveConfig) else config
    family = "clip" if tower.pool == "class" else "siglip"
    found = vision.exported(config, family)
    write_params(random_arrays(config), vision.layout(found), folder / "theirs", vision.config_json(found))
    if preprocessing:
        (folder / "theirs" / "preprocessor_config.json").write_text(json.dumps(processor(family, tower.image_px[0])))
    import_weights(open_source(folder / "theirs"), folder / "weights")
    return folder / "weights"


def processor(family: str, side_px: int) -> dict:
    """A `preprocessor_config.json` of a family."""
    size = {"height": side_px, "width": side_px}
    shared = dict(do_resize=True, resample=3, do_rescale=True, rescale_factor=1 / 255, do_normalize=True)
    if family == "clip":
        return shared | dict(
            image_processor_type="CLIPImageProcessor",
            size={"shortest_edge": side_px},
            do_center_crop=True,
            crop_size=size,
            image_mean=CLIP_MEAN,
            image_std=CLIP_STD,
        )
    half = [0.5, 0.5, 0.5]
    return shared | dict(image_processor_type="SiglipImageProcessor", size=size, image_mean=half, image_std=half)
