"""How bright are the pictures of a clip? A stage of a dozen lines, as CONTRIBUTING.md adds one."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.evaluator import apply_metrics
from mmduplex_jax.frame_size import frame_size
from mmduplex_jax.stages.registry import Parts, answers_nothing

OUTPUT = ""
EVALUATION_FLAGS: Mapping[str, Mapping[str, Any]] = {"gain": {"type": float, "help": "multiplies what is said"}}


class Task:
    """Learns one number: the mean brightness of all pictures."""

    def __init__(self, config):
        self.ticks, self.frame_px = Clock(**config.clock).ticks_in(config.data.clip_s), frame_size(config.frame_px)

    def init(self, rng):
        return {"level": nn.LogicallyPartitioned(jnp.zeros((1,)), (None,))}

    def loss(self, params, batch, rng):
        error = params["level"][0] - batch["frames"].astype(jnp.float32).mean() / 255
        return error**2, {"error": jnp.abs(error)}

    def example_batch(self, batch_size):
        shape = (batch_size, self.ticks, *self.frame_px, 3)
        return {"frames": jax.ShapeDtypeStruct(shape, jnp.uint8)}


class Evaluator:
    """What is said of a clip's brightness, beside what it is: rows `(key, said, is)`."""

    def __init__(self, task, config, tokenizer, *, batch=32, seed=0, metrics=None, gain=1.0):
        self.gain, self.metrics = gain, metrics or {}

    def run(self, params, records, number):
        said = self.gain * float(params["level"][0])
        rows = [(record.key, said, record.frames.mean() / 255) for record in records]
        error = sum(abs(said - right) for _, said, right in rows) / len(rows)
        return {"error": error, "clips": len(rows), "metrics": apply_metrics(self.metrics, rows)}


make_evaluator = Evaluator
make_answerer = answers_nothing("brightness")


def build_task(config, tokenizer):
    return Task(config)


def format_table(report):
    return f"{report['clips']} clips, error {report['error']:.3f}"


def pair_format(config):
    return None


def video_tokens(task):
    return 0


def parts(task):
    return Parts()


def brightest(rows):
    """A metric of this stage."""
    return {"max": float(max(right for _, _, right in rows))}
