"""A model small enough for tests, with rings that wrap often, and clips in which things move."""

import functools
from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import frame_size
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.dual_stream import DualStream, DualStreamConfig
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.tokenizer.config import (
    AnchorConfig,
    BaselineConfig,
    BudgetConfig,
    FlowConfig,
    MotionConfig,
    StateConfig,
    TokenizerConfig,
)
from mmduplex_jax.towers.vision import VisionConfig
from tests import plain_code

VOCAB = 23
PAD, WORD, START = 20, 21, 22
# LLVM's own optimisation aside, which tells fused loops from others no more.
QUICKER = plain_code.OPTIMIZED | {"xla_backend_optimization_level": 0}
SCALED_FLOW = FlowConfig(crop_px=4, crop_scales=(1, 2, 3), patch_px=4, width=16)


def jit(function, **settings):
    """`jax.jit` of code that compiles sooner than users' does; in a test that is marked `optimized` fused as theirs."""
    return jax.jit(function, compiler_options=plain_code.options() or QUICKER, **settings)


def ids(vocab_size: int, pad_id: int, word_id: int, start_id: int, end_id: int | None = None) -> SimpleNamespace:
    """What a stage's task asks of a text tokenizer."""
    return SimpleNamespace(vocab_size=vocab_size, pad_id=pad_id, word_id=word_id, start_id=start_id, end_id=end_id)


def tokenizer(kind: str = "bflow", window_steps: int = 4, **changes) -> TokenizerConfig:
    """32-pixel frames, 32-wide tokens, a cap of 16 a second."""
    values = dict(
        kind=kind,
        frame_px=32,
        width=32,
        clock=Clock(),
        event=StackConfig(width=16, layers=1, heads=2, kv_heads=1, head_width=8, hidden=32, window_steps=window_steps),
        motion=MotionConfig(plane_px=16, search_radius=2),
        budget=BudgetConfig(
            tokens_per_s_max=16,
            flow_token_levels=(0, 1, 2),
            nms_radius_px=5,
            anchor_interval_min_s=1.2,
            anchor_interval_max_s=2.0,
        ),
        anchor=AnchorConfig(
            VisionConfig(image_px=32, patch_px=16, width=16, layers=1, heads=2, hidden=64, pool="none"), tokens=2
        ),
        flow=FlowConfig(crop_px=8, patch_px=8, width=16),
        state=StateConfig(slots=2, heads=2),
        baseline=BaselineConfig(grid_side=2, dense_tokens=3),
    )
    return TokenizerConfig(**(values | changes))


def dual_stream(fusion: str = "cross", kind: str = "bflow", **changes) -> DualStreamConfig:
    """A model with windows of 4, 6 and 10 steps, so that every ring wraps every second or so."""
    stack = dict(heads=2, kv_heads=1, head_width=8, hidden=32)
    values = dict(
        tokenizer=tokenizer(kind),
        video=StackConfig(width=16, layers=2, window_steps=6, **stack),
        text=StackConfig(
            width=16,
            layers=2,
            window_steps=10,
            num_sinks=2,
            cross_every=2 if fusion == "cross" else 0,
            cross_gate=0.7,
            **stack,
        ),
        fusion=fusion,
        vocab_size=VOCAB,
        pad_id=PAD,
        word_id=WORD,
        start_id=START,
        delay_max=6,
        vocab_multiple=8,
    )
    return DualStreamConfig(**(values | changes))


def clips(batch: int, ticks: int, side: int | tuple[int, int] = 32, seed: int = 0, busy: bool = False) -> np.ndarray:
    """uint8 `[B, T, H, W, 3]`: squares that move, rest and jump before noise, with a cut of the scene now and then.

    Busy ones never rest and turn back at the edges, so that the budget is spent.
    """
    rng = np.random.default_rng(seed)
    height, width = frame_size(side)
    frames, room = np.empty((batch, ticks, height, width, 3), np.uint8), np.array([height, width]) - height // 4
    size = height // 4
    for b in range(batch):
        background = rng.integers(60, 140, (height, width, 3), dtype=np.uint8)
        place, speed, colour = rng.uniform(0, room), rng.uniform(-3, 3, 2), rng.integers(0, 256, 3)
        for t in range(ticks):
            if rng.random() < 0.03:
                background = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            if rng.random() < 0.1:
                speed = rng.uniform(-3, 3, 2) * (rng.random() < 0.6 or busy)
            if busy:
                speed = np.where((place + speed < 0) | (place + speed > room), -speed, speed)
            place = np.clip(place + speed, 0, room)
            y, x = place.astype(int)
            frames[b, t] = background
            frames[b, t, y : y + size, x : x + size] = colour
    return frames


def compiled(make):
    """Keeps what `make(config)` gives: once as plain code, once as tests marked `optimized` have it."""
    kept = functools.cache(lambda config, plain: make(config))
    return functools.wraps(make)(lambda config: kept(config, plain_code.options() is not None))


@compiled
def offline(config: DualStreamConfig):
    """The compiled model over whole clips: `(params, frames, slots, delay) -> logits`."""
    return jit(lambda params, *inputs: DualStream(config).apply({"params": params}, *inputs)[0])


@compiled
def live_step(config: DualStreamConfig):
    """The compiled step of streams."""
    return jit(LiveModel(config).live_step)


@compiled
def init_state(config: DualStreamConfig):
    """`(params, batch) -> state` of streams that begin, compiled as one program: its operations are many."""
    return jit(LiveModel(config).init_state, static_argnums=1)


@compiled
def reset_row(config: DualStreamConfig):
    """`(params, state, row) -> state` in which the stream of a row begins anew, compiled as one program."""
    return jit(LiveModel(config).reset_row)


def random_params(init, seed: int = 0):
    """Parameters of the shapes that `init(key)` would make, drawn without compiling it.

    All are noise about what they would be at first (norms' scales about 1, the rest about 0), so that nothing hides
    behind a gate or a table of zeros.
    """
    shapes = nn.unbox(jax.eval_shape(init, jax.random.key(0)))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        # Kernels a little under unit gain, as trained ones are: at unit gain untrained tokens reach 14, where float32's
        # rounding through a softmax is over the 1e-5 that tests ask of values of the trained size.
        centre = 1.0 if path[-1].key == "scale" else 0.0
        spread = 0.4 * leaf.shape[0] ** -0.5 if path[-1].key == "kernel" else 0.05
        return (centre + spread * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def init(config: DualStreamConfig, ticks: int = 4, seed: int = 0):
    """Random parameters of a model."""
    frames = np.zeros((1, ticks, *config.tokenizer.frame_px, 3), np.uint8)
    slots, delay = np.zeros((1, ticks * config.clock.video_stride), np.int32), np.zeros(1, np.int32)
    return random_params(lambda key: DualStream(config).init(key, frames, slots, delay)["params"], seed)
