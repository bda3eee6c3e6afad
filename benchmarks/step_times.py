"""How long a live step takes: of the text stream alone, and of the whole model between ticks and on them.

These are our steppers (`benchmarks.stepper`); those of others are in `benchmarks.torch_peers`.
"""

import dataclasses
import time
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from benchmarks.stepper import Arms, Stepper
from data_pipelines.world import WorldConfig, make_clip
from mmduplex_jax.commentator import Commentator
from mmduplex_jax.layers.kv_cache import KVCache
from mmduplex_jax.models.dual_stream import LiveState
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.streaming.batch import UNCAPPED, StreamBatch
from mmduplex_jax.typing import Array, PyTree

# Clips of the world that streams share out among them.
_CLIPS = 8


def with_every_row(model: Commentator) -> Commentator:
    """The same with as many words as its table has rows; where they are fewer, a compiler leaves the other rows out.

    A random model's tokenizer is the world's, of few words; the table is as large as that of the model it stands for.
    """
    live = model.live
    return dataclasses.replace(
        model, live=LiveModel(dataclasses.replace(live.config, vocab_size=live.config.language.rows))
    )


def world_frames(model: Commentator, clips: int) -> np.ndarray:
    """uint8 `[clips, T, H, W, 3]`: the world's rich look, of the model's size."""
    config = WorldConfig(look="rich", frame_px=model.config.frame_px)
    return np.stack([make_clip(config, 0, index).frames for index in range(clips)])


def whole_stepper(model: Commentator, batch: int) -> Stepper:
    """The model's live step, as a pool dispatches it, every row active: `tick` (with a frame) and `between` (text)."""
    rows = StreamBatch(model.live, model.params, model.config.frame_px, count=batch)
    delay_steps = model.config.delay.eval
    rows.configure(np.full(batch, delay_steps), np.zeros(batch), np.full(batch, UNCAPPED))
    stride = model.clock.video_stride
    clips = min(batch, _CLIPS)
    frames = rearrange(world_frames(model, clips)[np.arange(batch) % clips], "b t h w c -> t b h w c")
    active = np.ones(batch, bool)
    sent, done = rows.send(np.ascontiguousarray(frames[0])), 0

    def step() -> str:
        nonlocal sent, done
        is_tick = done % stride == 0
        if is_tick:
            sent = rows.send(np.ascontiguousarray(frames[done // stride % len(frames)]))
        rows.step(sent, active, with_report=is_tick).read()
        done += 1
        return "tick" if is_tick else "between"

    shares = {"tick": 1 / stride, "between": 1 - 1 / stride} if stride > 1 else {"tick": 1.0}
    return Stepper(shares, lambda: nullcontext(step), rows.compile_s)


def text_stepper(model: Commentator, batch: int, watched_s: float = 0.0) -> Stepper:
    """The text stream's step alone, its rings of video in place: what a language model of that shape costs, live.

    Args:
      model: whose text stream.
      watched_s: how long they have been watching; their rings are filled accordingly, with noise.
    """
    live = model.live
    if not isinstance(live, LiveModel):
        raise TypeError(f"a LiveModel is needed, got {type(live).__name__}")
    module = live.module

    def take(params: PyTree, state: Any, delay: Array, active: Array) -> tuple[Any, Array]:
        state, logits = module.apply({"params": params}, state, delay, active, method="text_step")
        token = jnp.argmax(logits.at[:, live.config.start_id].set(-jnp.inf), axis=-1).astype(jnp.int32)
        return state._replace(token=token), token

    params = jax.device_put(model.params)
    state = jax.jit(lambda p: live.init_state(p, batch))(params)
    if watched_s:
        state = watched(live, state, watched_s)
    settings = jax.device_put((np.full(batch, model.config.delay.eval, np.int32), np.ones(batch, bool)))
    started_s = time.perf_counter()
    compiled = jax.jit(take, donate_argnums=1).lower(params, state, *settings).compile()
    compile_s = time.perf_counter() - started_s

    def step() -> str:
        nonlocal state
        state, token = compiled(params, state, *settings)
        np.asarray(token)
        return "all"

    return Stepper({"all": 1.0}, lambda: nullcontext(step), compile_s)


def arms_of(model: Commentator) -> Arms:
    """Arms `part` ("text" or "whole"), `batch`, and for text `watched_s`, of a model."""

    def make(part: str, batch: int, watched_s: float = 0.0) -> Stepper:
        return whole_stepper(model, batch) if part == "whole" else text_stepper(model, batch, watched_s)

    return Arms(make)


def watched(live: LiveModel, state: LiveState, watched_s: float) -> LiveState:
    """The state of streams that have watched for `watched_s`: full caches of what the text stream attends to, of noise.

    What keys and values are changes nothing about the cost of attending to them. The tokenizer's and the video stream's
    own caches stay as they are, since text does not read them.
    """
    config = live.config
    step = config.clock.steps_in(watched_s)
    batch = len(state.step)

    keys = iter(jax.random.split(jax.random.key(0), len(jax.tree.leaves(state.fusion))))

    def filled(cache: KVCache, steps: np.ndarray, num_sinks: int) -> KVCache:
        steps = np.broadcast_to(steps.astype(np.int32), (batch, len(steps)))
        cache, _ = cache.place(jnp.asarray(steps), jnp.ones(steps.shape, bool), num_sinks, sinks=num_sinks > 0)
        noise = lambda buffer: jax.random.normal(next(keys), buffer.shape, buffer.dtype)
        return cache.replace(layers=jax.tree.map(noise, cache.layers))

    video, text = state.fusion.projected, state.fusion.text
    sinks = config.text.num_sinks
    text_room, video_room = text.step.shape[1] - sinks, video.step.shape[1]
    written = np.concatenate([np.arange(min(sinks, step)), np.arange(max(sinks, step - text_room), step)])
    # As dense as the budget allows, newest last.
    tokens_a_step = config.tokenizer.cap * config.clock.step_s
    tokens = step - 1 - np.floor(np.arange(video_room)[::-1] / tokens_a_step)
    return state._replace(
        fusion=state.fusion._replace(
            projected=filled(video, tokens[tokens >= 0], 0), text=filled(text, written, sinks)
        ),
        step=jnp.full_like(state.step, step),
    )
