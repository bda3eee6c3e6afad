"""The convolutional towers: shapes of their maps at any size, against a reference by XLA's own convolutions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmduplex_jax.towers.efficientnet_lite import EfficientNetLiteConfig
from mmduplex_jax.towers.vision import normalise
from mmduplex_jax.towers.yolox import OUTPUTS, YoloxConfig

LITE = EfficientNetLiteConfig(stages=((1, 3, 1, 1, 4), (2, 5, 2, 3, 6), (1, 3, 2, 2, 8)), stem=5, head=10)
YOLOX = YoloxConfig(stem=4, repeats=(1, 2, 1, 1))
RNG = np.random.default_rng(0)


def randomised(config):
    """Parameters of a tower, of which none is zero."""
    shapes = nn.unbox(jax.eval_shape(config.build().init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    draw = lambda leaf: jnp.asarray(RNG.standard_normal(leaf.shape) * leaf.size**-0.25, jnp.float32)
    return jax.tree.map(draw, shapes)


def see(config, params, pictures):
    return jax.jit(config.build().apply)(params, pictures)


@pytest.mark.parametrize("output", LITE.outputs)
@pytest.mark.parametrize("size", [(32, 32), (17, 40)])
def test_lite_maps_have_the_shapes_that_the_config_says(output, size):
    config = dataclasses.replace(LITE, output=output)
    found = jax.eval_shape(config.build().init_with_output, jax.random.key(0), jnp.zeros((2, *size, 3)))[0]
    assert found.shape == (2, *config.map_size(size), config.width)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("size", [(64, 64), (33, 90)])
def test_yolox_maps_have_the_shapes_that_the_config_says(output, size):
    config = dataclasses.replace(YOLOX, output=output)
    found = jax.eval_shape(config.build().init_with_output, jax.random.key(0), jnp.zeros((2, *size, 3)))[0]
    assert found.shape == (2, *config.map_size(size), config.width)


@pytest.mark.parametrize("config", [LITE, YOLOX], ids=lambda config: config.kind)
def test_an_earlier_output_needs_a_part_of_the_parameters(config):
    outputs = getattr(config, "outputs", OUTPUTS)
    names = []
    for output in outputs:
        params = randomised(dataclasses.replace(config, output=output))["params"]
        names.append({jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)})
    for earlier, later in zip(names, names[1:], strict=False):
        assert earlier.items() < later.items()


def test_yolox_pads_as_the_original():
    """The picture at the top left, the rest grey."""
    params, picture = randomised(YOLOX), RNG.uniform(0, 255, (1, 40, 50, 3)).astype(np.float32)
    padded = np.full((1, 64, 64, 3), 114, np.float32)
    padded[:, :40, :50] = picture
    np.testing.assert_array_equal(see(YOLOX, params, picture), see(YOLOX, params, padded))


def test_pictures_are_normalised_as_the_towers_are_used_to():
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    lite = normalise(frames, EfficientNetLiteConfig.mean, EfficientNetLiteConfig.std)
    np.testing.assert_array_equal(lite, (frames.astype(np.float32) - 127) / 128)
    np.testing.assert_array_equal(normalise(frames, YoloxConfig.mean, YoloxConfig.std), frames.astype(np.float32))


@pytest.mark.parametrize("config", [LITE, YOLOX], ids=lambda config: config.kind)
def test_remat_and_lists_of_a_config_file_change_nothing(config):
    as_lists = lambda value: [as_lists(v) for v in value] if isinstance(value, tuple) else value
    again = type(config)(**{name: as_lists(value) for name, value in vars(config).items()})
    assert (again, hash(again)) == (config, hash(config))
    params, pictures = randomised(config), RNG.standard_normal((1, 32, 32, 3)).astype(np.float32)
    remat = dataclasses.replace(config, remat=True)
    # The same products, fused in another way.
    np.testing.assert_allclose(see(remat, params, pictures), see(config, params, pictures), rtol=1e-5, atol=1e-6)


def test_a_tower_can_be_trained():
    config = dataclasses.replace(LITE, stages=LITE.stages[:1], output="stage_1", remat=True)
    params, pictures = randomised(config), RNG.standard_normal((1, 8, 8, 3)).astype(np.float32)
    slopes = jax.grad(lambda p: jnp.square(see(config, p, pictures)).mean())(params)
    assert all(np.abs(slope).max() > 0 for slope in jax.tree.leaves(slopes))


def test_a_config_says_what_outputs_there_are():
    with pytest.raises(ValueError, match="output of an efficientnet_lite is one of stage_1, stage_2, stage_3, head"):
        dataclasses.replace(LITE, output="stage_4")
    with pytest.raises(ValueError, match="output of a yolox is one of backbone_8, .* not 'neck_4'"):
        YoloxConfig(output="neck_4")
    with pytest.raises(ValueError, match="four numbers"):
        YoloxConfig(repeats=(1, 2))


def test_published_sizes():
    """As published, 4.65 and 0.91 million, less what is not here: 1.28 of a classifier, batch norms, 0.11 of a head."""
    count = lambda config: sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(
        config.build().init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))))  # fmt: skip
    assert count(EfficientNetLiteConfig()) == 3_350_000
    assert count(YoloxConfig(output="neck_32")) == 801_424
