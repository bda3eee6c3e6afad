"""What `benchmarks.training` trains: the transformers of a config, with noise for what stands before them.

Each is a `Task`, so that a step is the trainer's own, and knows its twin in PyTorch and what that is given.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.layers.attention import causal_window_mask
from mmduplex_jax.layers.encoder import Encoder
from mmduplex_jax.layers.rotary import phases_2d
from mmduplex_jax.layers.transformer import Stack, StackConfig, attention_context, phases
from mmduplex_jax.layers.vocabulary import token_loss_of
from mmduplex_jax.models.dual_stream import DualStream, DualStreamConfig
from mmduplex_jax.stages.config_file import load_config
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.tokenizer.bflow import Tokens
from mmduplex_jax.towers.vision import VisionConfig
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.trained import load_tokenizer

DTYPES = ("float32", "bfloat16")


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Trained(abc.ABC):
    """What is the same for all: the batch's shapes."""

    rows: int

    @abc.abstractmethod
    def batch(self) -> dict[str, np.ndarray]:
        """A batch of noise."""

    def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of `batch`, of which there is one size."""
        if batch_size != self.rows:
            raise ValueError(f"made for {self.rows} rows, asked for {batch_size}")
        return {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in self.batch().items()}


@dataclasses.dataclass(frozen=True)
class StreamsTask(Trained):
    """A duplex after its tokenizer: video stream, projector, text stream with cross-attention, the loss of its words.

    Attributes:
      config: of the model; fusion "cross".
      rows, ticks: B, T.
      chunk: see `layers/vocabulary.py`.
    """

    config: DualStreamConfig
    rows: int
    ticks: int
    chunk: int = 0

    def __post_init__(self):
        c = self.config
        if c.fusion != "cross" or not c.tied or c.memory is not None:
            raise ValueError("the twin is of fusion 'cross' with a tied head and no event memory")
        if c.text.window_steps < self.steps:
            raise ValueError(f"the twin sees all {self.steps} steps of a clip, text sees {c.text.window_steps}")

    @property
    def steps(self) -> int:
        return self.ticks * self.config.clock.video_stride

    @property
    def _at(self) -> np.ndarray:
        """The steps of the tokens: all of the budget is spent, evenly."""
        count = self.config.tokenizer.token_capacity(self.ticks)
        return (np.arange(count) * self.ticks // count * self.config.clock.video_stride).astype(np.int32)

    def batch(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(1)
        words = lambda: rng.integers(0, self.config.vocab_size, (self.rows, self.steps), np.int32)
        values = _noise(self.rows, len(self._at), self.config.tokenizer.width)
        return {"values": values, "slots": words(), "target": words(), "delay": np.full(self.rows, 2, np.int32)}

    def init(self, rng: Any) -> PyTree:
        batch = self.batch()
        inputs = (self._tokens(batch["values"]), batch["slots"], batch["delay"])
        return DualStream(self.config).init(rng, *inputs, method="hidden")["params"]

    def _tokens(self, values: Any) -> Tokens:
        shape = values.shape[:2]
        centre_px = jnp.zeros((*shape, 2), jnp.int32)
        at = jnp.broadcast_to(jnp.asarray(self._at), shape)
        return Tokens(values, jnp.ones(shape, bool), at, jnp.zeros(shape, jnp.int32), centre_px)

    def loss(self, params: PyTree, batch: Mapping[str, Any], rng: Any) -> tuple[Any, dict[str, Any]]:
        del rng
        tokens = self._tokens(batch["values"])
        inputs = (tokens, batch["slots"], batch["delay"])
        x = DualStream(self.config).apply({"params": params}, *inputs, method="hidden")
        nll, _ = token_loss_of(x, params["embedding"], batch["target"], self.chunk, self.config.vocab_size)
        return nll.mean(), {}

    def twin(self, ours: PyTree) -> Any:
        """The same in PyTorch, with the same parameters."""
        from benchmarks.torch_training import Streams

        c = self.config
        model = Streams(c.video, c.text, c.tokenizer.width, c.language.rows, c.vocab_size, c.delay_max + 1)
        model.load(ours)
        return model

    def twin_batch(self) -> dict[str, np.ndarray]:
        c, at, steps = self.config, self._at, np.arange(self.steps, dtype=np.int32)
        far = at[:, None] - at[None]
        video_mask = (far >= 0) & (far < c.video.window_steps)
        back = steps[:, None] - at[None]
        cross_mask = np.pad((back >= 0) & (back < c.video.window_steps), ((0, 0), (0, 1)), constant_values=True)
        batch = self.batch()
        integers = {name: batch[name].astype(np.int64) for name in ("slots", "target", "delay")}
        return batch | integers | {
            "video_mask": video_mask, "cross_mask": cross_mask, "video_phase": np.asarray(phases(c.video, at)),
            "seen_phase": np.asarray(phases(c.text, at)), "text_phase": np.asarray(phases(c.text, steps)),
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StackTask(Trained):
    """A stack over tokens of a clip (the tokenizer's event transformer); the loss is a squared error.

    Attributes:
      config: of the stack; without cross-attention and sinks.
      rows, at: B; the step of each of the N tokens.
    """

    config: StackConfig
    rows: int
    at: tuple[int, ...]

    def batch(self) -> dict[str, np.ndarray]:
        shape = (self.rows, len(self.at), self.config.width)
        return {"x": _noise(*shape), "wanted": _noise(*shape, seed=1)}

    def _run(self, x: Any) -> tuple[Any, Any]:
        at = jnp.broadcast_to(jnp.asarray(self.at, jnp.int32), x.shape[:2])
        mask = causal_window_mask(at, at, jnp.ones(at.shape, bool), self.config.window_steps)
        return x.astype(self.config.dtype), attention_context(self.config, at, mask)

    def init(self, rng: Any) -> PyTree:
        return Stack(self.config).init(rng, *self._run(self.batch()["x"]))["params"]

    def loss(self, params: PyTree, batch: Mapping[str, Any], rng: Any) -> tuple[Any, dict[str, Any]]:
        del rng
        out, _ = Stack(self.config).apply({"params": params}, *self._run(batch["x"]))
        return jnp.square(out.astype(jnp.float32) - batch["wanted"]).mean(), {}

    def twin(self, ours: PyTree) -> Any:
        """The same in PyTorch, with the same parameters."""
        from benchmarks.torch_training import StackAlone

        model = StackAlone(self.config)
        model.load(ours)
        return model

    def twin_batch(self) -> dict[str, np.ndarray]:
        at = np.asarray(self.at, np.int32)
        far = at[:, None] - at[None]
        mask = (far >= 0) & (far < self.config.window_steps)
        return self.batch() | {"mask": mask, "phase": np.asarray(phases(self.config, at))}


@dataclasses.dataclass(frozen=True)
class EncoderTask(Trained):
    """The layers of a vision tower over the patches of pictures; the loss is a squared error.

    Attributes:
      tower: whose.
      rows, side: B; patches a side of a picture.
    """

    tower: VisionConfig
    rows: int
    side: int

    @property
    def positions(self) -> int:
        return self.side**2 + self.tower.class_token

    def batch(self) -> dict[str, np.ndarray]:
        shape = (self.rows, self.positions, self.tower.width)
        return {"x": _noise(*shape), "wanted": _noise(*shape, seed=1)}

    def _encoder(self) -> Encoder:
        c = self.tower
        return Encoder(
            c.layers, c.heads, hidden=c.hidden, activation=c.activation, norm_epsilon=c.norm_epsilon, remat=c.remat
        )

    def _phase(self) -> Any:
        """Of the patches, which count from 1 where there is a class token, at 0."""
        c = self.tower
        if not c.rotary:
            return None
        row, column = np.divmod(np.arange(self.side**2, dtype=np.int32), self.side)
        first = int(c.class_token)
        row, column = (np.pad(place + first, (first, 0))[None] for place in (row, column))
        return phases_2d(jnp.asarray(row), jnp.asarray(column), c.width // c.heads, c.rope_base)

    def init(self, rng: Any) -> PyTree:
        return self._encoder().init(rng, self.batch()["x"], None, self._phase())["params"]

    def loss(self, params: PyTree, batch: Mapping[str, Any], rng: Any) -> tuple[Any, dict[str, Any]]:
        del rng
        x = batch["x"].astype(self.tower.dtype)
        out = self._encoder().apply({"params": params}, x, None, self._phase())
        return jnp.square(out.astype(jnp.float32) - batch["wanted"]).mean(), {}

    def twin(self, ours: PyTree) -> Any:
        """The same in PyTorch, with the same parameters."""
        from benchmarks import torch_training

        c = self.tower
        model = torch_training.Encoder(c.width, c.layers, c.heads, c.hidden, c.activation, c.norm_epsilon)
        model.load(ours)
        return model

    def twin_batch(self) -> dict[str, np.ndarray]:
        phase = self._phase()
        return self.batch() | ({} if phase is None else {"phase": np.asarray(phase)[:, 0]})


def _plain(config: Any, dtype: str) -> Any:
    """Unrolled and nothing computed again, as PyTorch does it; gates are open, so that cross-attention is seen."""
    for stack in (config.get("video_stream"), config.get("text")):
        if stack is not None and "hidden" in stack and "window_s" in stack:
            with stack.unlocked():  # small configs leave some of these as they are by default
                stack.update(scan=False, remat=False, dtype=dtype, attention="einsum")
    if "text" in config and "cross_gate" in config.text:
        config.text.cross_gate = 0.5
    return config


def streams(path: str, dtype: str, rows: int) -> tuple[StreamsTask, Any]:
    """The streams of a duplex, and its config."""
    config = _plain(load_config(path), dtype)
    config.loss.future_word_weight = 0.0
    task: Any = build_task(config, load_tokenizer(config))
    return StreamsTask(task.config, rows, task.ticks), config


def events(path: str, dtype: str, rows: int) -> tuple[StackTask, Any]:
    """The event transformer of a config's tokenizer, over a clip with all of the budget spent."""
    config = load_config(path)
    config.tokenizer.dtype = dtype
    config.tokenizer.event.update(remat=False)
    task: Any = build_task(config, load_tokenizer(config))
    count, stride = task.config.tokenizer.token_capacity(task.ticks), task.config.clock.video_stride
    at = tuple(int(i) * task.ticks // count * stride for i in range(count))
    return StackTask(task.config.tokenizer.event, rows, at), config


def anchors(path: str, dtype: str, rows: int) -> tuple[EncoderTask, Any]:
    """The layers of the tower that looks at a tokenizer's anchors; `rows` pictures."""
    config = load_config(path)
    config.tokenizer.dtype = dtype
    config.tokenizer.anchor.tower.update(remat=False)
    task: Any = build_task(config, load_tokenizer(config))
    tower = task.config.tokenizer.anchor.used_tower
    return EncoderTask(tower, rows, task.config.tokenizer.frame_px // tower.patch_px), config


def pictures(path: str, dtype: str, rows: int) -> tuple[EncoderTask, Any]:
    """The layers of a CLIP's vision tower; `rows` pictures."""
    config = load_config(path)
    config.vision.update(remat=False, dtype=dtype)
    task: Any = build_task(config, load_tokenizer(config))
    tower = task.config.vision
    return EncoderTask(tower, rows, tower.side), config


# By name: of what config, how many rows at a time, and what of it.
WORK: dict[str, tuple[str, int, Callable[..., tuple[Any, Any]]]] = {
    "duplex_300m, after its tokenizer": ("configs/duplex_300m.py", 1, streams),
    "bflow_75m, event transformer": ("configs/bflow_75m.py", 1, events),
    "bflow_75m, anchors' tower": ("configs/bflow_75m.py", 8, anchors),
    "clip_s16, vision tower": ("configs/clip_s16.py", 2, pictures),
}
