"""`configs/duplex_smollm2.py`: its shapes are those of the weights that it begins with, which stay as they are."""

import re

import flax.linen as nn
import pytest

from configs import duplex_smollm2
from mmduplex_jax.stages.registry import build_task, find_stage
from mmduplex_jax.towers.efficientnet_lite import EfficientNetLiteConfig
from mmduplex_jax.train.optimizer import NEVER, make_groups
from mmduplex_jax.train.step import abstract_params
from mmduplex_jax.weights.huggingface import text
from mmduplex_jax.weights.portable import flatten
from mmduplex_jax.weights.trained import load_tokenizer

# The fields of HuggingFaceTB/SmolLM2-135M-Instruct's config.json that its numbers depend on.
SMOLLM2 = dict(
    model_type="llama",
    vocab_size=49_152,
    hidden_size=576,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    intermediate_size=1536,
    hidden_act="silu",
    rms_norm_eps=1e-5,
    rope_theta=100_000.0,
    tie_word_embeddings=True,
)


class Names:
    """A model with a head, as its files would show it."""

    path, names = "smollm2", ("model.embed_tokens.weight",)

    def __contains__(self, name: str) -> bool:
        return name in self.names


@pytest.fixture(scope="module")
def task():
    config = duplex_smollm2.get_config()
    return build_task(config, load_tokenizer(config))


def test_the_language_model_is_smollm2(task):
    language = find_stage("duplex").parts(task).language
    published = text.architecture(SMOLLM2, Names())
    assert text.alone(language.text, SMOLLM2["vocab_size"], language.head) == published


def test_the_towers_are_lite0(task):
    anchors, crops = find_stage("duplex").parts(task).towers
    assert anchors.config == EfficientNetLiteConfig(image_px=anchors.config.image_px, output="stage_5")
    assert crops.config == EfficientNetLiteConfig(image_px=crops.config.image_px)
    assert {anchors.mean, crops.mean} == {EfficientNetLiteConfig.mean}


def test_what_is_new_is_trained_and_the_rest_never(task):
    config = duplex_smollm2.get_config()
    boxed = abstract_params(task)
    shapes = flatten(nn.unbox(boxed))
    assert sum(leaf.size for leaf in shapes.values()) == pytest.approx(149.5e6, rel=0.002)
    groups = make_groups(config.train, boxed)
    trained = sum(leaf.size for name, leaf in shapes.items() if groups.of[name].start_step != NEVER)
    assert trained == pytest.approx(39.3e6, rel=0.002)  # as the config's docstring says
    for name, group in groups.of.items():
        tower = re.match("tokenizer/(anchors|crops)/tower/", name)
        language = re.match("text/(?!.*/cross)", name)
        wanted = "tower" if tower else "text" if language else "embedding" if name == "embedding" else "rest"
        assert group.name == wanted, name
    starts = {group.name: group.start_step for group in groups.groups}
    assert starts == {"embedding": 0, "text": NEVER, "tower": NEVER}
