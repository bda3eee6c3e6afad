"""A model of stage `bflow` that is small enough for tests."""

import functools

import jax
import numpy as np

from configs import bflow_quickstart
from mmduplex_jax.stages.bflow.task import BFlowTask
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.weights.trained import load_tokenizer
from tests import tiny


def config(variant: str = ""):
    """The quick start's with 32-pixel frames, clips of 5.12 s and few numbers."""
    c = bflow_quickstart.get_config(variant)
    c.frame_px = (32, 32)
    c.data.update(clip_s=5.12, batch_size=4)
    t = c.tokenizer
    t.width = 32
    t.motion.update(plane_px=(16, 16), search_radius=2)
    t.budget.update(
        tokens_per_s_max=16,
        flow_token_levels=(0, 1, 2),
        nms_radius_px=5,
        anchor_interval_min_s=1.2,
        anchor_interval_max_s=2.0,
    )
    t.anchor.update(tokens=2)
    t.anchor.tower.update(patch_px=16, width=16, layers=1, heads=2, hidden=32)
    t.flow.update(crop_px=8, patch_px=8, width=16)
    t.state.update(slots=2, heads=2)
    t.event.update(layers=1, width=16, heads=2, kv_heads=1, head_width=8, hidden=32, window_s=0.64)
    c.events.reader.update(window_s=1.92, queries=2, heads=2, head_width=8, hidden=32)
    c.words.update(width=16, heads=2, head_width=8, hidden=32)
    c.align.update(embedding=16)
    c.prediction.update(places=2, picture_px=(4, 4))
    c.prediction.reader.update(queries=1, heads=2, head_width=8, hidden=32)
    c.teacher.update(patch_px=16, width=16, layers=1, heads=2, hidden=32, projection=8)
    return c


def task(variant: str = "", **changes) -> BFlowTask:
    """Its task; changes name fields of the config, dots as `__` (`loss__predict="none"`)."""
    c = config(variant)
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    built = build_task(c, load_tokenizer(c))
    assert isinstance(built, BFlowTask)
    return built


@functools.cache
def plain() -> tuple[BFlowTask, dict]:
    """The task without changes, and random parameters of it."""
    built = task()
    return built, tiny.random_params(built.init)


def batch(built: BFlowTask, rows: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Clips in which things move, of which a word is said every second or so."""
    rng = np.random.default_rng(seed)
    marks, shapes = built.config.marks, built.example_batch(rows)
    slots = np.full(shapes["slots"].shape, marks.pad_id, np.int32)
    for row in range(rows):
        for step in range(int(rng.integers(0, 6)), slots.shape[1] - 2, 9):
            slots[row, step : step + 2] = marks.word_id, rng.integers(0, marks.pad_id)
    return {
        "frames": tiny.clips(rows, built.ticks, 32, seed, busy=True),
        "slots": slots,
        "slot_valid": np.ones(slots.shape, bool),
    }


@functools.cache
def jitted_loss(built: BFlowTask):
    """`(params, batch, key) -> ((loss, metrics), gradients)`, compiled."""
    return jax.jit(jax.value_and_grad(built.loss, has_aux=True))
