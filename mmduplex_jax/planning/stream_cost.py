"""What a live stream costs."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax

from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.planning.devices import Device
from mmduplex_jax.stages import flops
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.train.parameters import count
from mmduplex_jax.train.task import Task

_FLOAT32_BYTES = 4


class StreamCost(NamedTuple):
    """What a stream costs.

    Attributes:
      flops_per_s: for a second of video, with as many anchors as the budget allows.
      state_bytes: all that a stream remembers; it does not grow.
      weights_bytes: in float32, as they are kept.
    """

    flops_per_s: float
    state_bytes: int
    weights_bytes: int

    def step_s_least(self, device: Device) -> float:
        """A step of a stream by itself reads all weights once; less time than that it cannot take."""
        return self.weights_bytes / device.bytes_per_s


def stream_cost(task: Task) -> StreamCost | None:
    """The cost of a stream of a duplex; None for stages that do not stream."""
    if not isinstance(task, DuplexTask):
        return None
    c, k = task.config, task.config.tokenizer
    params = nn.unbox(jax.eval_shape(task.init, jax.random.key(0)))
    state = jax.eval_shape(lambda params: LiveModel(c).init_state(params, 1), params)
    parts = flops.live_tick(c)
    ticks_per_s = c.clock.step_hz / c.clock.video_stride
    anchors_per_s = ticks_per_s / k.anchor_interval_min_ticks if k.kind == "bflow" else ticks_per_s
    rates = {"anchor": anchors_per_s, "video": ticks_per_s, "text": c.clock.step_hz}
    return StreamCost(
        flops_per_s=sum(rates[name] * part.total for name, part in parts.items()),
        state_bytes=sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
        weights_bytes=_FLOAT32_BYTES * count(params),
    )
