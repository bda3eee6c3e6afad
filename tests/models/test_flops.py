"""The operations that are counted by hand are those of the traced gradient, and XLA's own count agrees."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from configs import bflow_events_75m, clip_s16, duplex_300m, vlm_single_token
from mmduplex_jax.clock import Clock
from mmduplex_jax.models.event_memory import MemoryConfig
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.planning.traced import trace
from mmduplex_jax.stages import flops
from mmduplex_jax.stages.config_file import load_config
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.train.optimizer import make_groups
from mmduplex_jax.train.step import abstract_params
from mmduplex_jax.weights.trained import load_tokenizer
from tests import tiny

MEMORY = MemoryConfig(
    clock=Clock(), period_ticks=3, capacity_steps=50, recent_steps=8, heads=2, kv_heads=1, head_width=8
)
# Few layers at full width: what a layer costs does not depend on how many there are.
_SHALLOW = {"layers": 2}
# What is left out of the count (norms, softmax, rotary turns), as a share of XLA's; the bound.
_LEFT_OUT = 0.02


def full_width(stage: str, fusion: str = "cross"):
    """A full-size config with few layers, none scanned or computed again."""
    if stage == "duplex":
        c = duplex_300m.get_config()
        c.fusion = fusion
        c.text.update(_SHALLOW, cross_every=2, scan=False, remat=False)
        c.video_stream.update(_SHALLOW, scan=False, remat=False)
    elif stage == "bflow":
        c = bflow_events_75m.get_config()
    elif stage == "vlm":
        c = vlm_single_token.get_config()
        c.text.update(_SHALLOW, scan=False, remat=False)
        c.vision.update(_SHALLOW)
    else:
        c = clip_s16.get_config()
        c.vision.update(_SHALLOW, remat=False)
        c.text.update(_SHALLOW)
    if stage in ("duplex", "bflow"):
        c.tokenizer.event.update(_SHALLOW, remat=False)
        c.tokenizer.flow.update(_SHALLOW, remat=False)
        c.tokenizer.anchor.tower.update(_SHALLOW, remat=False)
    return c


def gradient_of(config):
    """A task, the gradient of what of it is trained, and its abstract arguments but for the batch and the key."""
    task = build_task(config, load_tokenizer(config))
    boxed = abstract_params(task)
    groups = make_groups(config.train, boxed)

    def gradient(trained, kept, batch, key):
        return jax.grad(lambda trained: task.loss(groups.join(trained, kept), batch, key), has_aux=True)(trained)

    return task, gradient, groups.split(nn.unbox(boxed))


def shift_search_trips(task, rows: int) -> float:
    """Operations of the motion search in all trips of its loop but the first, which are those that XLA counts."""
    if not hasattr(task.config, "tokenizer"):
        return 0.0
    motion = task.config.tokenizer.motion
    tries = (2 * motion.search_radius + 1) ** 2
    clips = rows if not hasattr(task.config, "align") else rows + rows // 4 + rows // 8
    return clips * task.ticks * flops.motion(motion).total * (tries - 1) / (tries + 1)


STAGES = [("duplex", "cross"), ("duplex", "sum"), ("duplex", "interleave"), ("bflow", ""), ("vlm", ""), ("clip", "")]


@pytest.mark.parametrize(("stage", "fusion"), STAGES)
@pytest.mark.slow
def test_xla_counts_as_much_at_full_width(stage: str, fusion: str):
    rows = 8
    task, gradient, shapes = gradient_of(full_width(stage, fusion))
    key = jax.random.key(0)
    found = jax.jit(gradient).lower(*shapes, task.example_batch(rows), key).cost_analysis()
    assert found is not None
    counted = task.flops_per_step(rows) - shift_search_trips(task, rows)
    assert counted == pytest.approx(found["flops"], rel=_LEFT_OUT)
    traced = trace(gradient, *shapes, task.example_batch(rows), key).flops
    # Two sums of the same integers: float64 is exact far beyond them.
    assert task.flops_per_step(rows) == pytest.approx(traced, rel=1e-12)


def small(stage: str):
    """A quick start with few layers, whose every part is there."""
    config = load_config(f"configs/{stage}_quickstart.py" if stage != "duplex" else "configs/quickstart.py")
    if stage in ("duplex", "memory", "bflow"):
        config.data.clip_s = 2.56
        config.tokenizer.anchor.tower.layers = 1
    if stage in ("duplex", "memory"):
        config.text.layers = 2
    return config


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("duplex", {}),
        ("duplex", {"fusion": "sum", "loss.future_word_weight": 0.0}),
        ("duplex", {"fusion": "interleave", "text.num_sinks": 0}),
        ("duplex", {"tokenizer.kind": "uniform", "text.scan": True, "video_stream.remat": False}),
        ("memory", {}),
        ("memory", {"fusion": "interleave", "text.num_sinks": 0}),
        ("bflow", {"counterfeits.swapped_every": 0}),
        ("vlm", {"projector.tokens": 2}),
        ("clip", {}),
    ],
)
def test_every_product_of_the_gradient_is_counted(stage: str, changes: dict):
    config = small(stage)
    config.update_from_flattened_dict(changes)
    task, gradient, shapes = gradient_of(config)
    traced = trace(gradient, *shapes, task.example_batch(4), jax.random.key(0))
    assert task.flops_per_step(4) == pytest.approx(traced.flops, rel=1e-12)


def test_a_loss_in_chunks_computes_its_logits_again_and_that_is_not_the_model_s():
    config = small("duplex")
    config.loss.update(future_word_weight=0.0, chunk=8)  # of 32 steps
    task, gradient, shapes = gradient_of(config)
    traced = trace(gradient, *shapes, task.example_batch(4), jax.random.key(0)).flops
    again = flops.product(4 * task.steps, config.text.width, task.config.language.rows).forward
    assert traced - task.flops_per_step(4) == pytest.approx(again, rel=1e-9)


def test_what_is_computed_again_does_not_count_as_the_model_s():
    config = small("clip")
    config.vision.remat = True
    task, gradient, shapes = gradient_of(config)
    traced = trace(gradient, *shapes, task.example_batch(4), jax.random.key(0)).flops
    again = traced - task.flops_per_step(4)
    towers = 4 * task.time.frames * flops.vision(task.config.vision).forward
    assert 0.5 * towers < again < towers


@pytest.mark.parametrize(
    ("fusion", "memory"), [("cross", None), ("sum", None), ("interleave", None), ("cross", MEMORY)]
)
def test_a_live_step_costs_what_is_counted(fusion: str, memory: MemoryConfig | None):
    config = tiny.dual_stream(fusion, memory=memory)
    live, ones = LiveModel(config), np.ones(1, np.int32)
    shapes = nn.unbox(jax.eval_shape(lambda: tiny.init(config)))
    state = jax.eval_shape(lambda params: live.init_state(params, 1), shapes)
    side = config.tokenizer.frame_px
    frame = np.zeros((1, side, side, 3), np.uint8)
    traced = trace(live.live_step, shapes, state, frame, ones > 0, ones, ones.astype(np.float32)).flops
    assert traced == pytest.approx(sum(part.total for part in flops.live_tick(config).values()), rel=1e-12)


def test_a_stack_by_hand():
    config = tiny.dual_stream().text
    width, heads, kv = config.width, config.heads * config.head_width, config.kv_heads * config.head_width
    layer = 2 * 3 * width * (2 * heads + 2 * kv + 3 * config.hidden) + 2 * 2 * 3 * 5 * heads + 2 * 3 * heads * 2
    cross = 2 * 3 * width * 2 * heads + 2 * 2 * 3 * 7 * heads
    found = flops.stack(config, positions=3, seen=5, cross_seen=7)
    assert (found.forward, found.backward) == (2 * layer + cross, 2 * (2 * layer + cross))
