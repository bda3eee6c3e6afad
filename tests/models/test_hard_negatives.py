"""Hard negatives: which clips, played how, and which of their moments could be mistaken for which."""

import numpy as np
import pytest

from mmduplex_jax.stages.bflow.event_alignment import backwards, choose_rows, known_end, mirrored_moments


def test_every_nth_clip_is_imitated():
    rows = choose_rows(8, 2, 4)
    assert rows.backward.tolist() == [0, 2, 4, 6]
    assert rows.swapped.tolist() == [1, 5]
    assert [len(kind) for kind in choose_rows(8, 0, 0)] == [0, 0]
    assert choose_rows(1, 1, 0).backward.tolist() == [0]
    with pytest.raises(ValueError, match="a batch of one clip has no other whose motion it could have"):
        choose_rows(1, 0, 4)


def test_a_clip_is_played_backwards_up_to_its_end():
    frames = np.arange(2 * 5, dtype=np.uint8).reshape(2, 5, 1, 1, 1) * np.ones((1, 1, 2, 2, 3), np.uint8)
    out = np.asarray(backwards(frames, np.array([5, 3])))
    assert out[:, :, 0, 0, 0].tolist() == [[4, 3, 2, 1, 0], [7, 6, 5, 8, 9]]
    assert out.dtype == np.uint8


def test_moments_are_found_again_in_the_mirror():
    # The last frame of the first clip is at step 20: what is at step 4 is at step 16 backwards, and is seen by who
    # stands there or less than 8 steps later.
    seen = np.asarray(mirrored_moments(np.array([4, 18]), np.array([3, 11, 19, 27]), np.array([20, 12]), 8))
    assert seen.tolist() == [
        [[False, False, True, False], [True, False, False, False]],
        [[False, True, False, False], [False, False, False, False]],  # step 18 lies past the second clip's end
    ]


def test_a_clip_ends_where_nothing_is_known_any_more():
    valid = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
    assert known_end(valid, 2).tolist() == [3, 2, 0]
