"""The contrastive losses by hand, and in chunks on eight devices beside the whole matrix."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.stages.clip.task import KINDS, Pairs, plain_loss
from mmduplex_jax.towers.contrastive import unit


def random_pairs(rows=6, width=5, seed=0):
    image, text = np.random.default_rng(seed).normal(size=(2, rows, width)).astype(np.float32)
    return Pairs(unit(image), unit(text), jnp.ones(rows, bool), jnp.arange(rows, dtype=jnp.int32))


def by_hand(kind, logits):
    """The formulas of the papers in float64."""
    rows = len(logits)
    if kind == "sigmoid":
        signs = 2 * np.eye(rows) - 1
        return np.log1p(np.exp(-signs * logits)).sum() / rows
    picked = np.diagonal(logits)
    return (np.log(np.exp(logits).sum(0)) + np.log(np.exp(logits).sum(1)) - 2 * picked).mean() / 2


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_formula_of_the_paper(kind):
    pairs = random_pairs()
    logits = np.float64(pairs.image) @ np.float64(pairs.text).T * 7 - 3
    found = plain_loss(kind, pairs, jnp.float32(7), jnp.float32(-3))
    assert float(found.loss) == pytest.approx(by_hand(kind, logits), rel=1e-5)  # float32 beside float64
    assert float(found.matched) == np.mean(logits.argmax(1) == np.arange(6))
    assert float(found.pairs) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_no_pairs_are_as_if_they_were_not_there(kind):
    pairs = random_pairs()
    some = pairs._replace(valid=jnp.array([True, False, True, True, False, True]))
    kept = np.array([0, 2, 3, 5])
    scale, bias = jnp.float32(7), jnp.float32(-3)
    wanted = plain_loss(kind, Pairs(*(array[kept] for array in pairs)), scale, bias)
    np.testing.assert_allclose(plain_loss(kind, some, scale, bias), wanted, rtol=1e-6)  # sums in another order
    nothing = plain_loss(kind, pairs._replace(valid=jnp.zeros(6, bool)), scale, bias)
    assert [float(value) for value in nothing] == [0, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_text_of_another_clip_is_not_wrong(kind):
    pairs = random_pairs()
    twins = pairs._replace(text=pairs.text.at[3].set(pairs.text[1]), label=pairs.label.at[3].set(1))
    scale, bias = jnp.float32(7), jnp.float32(-3)
    logits = np.float64(twins.image) @ np.float64(twins.text).T * 7 - 3
    out = logits.copy()
    out[1, 3] = out[3, 1] = -1e9  # neither counts against the other
    assert float(plain_loss(kind, twins, scale, bias).loss) == pytest.approx(by_hand(kind, out), rel=1e-5)
    assert float(plain_loss(kind, twins._replace(label=pairs.label), scale, bias).loss) == pytest.approx(
        by_hand(kind, logits), rel=1e-5
    )


def test_chunks_on_eight_devices_are_the_whole(eight_devices):
    found = eight_devices.run("tests.models.contrastive_on_eight")
    assert len(found) == 8
    for case, numbers in found.items():
        assert numbers["loss"] > 1, case
        # Float32's rounding of sums in another order; values are about 5.
        assert numbers["values"] < 1e-5, case
        assert numbers["gradients"] < 1e-5, case
        # One device along the batch axes has the whole matrix, which shows that it would be found.
        assert (numbers["largest"] >= numbers["whole"]) == (numbers["ways"] == 1), case
