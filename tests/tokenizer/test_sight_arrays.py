"""A sight that is kept and read again is the same wherever there is a token."""

import jax
import numpy as np
import pytest

from data_pipelines.encoded import ArraySpec, pack_clip, unpack_clip
from data_pipelines.schema import Record
from mmduplex_jax.clock import Clock
from mmduplex_jax.tokenizer.sight import see_clips
from mmduplex_jax.tokenizer.sight_arrays import batch_shapes, kept_rows, sight_arrays, sight_of, size_bytes
from tests import tiny

TICKS = 12


@pytest.mark.parametrize("kind", ["bflow", "uniform", "per_frame"])
def test_kept_and_read_again(kind):
    config = tiny.tokenizer(kind, flow=tiny.SCALED_FLOW)
    frames = tiny.clips(2, TICKS, busy=True)
    sight = jax.device_get(jax.jit(lambda f: see_clips(f, config))(frames))
    specs = [ArraySpec(*array) for array in sight_arrays(config, TICKS, {})]
    record = Record("clip", np.zeros((TICKS, 32, 32, 3), np.uint8), Clock())
    clips = [unpack_clip(pack_clip(record, range(TICKS), kept_rows(sight, b, config)), specs).arrays for b in (0, 1)]
    batch = {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
    shapes = batch_shapes(sight_arrays(config, TICKS, {}), 2)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in shapes.items()
    }
    assert size_bytes(sight_arrays(config, TICKS, {})) == sum(array[0].nbytes for array in batch.values())
    again = jax.device_get(sight_of(batch))
    np.testing.assert_array_equal(again.valid, sight.valid)
    for name in ("tick", "slot"):  # also where there is none, since steps are of all
        np.testing.assert_array_equal(getattr(again, name), getattr(sight, name))
    np.testing.assert_array_equal(again.anchors_before[sight.valid], sight.anchors_before[sight.valid])
    if sight.looks is not None:
        for b in range(2):
            there = sight.anchors_before[b].max()
            np.testing.assert_array_equal(again.looks[b, :there], sight.looks[b, :there])
            assert there > 0
    if sight.flow is not None:
        flow = sight.valid & (sight.slot >= config.anchor_tokens)
        assert flow.sum() > 10
        for ours, theirs in zip(again.flow, sight.flow):
            np.testing.assert_array_equal(ours[flow], theirs[flow])


def test_what_does_not_fit_is_not_kept():
    config = tiny.tokenizer()
    sight = jax.device_get(jax.jit(lambda f: see_clips(f, config))(tiny.clips(1, 4)))
    with pytest.raises(ValueError, match="more tokens than the budget's rule allows"):
        kept_rows(sight._replace(fits=np.zeros(1, bool)), 0, config)
    wide = sight.flow._replace(motion=sight.flow.motion + 40_000)
    first = np.maximum(sight.slot, config.anchor_tokens)  # all of them flow
    with pytest.raises(ValueError, match="sight_motion has values .* which 16 bits do not hold"):
        kept_rows(sight._replace(flow=wide, slot=first), 0, config)
