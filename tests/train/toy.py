"""A small task and its data, for tests of the trainer; also a program that trains it (to be killed)."""

import dataclasses
import itertools
import os
import sys
import time
from pathlib import Path

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

WIDTH, HIDDEN, HEADS = 32, 64, 4
FRAMES = (5, 4, 4, 3)


class ToyModel(nn.Module):
    """Says how bright each frame is, `[B, T, H, W, C] -> [B, T]`, with the kinds of parameters of real models."""

    @nn.compact
    def __call__(self, frames):
        split = lambda init, *names: nn.with_logical_partitioning(init, names)
        normal = nn.initializers.lecun_normal()
        x = frames.reshape(*frames.shape[:2], -1).astype(jnp.float32) / 255
        x = nn.Dense(
            WIDTH,
            kernel_init=split(normal, "patch", "embed"),
            bias_init=split(nn.initializers.zeros_init(), "embed"),
            name="embed",
        )(x)
        x = nn.LayerNorm(
            scale_init=split(nn.initializers.ones_init(), None),
            bias_init=split(nn.initializers.zeros_init(), None),
            name="first_norm",
        )(x)
        stack = self.param("stack", split(normal, "layers", "embed", "mlp"), (2, WIDTH, HIDDEN))
        down = self.param("down", split(normal, "layers", "mlp", "embed"), (2, HIDDEN, WIDTH))
        gate = self.param("gate", split(nn.initializers.ones_init(), "layers", None), (2, 1))
        for layer in range(2):
            x = x + gate[layer] * (nn.silu(x @ stack[layer]) @ down[layer])
        return nn.Dense(1, use_bias=False, kernel_init=split(normal, "embed", None), name="head")(x)[..., 0]


@dataclasses.dataclass(frozen=True)
class ToyTask:
    """Squared error of the mean brightness; `slot_valid` weighs the frames. Noise makes it depend on the key."""

    noise: float = 0.01
    model = ToyModel()

    def init(self, rng):
        return self.model.init(rng, jnp.zeros((1, *FRAMES), jnp.uint8))["params"]

    def loss(self, params, batch, rng):
        said = self.model.apply({"params": params}, batch["frames"])
        wanted = batch["frames"].astype(jnp.float32).mean((2, 3, 4)) / 255
        wanted = wanted + self.noise * jax.random.normal(rng, wanted.shape)
        valid = batch["slot_valid"].astype(jnp.float32)
        weight = valid.sum()
        loss = (valid * (said - wanted) ** 2).sum() / jnp.maximum(weight, 1.0)
        return loss, {"error": jnp.sqrt(loss), "tokens": jnp.float32(valid.size), "loss_weight": weight}

    def example_batch(self, batch_size):
        return {
            "frames": jax.ShapeDtypeStruct((batch_size, *FRAMES), jnp.uint8),
            "slot_valid": jax.ShapeDtypeStruct((batch_size, FRAMES[0]), jnp.bool_),
        }


class PoisonedTask(ToyTask):
    """Its loss is not a number when a batch holds a frame that starts with 255, 254, 253."""

    def loss(self, params, batch, rng):
        loss, metrics = super().loss(params, batch, rng)
        poisoned = (batch["frames"][:, 0, 0, 0] == jnp.array([255, 254, 253], jnp.uint8)).all(-1).any()
        return jnp.where(poisoned, jnp.nan, loss), metrics


def record(index: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(index)
    return {
        "frames": rng.integers(0, 250, FRAMES, np.uint8),
        "slot_valid": rng.random(FRAMES[0]) < 0.8,
        "index": np.int64(index),
    }


def evaluate(params, should_stop):
    """A held-out set, as `fit` takes it."""
    held_out = {name: np.stack([record(1000 + k)[name] for k in range(8)]) for name in ("frames", "slot_valid")}
    error, _ = jax.jit(ToyTask(noise=0.0).loss)(params, held_out, jax.random.key(0))
    return {"error": float(error), "parts": {"frames": 40}, "note": "not a number"}


def make_data(batch_size: int = 8, records: int = 64, seed: int = 0, make_record=record, share=(0, 1)):
    """Batches of all processes, of which `share` (which, of how many) takes its rows; the state is the same in all."""
    dataset = grain.MapDataset.range(records).seed(seed).shuffle().repeat().map(make_record).batch(batch_size)
    process, processes = share
    rows = slice(process * batch_size // processes, (process + 1) * batch_size // processes)
    dataset = dataset.map(lambda batch: {name: array[rows] for name, array in batch.items()})
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def toy_config(**changes) -> ml_collections.ConfigDict:
    """The toy's config; `changes` are dotted names with `__` for the dot."""
    config = ml_collections.ConfigDict(
        {
            "stage": "toy",
            "data": {"batch_size": 8, "clip_s": 0.8, "workers": 0, "corrupt_records_max": 2},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "train": {
                "steps": 20,
                "stop_at_step": 0,
                "seed": 3,
                "log_every": 3,
                "checkpoint_every": 5,
                "keep": 3,
                "grad_accum": 1,
                "learning_rate": 1e-2,
                "warmup_steps": 4,
                "end_lr_ratio": 0.1,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
                "b1": 0.9,
                "b2": 0.99,
            },
        }
    )
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


def main(arguments: list[str]) -> int:
    """`WORKDIR STEPS CHECKPOINT_EVERY [field=value ...]`: trains, as one of several processes where TOY_JOB says so.

    TOY_JOB: `COORDINATOR NUM_PROCESSES PROCESS_ID JOIN_TIMEOUT_S PEER_TIMEOUT_S`. TOY_STEP_S: seconds that the data of
    a step take. TOY_BREAKS_IN: the process whose disk is gone after some steps. TOY_EVALS: steps between evaluations.
    """
    from mmduplex_jax.train.distributed import Job, take_part, voices
    from mmduplex_jax.train.loop import fit

    workdir, steps, checkpoint_every, *changes = arguments
    config = toy_config(train__steps=int(steps), train__checkpoint_every=int(checkpoint_every))
    config.update_from_flattened_dict({name: int(value) for name, value in (c.split("=") for c in changes)})
    if "TOY_EVALS" in os.environ:
        config.evals = {"every": int(os.environ["TOY_EVALS"]), "dirs": "x", "best": "-error"}
    step_s = float(os.environ.get("TOY_STEP_S", "0"))
    breaks_in, reads = int(os.environ.get("TOY_BREAKS_IN", "-1")), itertools.count()

    def slow_record(index: int) -> dict[str, np.ndarray]:
        time.sleep(step_s / config.data.batch_size)
        if jax.process_index() == breaks_in and next(reads) == 9 * config.data.batch_size:
            raise OSError(f"record {index}: the disk is gone")
        return record(index)

    def run() -> int:
        log, warn = voices(lambda line: print(line, flush=True))
        data = make_data(
            config.data.batch_size, make_record=slow_record, share=(jax.process_index(), jax.process_count())
        )
        return fit(ToyTask(), data, config, Path(workdir), evaluate={"x": evaluate}, log=log, warn=warn).exit_code

    if "TOY_JOB" in os.environ:
        coordinator, *numbers = os.environ["TOY_JOB"].split()
        take_part(Job(coordinator, *map(int, numbers)), run)
    return run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
