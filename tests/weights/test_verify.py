"""Our side of what imported weights are verified with; the other side needs PyTorch (`test_parity.py`)."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.language import LanguageConfig
from mmduplex_jax.towers.contrastive import ContrastiveConfig
from mmduplex_jax.towers.text import TextTowerConfig
from mmduplex_jax.towers.vision import VisionConfig
from mmduplex_jax.weights import verify
from mmduplex_jax.weights.huggingface.source import boxed_shapes

VISION = VisionConfig(image_px=16, patch_px=8, width=16, layers=1, heads=2, hidden=24, pool="attention", projection=8)


def random(config):
    """Parameters of a model."""
    rng = np.random.default_rng(0)
    draw = lambda leaf: (0.1 * rng.standard_normal(leaf.shape)).astype(np.float32)
    return jax.tree.map(draw, nn.unbox(boxed_shapes(config)))


@pytest.mark.parametrize("head", ["own", "tied", "none"])
def test_text_one_token_at_a_time_is_the_whole_text(head):
    stack = StackConfig(width=16, layers=2, heads=2, kv_heads=1, head_width=8, hidden=32, num_sinks=0)
    config = LanguageConfig(stack, 40, head)
    tokens = np.random.default_rng(1).integers(0, 40, (2, 5)).astype(np.int32)
    outputs = verify.text_outputs(config, random(config), tokens)
    assert set(outputs) == {f"{name}{way}" for name in ("hidden", "logits") for way in ("", " (cached)")} - (
        {"logits", "logits (cached)"} if head == "none" else set()
    )
    for name in ("hidden", "logits") if head != "none" else ("hidden",):
        np.testing.assert_allclose(outputs[f"{name} (cached)"], outputs[name], atol=1e-5)


@pytest.mark.parametrize("positions", ["fixed", "naflex"])
def test_pictures_and_texts_are_compared(positions):
    vision = VisionConfig(**{**vars(VISION), "positions": positions})
    text = TextTowerConfig(vocab_size=20, length=6, width=16, layers=1, heads=2, hidden=24, projection=8)
    config = ContrastiveConfig(vision, text)
    inputs = verify._pictures(config, np.random.default_rng(1))
    outputs = verify._our_vision(config, random(config), inputs)
    assert {name: array.shape for name, array in outputs.items()} == {
        "hidden": (2, 4, 16), "text hidden": (2, 6, 16), "image": (2, 8), "text": (2, 8), "logits": (2, 2)
    }  # fmt: skip
    filled = inputs["mask"] if positions == "naflex" else np.ones((2, 4), bool)
    assert ((outputs["hidden"] != 0).any(axis=-1) == filled).all()
