"""What the towers promise without another library at hand: padding, masks, places, names of axes, errors."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.layers.encoder import patchify
from mmduplex_jax.sharding import logical_names, make_mesh, tree_shardings
from mmduplex_jax.towers.contrastive import Contrastive, ContrastiveConfig
from mmduplex_jax.towers.text import TextTower, TextTowerConfig
from mmduplex_jax.towers.vision import VisionConfig, VisionTower
from tests import plain_code

VISION = VisionConfig(image_px=16, patch_px=4, width=24, layers=2, heads=3, hidden=40, projection=12)
PE_LIKE = dataclasses.replace(
    VISION, heads=2, class_token=True, pre_norm=True, rotary=True, positions="bilinear", pool_heads=4, patch_bias=False
)
NAFLEX = dataclasses.replace(VISION, positions="naflex", projection=0)
TEXT = TextTowerConfig(vocab_size=20, length=8, width=16, layers=2, heads=2, hidden=32, projection=12)
# Sums in another order, of values up to 10, in float32.
ATOL = 2e-5
jit = functools.partial(jax.jit, compiler_options=plain_code.OPTIONS)


def pictures(*size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, *(size or (16, 16)), 3)).astype(np.float32)


def randomised(model: nn.Module, *inputs):
    """Parameters that are random everywhere, also where they start at zero."""
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), *inputs))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: rng.normal(size=a.shape, scale=0.3).astype(np.float32), shapes)


@functools.partial(jit, static_argnums=0, static_argnames=("grid", "method"))
def see(config: VisionConfig, params, *inputs, grid=None, method=None):
    """Runs a tower; `grid` is the one of all pictures."""
    inputs = inputs if grid is None else (*inputs, grid)
    return VisionTower(config).apply({"params": params}, *inputs, method=method)


@pytest.mark.parametrize("config", [VISION, PE_LIKE, dataclasses.replace(VISION, class_token=True, pool="class")])
def test_shapes(config):
    params = randomised(VisionTower(config), pictures())
    seen = see(config, params, pictures())
    assert seen.tokens.shape == (2, 16 + config.class_token, 24)
    assert seen.pooled.shape == (2, 24)
    assert seen.embedding.shape == (2, config.embedding_width) == (2, 12)


def test_pools():
    for pool, expected in (("none", None), ("mean", (2, 24))):
        config = dataclasses.replace(VISION, pool=pool, projection=0)
        seen = see(config, randomised(VisionTower(config), pictures()), pictures())
        assert (seen.pooled if expected is None else seen.pooled.shape) == expected


def test_naflex_of_a_square_picture_is_the_fixed_tower():
    params = randomised(VisionTower(NAFLEX), pictures())
    whole = see(NAFLEX, params, pictures())
    patches = jnp.pad(patchify(jnp.asarray(pictures()), 4), ((0, 0), (0, 9), (0, 0)), constant_values=7.0)
    mask = np.arange(25)[None].repeat(2, 0) < 16
    listed = see(NAFLEX, params, patches, jnp.full((2, 2), 4), mask, method="from_patches")
    np.testing.assert_allclose(listed.tokens[:, :16], whole.tokens, atol=ATOL)
    np.testing.assert_allclose(listed.pooled, whole.pooled, atol=ATOL)


@pytest.mark.parametrize("config", [NAFLEX, dataclasses.replace(PE_LIKE, positions="naflex")])
def test_each_picture_is_as_if_it_were_alone(config):
    params = randomised(VisionTower(config), pictures())
    rng = np.random.default_rng(1)
    grid = np.array([[2, 7], [5, 2]], np.int32)
    patches = rng.normal(size=(2, 14, 48)).astype(np.float32)
    mask = np.arange(14) < grid.prod(axis=1, keepdims=True)
    both = see(config, params, patches, grid, mask, method="from_patches")
    for i, (rows, columns) in enumerate(grid.tolist()):
        alone = see(config, params, patches[i : i + 1, : rows * columns], grid=(rows, columns), method="from_patches")
        np.testing.assert_allclose(both.embedding[i], alone.embedding[0], atol=ATOL)


def test_another_size_than_trained():
    params = randomised(VisionTower(PE_LIKE), pictures())
    assert see(PE_LIKE, params, pictures(24, 8)).tokens.shape == (2, 13, 24)
    fixed = dataclasses.replace(PE_LIKE, positions="fixed")
    with pytest.raises(ValueError, match="positions for 4x4 patches, the picture has 6x2"):
        see(fixed, params, pictures(24, 8))


def test_places_matter():
    """Without positions a tower that pools by attention could not tell where a patch is."""
    params = randomised(VisionTower(PE_LIKE), pictures())
    flat = {**params, "position": jnp.zeros_like(params["position"])}
    for given in (params, flat):
        there = see(PE_LIKE, given, pictures()).embedding
        turned = see(PE_LIKE, given, pictures().swapaxes(1, 2)).embedding
        assert np.abs(there - turned).max() > 1e-3


def test_remat_and_bfloat16():
    shallow = dataclasses.replace(PE_LIKE, layers=1)
    params = randomised(VisionTower(shallow), pictures())

    @functools.partial(jit, static_argnums=0)
    def gradients(config, p):
        look = lambda p: VisionTower(config).apply({"params": p}, pictures()).embedding
        return jax.grad(lambda p: jnp.square(look(p)).mean())(p)

    plain, again = gradients(shallow, params), gradients(dataclasses.replace(shallow, remat=True), params)
    # Against the largest of all: that of a key's bias is zero but for rounding, as softmax does not notice it.
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest), plain, again)
    half = see(dataclasses.replace(shallow, dtype="bfloat16"), params, pictures()).embedding
    assert half.dtype == jnp.bfloat16
    full = see(shallow, params, pictures()).embedding
    # Eight bits of mantissa through a layer.
    assert np.abs(half.astype(np.float32) - full).max() < 0.1 * np.abs(full).max()


@pytest.mark.parametrize(
    ("config", "reading"),
    [
        (TEXT, "every token changes the last"),
        (dataclasses.replace(TEXT, causal=True, pool="end", end_id=19), "nothing after the end matters"),
        (dataclasses.replace(TEXT, causal=True, pool="largest"), "nothing after the end matters"),
    ],
)
def test_texts(config, reading):
    ids = np.array([[3, 4, 19, 5, 6], [19, 1, 1, 1, 1]], np.int32)
    changed = ids.copy()
    changed[0, 4] = 7
    params = randomised(TextTower(config), ids)
    read = jit(lambda ids: TextTower(config).apply({"params": params}, ids).embedding)
    same = np.abs(read(ids)[0] - read(changed)[0]).max() < ATOL
    assert same == (reading == "nothing after the end matters")
    with pytest.raises(ValueError, match="texts of 9 tokens, the tower has positions for 8"):
        read(np.zeros((1, 9), np.int32))


def test_pairs():
    config = ContrastiveConfig(VISION, TEXT, bias_init=-10.0)
    model = Contrastive(config)
    ids = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.int32)
    params = randomised(model, pictures(), ids) | {"logit_scale": jnp.log(1 / 0.07), "logit_bias": jnp.float32(-10)}
    compared = jit(model.apply)({"params": params}, pictures(), ids)
    assert compared.logits.shape == (2, 3)
    np.testing.assert_allclose(np.linalg.norm(compared.image, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(compared.scale, 1 / 0.07, rtol=1e-6)
    cosines = compared.image @ compared.text.T
    np.testing.assert_allclose(compared.logits, cosines / 0.07 - 10, atol=1e-4)
    assert ContrastiveConfig.from_dict(dataclasses.asdict(config)) == config


def test_every_parameter_has_a_place_on_the_mesh():
    model = Contrastive(ContrastiveConfig(PE_LIKE, TEXT, bias_init=0.0))
    boxed = jax.eval_shape(model.init, jax.random.key(0), pictures(), np.zeros((1, 4), np.int32))["params"]
    names = logical_names(boxed)
    assert names["vision/position"] == ("position", "embed")
    assert names["vision/pool/attention/query/kernel"] == ("embed", "heads/6")  # columns in units of a head
    assert names["logit_scale"] == ()
    tree_shardings(boxed, make_mesh(devices=jax.devices()[:1]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pool": "max"}, "pool is one of"),
        ({"pool": "class"}, "needs class_token"),
        ({"pool": "none"}, "without a pool"),
        ({"activation": "swish"}, "activation is one of"),
        ({"heads": 5}, "multiple of heads"),
        ({"heads": 4, "rotary": True}, "a multiple of 4 wide, not 6"),
        ({"pool_heads": 5}, "multiple of pool_heads"),
        ({"patch_px": 17}, "patch_px"),
        ({"positions": "cubic"}, "positions is one of"),
    ],
)
def test_shapes_that_make_no_sense(change, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(VISION, **change)


def test_pairs_that_make_no_sense():
    with pytest.raises(ValueError, match="of one width"):
        ContrastiveConfig(VISION, dataclasses.replace(TEXT, projection=9))
    with pytest.raises(ValueError, match="needs a pool"):
        ContrastiveConfig(dataclasses.replace(VISION, pool="none", projection=0), TEXT)
    with pytest.raises(ValueError, match="end_id"):
        dataclasses.replace(TEXT, pool="end")


def test_lists_of_patches_need_a_mask():
    params = randomised(VisionTower(NAFLEX), pictures())
    with pytest.raises(ValueError, match="a mask"):
        see(NAFLEX, params, np.zeros((1, 4, 48)), np.array([[2, 2]]), method="from_patches")
    with pytest.raises(ValueError, match="naflex"):
        see(VISION, params, np.zeros((1, 4, 48)), np.array([[2, 2]]), np.ones((1, 4), bool), method="from_patches")
