"""How long a live step takes: of the text stream alone, and of the whole model between ticks and on them."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.world import WorldConfig, make_clip
from launch.speaker import Speaker
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.streaming.rows import UNCAPPED, Rows
from mmduplex_jax.typing import Array, PyTree

# Before anything is timed: rings fill, allocators settle.
_WARM_STEPS = 20
# Clips of the world that streams share out among them.
_CLIPS = 8


def world_frames(speaker: Speaker, clips: int) -> np.ndarray:
    """uint8 `[clips, T, H, W, 3]`: the world's rich look, of the model's size."""
    config = WorldConfig(look="rich", frame_px=speaker.config.frame_px)
    return np.stack([make_clip(config, 0, index).frames for index in range(clips)])


def percentiles(times_s: list[float], streams: int) -> dict[str, float]:
    """Milliseconds of a step, and of a stream's share of one."""
    p50, p99 = (float(np.percentile(times_s, p)) * 1e3 for p in (50, 99))
    return {"p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "per_stream_p50_ms": round(p50 / streams, 3)}


def whole_steps(speaker: Speaker, batch: int, steps: int) -> dict[str, Any]:
    """The model's live step, as a pool dispatches it, every row active; each step is waited for.

    Returns:
      `all`, `tick` (with a frame) and `between` (text alone), each as `percentiles` gives them, and `compile_s`.
    """
    rows = Rows(speaker.live, speaker.params, speaker.config.frame_px, count=batch, resets=False)
    delay_steps = speaker.config.delay.eval
    rows.configure(np.full(batch, delay_steps), np.zeros(batch), np.full(batch, UNCAPPED))
    stride = speaker.clock.video_stride
    clips = min(batch, _CLIPS)
    frames = world_frames(speaker, clips)[np.arange(batch) % clips].swapaxes(0, 1)
    active, times_s = np.ones(batch, bool), []
    for step in range(steps + _WARM_STEPS):
        started_s = time.perf_counter()
        if step % stride == 0:
            sent = rows.send(np.ascontiguousarray(frames[step // stride % len(frames)]))
        rows.step(sent, active, with_report=step % stride == 0).read()
        times_s.append(time.perf_counter() - started_s)
    ticks = [t for step, t in enumerate(times_s) if step % stride == 0 and step >= _WARM_STEPS]
    between = [t for step, t in enumerate(times_s) if step % stride and step >= _WARM_STEPS]
    return {
        "all": percentiles(times_s[_WARM_STEPS:], batch),
        "tick": percentiles(ticks, batch),
        "between": percentiles(between, batch) if between else None,
        "compile_s": round(rows.compile_s, 1),
    }


def text_steps(speaker: Speaker, batch: int, steps: int) -> dict[str, Any]:
    """The text stream's step alone, its rings of video in place: what a language model of that shape costs, live."""
    live = speaker.live
    if not isinstance(live, LiveModel):
        raise TypeError(f"a LiveModel is needed, got {type(live).__name__}")
    module = live.module

    def step(params: PyTree, state: Any, delay: Array, active: Array) -> tuple[Any, Array]:
        state, logits = module.apply({"params": params}, state, delay, active, method="text_step")
        token = jnp.argmax(logits.at[:, live.config.start_id].set(-jnp.inf), axis=-1).astype(jnp.int32)
        return state._replace(token=token), token

    params = jax.device_put(speaker.params)
    state = jax.jit(lambda p: live.init_state(p, batch))(params)
    settings = jax.device_put((np.full(batch, speaker.config.delay.eval, np.int32), np.ones(batch, bool)))
    started_s = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=1).lower(params, state, *settings).compile()
    compile_s = time.perf_counter() - started_s
    times_s = []
    for _ in range(steps + _WARM_STEPS):
        started_s = time.perf_counter()
        state, token = compiled(params, state, *settings)
        np.asarray(token)
        times_s.append(time.perf_counter() - started_s)
    return {"all": percentiles(times_s[_WARM_STEPS:], batch), "compile_s": round(compile_s, 1)}
