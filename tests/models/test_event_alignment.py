"""The alignment of event tokens and bags against a loop over everything that is compared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.stages.bflow.event_alignment import Bags, HardNegatives, align, compared_bags

BATCH, MOMENTS, WIDTH, SCALE = 3, 4, 6, 5.0
CENTRES = np.array([0, 12, 24, 36])
APART = 20


def unit(rng, *shape):
    x = rng.normal(size=(*shape, WIDTH))
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    known = rng.random((BATCH, MOMENTS)) < 0.9
    said = known & (rng.random((BATCH, MOMENTS)) < 0.8)
    label = np.where(said, rng.integers(0, 9, (BATCH, MOMENTS)), 0).astype(np.int32)
    bags = Bags(jnp.zeros((BATCH, MOMENTS, 1), bool), jnp.asarray(said), jnp.asarray(known), jnp.asarray(label))
    backward = HardNegatives(unit(rng, 2, MOMENTS), np.array([0, 2]), rng.random((2, MOMENTS, MOMENTS)) < 0.5)
    swapped = HardNegatives(unit(rng, 1, MOMENTS), np.array([1]), np.eye(MOMENTS, dtype=bool)[None])
    return unit(rng, BATCH, MOMENTS), unit(rng, BATCH, MOMENTS), bags, (backward, swapped)


def by_hand(event, bag, bags, hard_negatives):
    """Every sum written out, in float64."""
    event, bag = event.astype(float), bag.astype(float)
    places = [(clip, moment) for clip in range(BATCH) for moment in range(MOMENTS)]
    said, known, label = (np.asarray(part) for part in (bags.said, bags.known, bags.label))

    def counts(of_event, of_bag):
        if not known[of_event] or not said[of_bag]:
            return False
        if of_event == of_bag:
            return True
        if said[of_event] and label[of_event] == label[of_bag]:
            return False
        return of_event[0] != of_bag[0] or abs(CENTRES[of_event[1]] - CENTRES[of_bag[1]]) >= APART

    losses, matched, in_video = [], [], []
    for place in (place for place in places if said[place]):
        mine = SCALE * event[place] @ bag[place]
        among_bags = [SCALE * event[place] @ bag[other] for other in places if counts(place, other)]
        others = [SCALE * event[other] @ bag[place] for other in places if other != place and counts(other, place)]
        fakes = [
            SCALE * kind.event[row, other] @ bag[place]
            for kind in hard_negatives
            for row in range(len(kind.row))
            for other in range(MOMENTS)
            if kind.row[row] == place[0] and kind.against[row, place[1], other]
        ]
        rows = np.log(np.exp(among_bags).sum()) - mine
        columns = np.log(np.exp([mine, *others, *fakes]).sum()) - mine
        losses.append((rows + columns) / 2)
        matched.append(mine > max(others))
        in_video.append(sum(other[0] == place[0] and other != place and counts(other, place) for other in places))
    return np.mean(losses), np.mean(matched), np.mean(in_video)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_mean_over_what_is_said(seed):
    event, bag, bags, hard_negatives = batch(seed)
    found = jax.jit(lambda e, b: align(e, b, bags, CENTRES, APART, hard_negatives, SCALE))(event, bag)
    loss, matched, in_video = by_hand(event, bag, bags, hard_negatives)
    np.testing.assert_allclose(found.loss, loss, rtol=1e-6)
    assert float(found.moments) == int(bags.said.sum())
    np.testing.assert_allclose(found.matched, matched, rtol=1e-6)
    np.testing.assert_allclose(found.in_video, in_video, rtol=1e-6)
    for kind, refused in zip(hard_negatives, found.refused):
        wins = []
        for row, clip in enumerate(kind.row):
            for moment in np.flatnonzero(np.asarray(bags.said[clip]) & kind.against[row].any(axis=1)):
                fakes = kind.event[row][kind.against[row, moment]] @ bag[clip, moment]
                wins.append(event[clip, moment] @ bag[clip, moment] > fakes.max())
        np.testing.assert_allclose(refused, np.mean(wins), rtol=1e-6)


def test_near_moments_and_the_same_words_are_neither_right_nor_wrong():
    said = np.ones((2, MOMENTS), bool)
    label = np.arange(8).reshape(2, MOMENTS).astype(np.int32)
    label[1, 3] = label[0, 0]
    bags = Bags(jnp.zeros((2, MOMENTS, 1), bool), jnp.asarray(said), jnp.asarray(said), jnp.asarray(label))
    compared = np.asarray(compared_bags(bags, CENTRES, APART))
    # Of a clip: itself, and those two or more places away (24 steps; 12 are nearer than the band of 20).
    wanted = [[1, 0, 1, 1], [0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 1]]
    assert compared[0, :, 0].astype(int).tolist() == wanted
    assert not compared[0, 0, 1, 3]
    assert not compared[1, 3, 0, 0]
    assert compared[0, :, 1].sum() == 15
    wider = np.asarray(compared_bags(bags, CENTRES, 25))
    assert wider[0, :, 0].sum() == 4 + 2


def test_a_moment_that_is_not_known_takes_no_part():
    event, bag, bags, hard_negatives = batch()
    known = np.asarray(bags.known).copy()
    assert bags.said[1, 2]
    known[1, 2] = False
    fewer = bags._replace(known=jnp.asarray(known), said=bags.said & known)
    loss = lambda e, b: align(e, b, fewer, CENTRES, APART, hard_negatives, SCALE).loss
    event_grad, bag_grad = jax.jit(jax.grad(loss, argnums=(0, 1)))(event, bag)
    assert not event_grad[1, 2].any()
    assert not bag_grad[1, 2].any()
    assert event_grad[0, 0].any()


def test_nothing_said_is_no_loss():
    event, bag, bags, hard_negatives = batch()
    silent = bags._replace(said=jnp.zeros_like(bags.said))
    loss = lambda e: align(e, bag, silent, CENTRES, APART, hard_negatives, SCALE).loss
    value, grad = jax.jit(jax.value_and_grad(loss))(event)
    assert float(value) == 0
    assert not grad.any()


def test_the_right_answer_lowers_it():
    """Event tokens that are their bags, and hard negatives that are other things, leave little to be surprised at."""
    _, bag, bags, hard_negatives = batch()
    judge = jax.jit(lambda b, fakes: align(b, b, bags, CENTRES, APART, fakes, 50.0))
    good = judge(bag, hard_negatives)
    assert float(good.matched) == float(good.in_video_matched) == 1
    fooled = tuple(kind._replace(event=bag[kind.row]) for kind in hard_negatives)
    assert float(judge(bag, fooled).loss) > float(good.loss) + 0.1
    assert float(judge(bag, fooled).refused[1]) == 0
