"""Bags of words: which words are in which, and that a bag has no order."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.stages.bflow.event_alignment import BagConfig, BagEncoder, Marks, gather_bags
from tests import tiny

PAD, WORD, START = 20, 21, 22
MARKS = Marks(PAD, WORD, START)
CONFIG = BagConfig(vocab_rows=24, width=16, heads=2, head_width=8, hidden=16, embedding=12)
CENTRES = np.array([-2, 4, 10, 16])
REACH = 4


def slots_of(words: dict[int, list[int]], length: int = 24) -> np.ndarray:
    """One row: each word's mark at its step, then its tokens."""
    row = np.full(length, PAD, np.int32)
    for step, tokens in words.items():
        row[step : step + 1 + len(tokens)] = [WORD, *tokens]
    return row


def test_a_word_is_in_the_bags_near_its_beginning():
    words = [{0: [3], 4: [5, 6, 7], 8: [1]}, {7: [2, 3], 14: [4], 20: [9]}]
    slots = np.stack([slots_of(row) for row in words])
    bags = gather_bags(slots, np.ones(slots.shape, bool), CENTRES, REACH, MARKS)
    for row, said in enumerate(words):
        for place, centre in enumerate(CENTRES):
            wanted = [token for step, tokens in said.items() if -REACH <= step - centre < REACH for token in tokens]
            assert slots[row][np.asarray(bags.member[row, place])].tolist() == wanted
            assert bool(bags.said[row, place]) == bool(wanted)
    assert bags.known.all()
    # The three tokens of the word at step 4 stay together although the last of them lies past the bag of its beginning.
    assert int(bags.member[0, 0].sum()) == 1
    assert int(bags.member[0, 1].sum()) == 4


def test_a_sentence_end_is_no_word():
    slots = slots_of({4: [5]})[None]
    slots[0, 6] = 23
    known = np.ones(slots.shape, bool)
    member = gather_bags(slots, known, CENTRES, REACH, dataclasses.replace(MARKS, end_id=23)).member
    np.testing.assert_array_equal(member, gather_bags(slots_of({4: [5]})[None], known, CENTRES, REACH, MARKS).member)


def test_what_is_not_known_is_no_silence():
    slots = slots_of({4: [5], 15: [6]})[None]
    valid = np.ones(slots.shape, bool)
    valid[0, 10] = False
    bags = gather_bags(slots, valid, CENTRES, REACH, MARKS)
    assert bags.known[0].tolist() == [True, True, False, True]
    assert bags.said[0].tolist() == [False, True, False, True]
    # The end of a word that began before the clip belongs to no bag.
    cut = np.full((1, 24), PAD, np.int32)
    cut[0, :2] = 7
    assert not gather_bags(cut, np.ones(cut.shape, bool), CENTRES, REACH, MARKS).member.any()


def test_bags_of_the_same_words_have_the_same_label():
    slots = np.stack([slots_of({0: [3], 3: [4, 5]}), slots_of({1: [4, 5], 5: [3]}), slots_of({0: [3], 3: [4, 4]})])
    label = gather_bags(slots, np.ones(slots.shape, bool), np.array([3]), REACH, MARKS).label[:, 0]
    assert label[0] == label[1] != label[2]
    rng = np.random.default_rng(0)
    many = np.stack([slots_of({0: rng.integers(0, 20, 4).tolist()}) for _ in range(500)])
    labels = gather_bags(many, np.ones(many.shape, bool), np.array([2]), REACH, MARKS).label[:, 0]
    assert len(set(labels.tolist())) == len({tuple(sorted(row[1:5])) for row in many.tolist()}) > 450


def test_a_bag_has_no_order_and_sees_nothing_else():
    encoder = BagEncoder(CONFIG)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 20, (2, 10)).astype(np.int32)
    member = np.zeros((2, 3, 10), bool)
    member[:, 0, :4], member[:, 1, 3:9] = True, True
    params = tiny.random_params(lambda key: encoder.init(key, ids, member)["params"])
    embed = functools.partial(jax.jit(lambda p, i, m: encoder.apply({"params": p}, i, m)), params)
    out = embed(ids, member)
    np.testing.assert_allclose(jnp.linalg.norm(out, axis=-1), 1, rtol=1e-6)
    order = rng.permutation(10)
    np.testing.assert_allclose(embed(ids[:, order], member[..., order]), out, atol=1e-6)  # sums in another order
    other = ids.copy()
    other[:, 4:] = (other[:, 4:] + 1) % 20
    again = embed(other, member)
    np.testing.assert_array_equal(again[:, 0], out[:, 0])
    assert (jnp.abs(again - out)[:, 1].max(axis=-1) > 1e-3).all()
    np.testing.assert_array_equal(out[:, 2], jnp.full((2, 12), 12**-0.5))


def test_an_empty_bag_has_a_gradient():
    encoder = BagEncoder(CONFIG)
    ids, member = np.zeros((1, 4), np.int32), np.zeros((1, 2, 4), bool)
    member[0, 1, 0] = True
    params = tiny.random_params(lambda key: encoder.init(key, ids, member)["params"])
    grads = jax.jit(jax.grad(lambda p: encoder.apply({"params": p}, ids, member)[..., 0].sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
