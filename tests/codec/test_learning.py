"""Codebooks that are moving averages, and the quantiser's training pass, against the plain arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.codec.codec import Codec
from mmduplex_jax.codec.quantizer import Codebooks, Seen, moved, together
from tests.codec.tiny_codec import CONFIG, random_params
from tests.tiny import jit

BATCH, STEPS = 3, 5
SEMANTIC, TOTAL = CONFIG.semantic_codebooks, CONFIG.codebooks


@pytest.fixture(scope="module")
def params():
    return random_params()


@pytest.fixture(scope="module")
def latents():
    return np.random.default_rng(3).standard_normal((BATCH, STEPS, CONFIG.width)).astype(np.float32)


@jit
def learn(params, latents, codebooks, exact, valid):
    """What the quantiser gives, and the gradient of the sum of its latents."""
    run = lambda x: Codec(CONFIG).apply(
        {"params": params}, x, method=lambda c, x: c.quantizer.learn(x, codebooks, exact, valid, jax.random.key(7))
    )
    gradient = jax.grad(lambda x: run(x)[0].sum())(latents)
    return *run(latents), gradient


@jit
def plain(params, latents):
    """Codes, the latents of the codes, of the first three, of the semantic ones, and of none."""

    def both(codec, x):
        codes = codec.quantizer.encode(x)
        some = [codec.quantizer.decode(codes[..., :count]) for count in (TOTAL, 3, SEMANTIC)]
        return codes, *some, codec.quantizer.unquantized(x)

    return Codec(CONFIG).apply({"params": params}, latents, method=both)


def test_rows_are_quantised_by_as_many_codebooks_as_they_are_told(params, latents):
    codes, everything, three, _, exact = plain(params, latents)
    found, _, learned, seen, _ = learn(
        params, latents, jnp.array([TOTAL, 3, 3]), jnp.array([False, False, True]), jnp.ones(BATCH, bool)
    )
    np.testing.assert_array_equal(learned, codes)
    for row, wanted in enumerate((everything, three, exact)):
        np.testing.assert_allclose(found[row], wanted[row], atol=1e-5)  # x + (q - x) in float32
    assert {name: books.counts.sum(axis=1).tolist() for name, books in seen.items()} == {
        "semantic": [BATCH * STEPS] * SEMANTIC,
        "acoustic": [BATCH * STEPS] * (TOTAL - SEMANTIC),
    }


def test_gradients_pass_straight_through(params, latents):
    *_, gradient = learn(params, latents, jnp.array([TOTAL, 1, 2]), jnp.zeros(BATCH, bool), jnp.ones(BATCH, bool))
    parts = params["quantizer"].values()
    wanted = sum(part["project_in"]["kernel"] @ part["project_out"]["kernel"].sum(axis=1) for part in parts)
    np.testing.assert_allclose(gradient, np.broadcast_to(wanted, latents.shape), rtol=1e-4, atol=1e-5)


def test_what_is_seen_is_of_rows_that_count(params, latents):
    valid = jnp.array([True, False, True])
    _, commitment, codes, seen, _ = learn(params, latents, jnp.full(BATCH, TOTAL), jnp.zeros(BATCH, bool), valid)
    distances, column = [], 0
    for name in ("semantic", "acoustic"):
        part, books = params["quantizer"][name], seen[name]
        left = (latents @ np.asarray(part["project_in"]["kernel"], np.float64))[np.asarray(valid)]
        for sums, usage, *found in zip(part["sums"], part["usage"], *books):
            book = np.asarray(sums, np.float64) / np.asarray(usage)[:, None]
            code = np.asarray(codes)[np.asarray(valid), :, column]
            one_hot = np.eye(CONFIG.codebook_size)[code.ravel()]
            flat = left.reshape(-1, CONFIG.codebook_width)
            np.testing.assert_allclose(found[0], one_hot.T @ flat, atol=1e-4)
            np.testing.assert_array_equal(found[1], one_hot.sum(axis=0))
            nearest = np.abs(np.asarray(found[2])[:, None] - flat).max(axis=-1).min(axis=1)
            np.testing.assert_allclose(nearest, 0, atol=1e-4)  # each drawn vector is one of the batch
            assert found[3] == 2 * STEPS
            distances.append(np.square(left - book[code]).mean())
            left, column = left - book[code], column + 1
    assert commitment == pytest.approx(np.mean(distances), rel=1e-4)


# Of one shape, so that what they are given to is compiled once: three codebooks of four entries.
_moved, _together = jit(moved), jit(together)


def move(*arguments):
    return jax.device_get(_moved(*arguments))


def join(*arguments):
    return jax.device_get(_together(*arguments))


def books(usage, initialized=(1, 1, 1)):
    """Codebooks whose entries are their own places, used so often."""
    usage = np.broadcast_to(np.asarray(usage, np.float32), (3, 4))
    values = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    return Codebooks(values * usage[..., None], usage, np.asarray(initialized, np.float32))


def seen(counts, vectors=8.0):
    """So often was asked for each, by vectors of hundreds; those drawn are -1."""
    counts = np.broadcast_to(np.asarray(counts, np.float32), (3, 4))
    return Seen(
        100 * np.repeat(counts[..., None], 2, -1),
        counts,
        np.full((3, 4, 2), -1, np.float32),
        np.full(3, vectors, np.float32),
    )


def entries(state: Codebooks) -> np.ndarray:
    return np.asarray(state.sums) / np.maximum(np.asarray(state.usage), 1e-5)[..., None]


def test_averages_move_and_entries_that_are_hardly_used_begin_anew():
    before = books([4.0, 4.0, 0.3, 4.0])
    after = move(before, seen([6.0, 2.0, 0.0, 0.0]), 0.9, 0.1)
    usage = np.array([0.9 * 4 + 0.6, 0.9 * 4 + 0.2, 0.27, 3.6])
    for book in range(3):
        np.testing.assert_allclose(after.usage[book][[0, 1, 3]], usage[[0, 1, 3]], rtol=1e-6)
        assert after.usage[book][2] == pytest.approx(usage.mean())
        np.testing.assert_allclose(after.sums[book][0], 0.9 * before.sums[book][0] + 0.1 * 600, rtol=1e-6)
        np.testing.assert_allclose(entries(after)[book][2], [-1, -1], rtol=1e-6)
        np.testing.assert_allclose(entries(after)[book][3], entries(before)[book][3], rtol=1e-6)


def test_codebooks_begin_one_after_the_other():
    state = books(0.0, (0, 0, 0))
    for step in range(3):
        state = move(state, seen(1.0), 0.9, 0.0)
        assert state.initialized.tolist() == [1.0] * (step + 1) + [0.0] * (2 - step)
        np.testing.assert_allclose(entries(state)[step], -1)  # what was drawn
        assert not np.asarray(state.usage[step + 1 :]).any()
    np.testing.assert_allclose(state.usage[2], 2)  # as often as the batch would use each of four


def test_a_batch_without_sound_moves_no_entry():
    before = books([4.0, 0.1, 4.0, 4.0])
    after = move(before, seen(0.0, vectors=0.0), 0.9, 0.5)
    np.testing.assert_allclose(entries(after), entries(before), rtol=1e-6)
    assert not np.asarray(move(books(0.0, (0, 0, 0)), seen(0.0, vectors=0.0), 0.9, 0.5).initialized).any()


def test_microbatches_are_summed():
    one, other = seen([1.0, 2.0, 0.0, 0.0]), seen([3.0, 0.0, 0.0, 1.0], vectors=4.0)
    other = other._replace(drawn=np.full((3, 4, 2), 5, np.float32))
    both = join(one, other)
    assert both.counts[0].tolist() == [4.0, 2.0, 0.0, 1.0]
    assert both.vectors.tolist() == [12.0] * 3
    np.testing.assert_array_equal(both.drawn, other.drawn)
    nothing = jax.tree.map(np.zeros_like, one)
    jax.tree.map(np.testing.assert_array_equal, join(nothing, one), one)
    jax.tree.map(np.testing.assert_array_equal, join(one, nothing), one)
