"""A small task and its data, for tests of the trainer; also a program that trains it (to be killed)."""

import sys
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


class ToyTask:
    """Squared error of the mean brightness; `slot_valid` weighs the frames. Noise makes it depend on the key."""

    def __init__(self, noise: float = 0.01):
        self.model, self.noise = ToyModel(), noise

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

    def flops_per_step(self, batch_size):
        return 3.0 * 2 * batch_size * FRAMES[0] * (48 * WIDTH + 4 * WIDTH * HIDDEN)


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


def make_data(batch_size: int = 8, records: int = 64, seed: int = 0, make_record=record):
    dataset = grain.MapDataset.range(records).seed(seed).shuffle().repeat().map(make_record)
    return iter(dataset.batch(batch_size).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


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


if __name__ == "__main__":
    # python tests/train/toy.py WORKDIR STEPS CHECKPOINT_EVERY
    from mmduplex_jax.train.loop import fit

    steps, checkpoint_every = int(sys.argv[2]), int(sys.argv[3])
    config = toy_config(train__steps=steps, train__checkpoint_every=checkpoint_every)
    outcome = fit(ToyTask(), make_data(), config, Path(sys.argv[1]), log=lambda line: print(line, flush=True))
    sys.exit(outcome.exit_code)
