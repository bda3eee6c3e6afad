"""The loss in chunks is the loss at once, forwards and backwards, and holds no more than a chunk's logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.layers.vocabulary import token_loss, token_loss_of

BATCH, LENGTH, WIDTH, WORDS = 3, 23, 16, 501


def inputs():
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.standard_normal((BATCH, LENGTH, WIDTH)), jnp.float32)
    table = jnp.asarray(rng.standard_normal((WORDS, WIDTH)), jnp.float32)
    return hidden, table, jnp.asarray(rng.integers(0, WORDS, (BATCH, LENGTH)), jnp.int32)


def test_by_hand():
    nll, correct = token_loss(jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]])), jnp.array([[0, 1]]))
    np.testing.assert_allclose(nll, [[np.log(2), np.log(5)]], rtol=1e-6)
    assert correct.tolist() == [[True, False]]


@pytest.mark.parametrize("chunk", [0, 1, 5, 22, 23, 100])
def test_chunks_change_nothing(chunk):
    hidden, table, ids = inputs()
    weight = jnp.asarray(np.random.default_rng(1).random((BATCH, LENGTH)), jnp.float32)

    def loss(hidden, table, chunk):
        nll, correct = token_loss_of(hidden, table, ids, chunk)
        return (nll * weight).sum(), correct

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)
    (found, correct), gradient = run(hidden, table, chunk)
    logits = np.asarray(hidden, np.float64) @ np.asarray(table, np.float64).T
    right = np.take_along_axis(logits, np.asarray(ids)[..., None], -1)[..., 0]
    expected = ((np.log(np.exp(logits).sum(-1)) - right) * weight).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(correct, logits.argmax(-1) == ids)
    (_, _), whole = run(hidden, table, 0)
    # 1e-5: the table's gradient is added up over chunks in another order.
    for ours, theirs in zip(gradient, whole):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_whole_logits_are_never_there():
    hidden, table, ids = inputs()

    def sizes(chunk):
        step = jax.jit(jax.grad(lambda h, t: token_loss_of(h, t, ids, chunk)[0].sum(), argnums=(0, 1)))
        return step.lower(hidden, table).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * BATCH * LENGTH * WORDS
    assert sizes(0) > logits
    assert sizes(2) < 0.7 * logits


def test_a_negative_chunk_is_refused():
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        token_loss_of(*inputs(), chunk=-1)
