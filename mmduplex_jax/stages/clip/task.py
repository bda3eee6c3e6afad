"""The `clip` stage: pictures, or short clips, and texts learn to find each other (CLIP, SigLIP).

The two towers are those of `mmduplex_jax/towers/contrastive.py` under the same parameter names, so that what is learned
here goes wherever imported towers go. A clip is some frames through the vision tower and a pool over time after it.

The loss. Softmax: each picture must pick its text among all, and each text its picture (Radford et al., 2021). Sigmoid:
every pair is a question by itself (Zhai et al., 2023), and so needs no sum over the whole batch. In chunks over a mesh,
each device holds its pictures and its texts; the texts go round the ring of devices, and every device compares its
pictures with those that are there (the "efficient chunked implementation" of Zhai et al., 2023). With the softmax, a
text carries the sum over the pictures that it has met, and is home again at the end. A device so holds `(B / n)²`
logits at a time and never the `B²` of all; the backward pass computes them again.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from data_pipelines.pairs import PairFormat, end_of_text
from mmduplex_jax.layers.attention import MASKED
from mmduplex_jax.layers.encoder import Encoder
from mmduplex_jax.layers.vocabulary import token_hash
from mmduplex_jax.sharding import BATCH_AXES
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.towers.contrastive import Compared, Contrastive, ContrastiveConfig, unit
from mmduplex_jax.towers.text import TextTowerConfig
from mmduplex_jax.towers.vision import AttentionPool, VisionConfig, normalise
from mmduplex_jax.typing import Array, Bool, Float, Int32, PyTree, UInt8

KINDS = ("sigmoid", "softmax")


class Pairs(NamedTuple):
    """Embeddings of pictures and of their texts, row by row.

    Attributes:
      image: of length 1, float32.
      text: of length 1, float32.
      valid: rows that are pairs; others are compared with nothing.
      label: texts of the same label are the same text: no picture is told that its neighbour's is wrong.
    """

    image: Float[Array, "B F"]
    text: Float[Array, "B F"]
    valid: Bool[Array, "B"]
    label: Int32[Array, "B"]


class Agreement(NamedTuple):
    """What a loss says of a batch, float32 scalars.

    Attributes:
      loss: a mean over pairs; 0 where there are none.
      matched: share of pictures whose own text is the nearest of all (0 where there are none).
      pairs: how many there are.
    """

    loss: Float[Array, ""]
    matched: Float[Array, ""]
    pairs: Float[Array, ""]


class _Met(NamedTuple):
    """What rows have gathered: `loss`, and `total`, the logarithm of their sum of exponentials, both `[b]`."""

    loss: Array
    total: Array


def plain_loss(kind: str, pairs: Pairs, scale: Float[Array, ""], bias: Float[Array, ""]) -> Agreement:
    """The loss with the whole matrix at once.

    Args:
      kind: one of KINDS.
      bias: added to the logits; the softmax is not changed by it.
    """
    own = jnp.eye(len(pairs.image), dtype=bool)
    logits, counted = _compare(pairs, pairs, own, scale, bias)
    mine = jnp.diagonal(logits)
    if kind == "sigmoid":
        each = _questions(logits, counted, own).sum(axis=1)
    else:
        masked = jnp.where(counted, logits, MASKED)
        rows, columns = jax.nn.logsumexp(masked, axis=1), jax.nn.logsumexp(masked, axis=0)
        each = (rows + columns) / 2 - mine
    best_other = jnp.where(counted & ~own, logits, MASKED).max(axis=1)
    count = pairs.valid.sum().astype(jnp.float32)
    share = lambda values: jnp.where(pairs.valid, values, 0.0).sum() / jnp.maximum(count, 1.0)
    return Agreement(share(each), share((mine > best_other).astype(jnp.float32)), count)


def chunked_loss(kind: str, pairs: Pairs, scale: Float[Array, ""], bias: Float[Array, ""], mesh: Mesh) -> Agreement:
    """The same over a mesh whose batch axes split the rows, as `plain_loss` computes it up to float32's rounding.

    Args:
      kind: one of KINDS.
      pairs: the whole batch; its size is a multiple of the devices along the batch axes.
      mesh: with the axes of `mmduplex_jax/sharding.py`.
    """
    ways = mesh.shape[BATCH_AXES[0]] * mesh.shape[BATCH_AXES[1]]
    onward = [(device, (device - 1) % ways) for device in range(ways)]

    def on_a_device(pairs: Pairs, scale: Array, bias: Array) -> Agreement:
        varying = lambda value: jax.lax.pcast(jnp.full(pairs.valid.shape, value), BATCH_AXES, to="varying")
        mine = (pairs.image * pairs.text).sum(axis=-1) * scale + bias

        @jax.checkpoint
        def meet(theirs: Pairs, rows: _Met, columns: _Met, best: Array, own: Array) -> tuple[_Met, _Met, Array]:
            logits, counted = _compare(pairs, theirs, own, scale, bias)
            best = jnp.maximum(best, jnp.where(counted & ~own, logits, MASKED).max(axis=1))
            if kind == "sigmoid":
                return _Met(rows.loss + _questions(logits, counted, own).sum(axis=1), rows.total), columns, best
            masked = jnp.where(counted, logits, MASKED)
            add = lambda met, axis: _Met(met.loss, jnp.logaddexp(met.total, jax.nn.logsumexp(masked, axis=axis)))
            return add(rows, 1), add(columns, 0), best

        def go_on(carried: tuple, at: Array) -> tuple[tuple, None]:
            theirs, rows, columns, best = carried
            own = jnp.eye(len(pairs.valid), dtype=bool) & (at == 0)
            rows, columns, best = meet(theirs, rows, columns, best, own)
            # Texts are the same ring of devices further on, with what they have gathered.
            theirs, columns = jax.lax.ppermute((theirs, columns), BATCH_AXES, onward)
            return (theirs, rows, columns, best), None

        nothing = _Met(varying(0.0), varying(MASKED))
        (_, rows, columns, best), _ = jax.lax.scan(go_on, (pairs, nothing, nothing, varying(MASKED)), jnp.arange(ways))
        each = rows.loss if kind == "sigmoid" else (rows.total + columns.total) / 2 - mine
        count = jax.lax.psum(pairs.valid.sum().astype(jnp.float32), BATCH_AXES)
        share = lambda values: (
            jax.lax.psum(jnp.where(pairs.valid, values, 0.0).sum(), BATCH_AXES) / jnp.maximum(count, 1.0)
        )
        return Agreement(share(each), share((mine > best).astype(jnp.float32)), count)

    split, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    return jax.shard_map(on_a_device, mesh=mesh, in_specs=(split, whole, whole), out_specs=whole)(pairs, scale, bias)


def _compare(ours: Pairs, theirs: Pairs, own: Array, scale: Array, bias: Array) -> tuple[Array, Array]:
    """Logits of our pictures (rows) with their texts, and which of them count; `own` says which are of one pair."""
    logits = jnp.matmul(ours.image, theirs.text.T, precision="highest") * scale + bias
    counted = ours.valid[:, None] & theirs.valid & (own | (ours.label[:, None] != theirs.label))
    return logits, counted


def _questions(logits: Array, counted: Array, own: Array) -> Array:
    """Of every pair, how surprising it is that it belongs together (`own`) or that it does not; `[b, b]`."""
    return jnp.where(counted, -jax.nn.log_sigmoid(jnp.where(own, logits, -logits)), 0.0)


TIME_POOLS = ("mean", "attention")


@dataclasses.dataclass(frozen=True)
class TimeConfig:
    """How the frames of a clip become one vector.

    Attributes:
      frames: of a clip; 1 for a picture.
      pool: "mean" (blind to the order) or "attention" (a transformer over the frames, then a learned query).
      layers, heads, hidden: of that transformer and pool; of no use to "mean".
    """

    frames: int = 1
    pool: str = "mean"
    layers: int = 0
    heads: int = 1
    hidden: int = 0

    def __post_init__(self):
        if self.pool not in TIME_POOLS:
            raise ValueError(f"time.pool is one of {', '.join(TIME_POOLS)}, not {self.pool!r}")
        if self.frames < 1:
            raise ValueError(f"time.frames must be at least 1, got {self.frames}")
        if self.pool == "attention" and not (self.heads and self.hidden):
            raise ValueError("time.pool='attention' needs time.heads and time.hidden")


class TimePool(nn.Module):
    """Vectors of frames, in order, to the vector of their clip, `[B, T, F] -> [B, F]`."""

    config: TimeConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T F"]) -> Float[Array, "B F"]:
        c = self.config
        if c.pool == "mean":
            return x.mean(axis=1)
        width = x.shape[-1]
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("position", None))
        x = x + self.param("position", init, (c.frames, width)).astype(x.dtype)
        x = Encoder(c.layers, c.heads, hidden=c.hidden, name="encoder")(x)
        return AttentionPool(c.heads, c.hidden, "gelu_tanh", 1e-6, name="pool")(x)


class ClipModel(Contrastive):
    """A contrastive pair whose pictures may be clips."""

    time: TimeConfig = TimeConfig()

    def setup(self):
        super().setup()
        if self.time.pool == "attention":
            self.time_pool = TimePool(self.time)

    def __call__(self, clips: Float[Array, "B T H W C"], ids: Int32[Array, "B S"]) -> Compared:
        """Embeds clips and texts; their numbers may differ."""
        return self.compare(self.encode_clip(clips), self.encode_text(ids))

    def encode_clip(self, clips: Float[Array, "B T H W C"]) -> Float[Array, "B F"]:
        """Embeddings of length 1, float32; of clips of one frame they are those of the pictures."""
        embedding = self.vision(clips.reshape(-1, *clips.shape[2:])).embedding
        assert embedding is not None  # ContrastiveConfig refuses towers without a pool
        frames = embedding.reshape(*clips.shape[:2], -1)
        if self.time.pool == "mean":
            return unit(frames.astype(jnp.float32).mean(axis=1))
        return unit(self.time_pool(frames))


@dataclasses.dataclass(frozen=True)
class ClipTask:
    """Loss and shapes of the stage (see `mmduplex_jax/train/task.py`).

    Attributes:
      time: what makes a clip of frames.
      loss_kind: "sigmoid" or "softmax".
      mean, std: an RGB channel, of pixels from 0 to 1.
      mesh: where batches are split; None computes the whole matrix of logits in one place.
    """

    config: ContrastiveConfig
    time: TimeConfig
    loss_kind: str
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    mesh: Mesh | None = None

    def __post_init__(self):
        if self.loss_kind not in KINDS:
            raise ValueError(f"config.loss.kind is one of {', '.join(KINDS)}, not {self.loss_kind!r}")

    @property
    def model(self) -> ClipModel:
        return ClipModel(self.config, time=self.time)

    @property
    def patches(self) -> int:
        """Of a clip."""
        return self.config.vision.patches * self.time.frames

    def on_mesh(self, mesh: Mesh) -> "ClipTask":
        """The task with its loss in chunks over the devices that split the batch, where there are several."""
        ways = mesh.shape[BATCH_AXES[0]] * mesh.shape[BATCH_AXES[1]]
        return dataclasses.replace(self, mesh=mesh if ways > 1 else None)

    def init(self, rng: Array) -> PyTree:
        """Parameters, boxed with their logical axes."""
        batch = {k: jnp.zeros(v.shape, v.dtype) for k, v in self.example_batch(1).items()}
        return self.model.init(rng, self.normalised(batch["frames"]), batch["ids"])["params"]

    def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        length = self.config.text.length
        return {
            "frames": jax.ShapeDtypeStruct((batch_size, self.time.frames, *self.config.vision.image_px, 3), jnp.uint8),
            "ids": jax.ShapeDtypeStruct((batch_size, length), jnp.int32),
            "id_valid": jax.ShapeDtypeStruct((batch_size, length), jnp.bool_),
        }

    def normalised(self, frames: UInt8[Array, "B T H W 3"]) -> Float[Array, "B T H W 3"]:
        """Pixels as the vision tower takes them."""
        return normalise(frames, self.mean, self.std)

    def loss(self, params: PyTree, batch: Any, rng: Array) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The contrastive loss over all rows that have a text.

        Metrics: `matched`, the share of clips whose text is the nearest in the batch; `pairs`, rows with a text;
          `scale`, the factor of the cosines.
        """
        del rng  # nothing is drawn
        ids, id_valid = batch["ids"], batch["id_valid"]
        compared = self.model.apply({"params": params}, self.normalised(batch["frames"]), ids)
        pairs = Pairs(compared.image, compared.text, id_valid.any(axis=1), text_labels(ids))
        if self.mesh is None:
            found = plain_loss(self.loss_kind, pairs, compared.scale, compared.bias)
        else:
            found = chunked_loss(self.loss_kind, pairs, compared.scale, compared.bias, self.mesh)
        patches = self.patches * len(ids)
        return found.loss, {
            "loss_weight": found.pairs,
            "matched": found.matched,
            "pairs": found.pairs,
            "scale": compared.scale,
            "tokens": patches + id_valid.sum().astype(jnp.float32),
        }


def text_labels(ids: Int32[Array, "B S"]) -> Int32[Array, "B"]:
    """A number for every text, the same for the same ids (others agree by chance once in 4 · 10⁹)."""
    factors = np.random.default_rng(0).integers(0, 2**32, ids.shape[1], np.uint32) | 1
    hashed = token_hash(ids, jnp.asarray(factors))
    return jax.lax.bitcast_convert_type(hashed.sum(axis=1, dtype=jnp.uint32), jnp.int32)


def build_task(config: Any, tokenizer: TextTokenizer) -> ClipTask:
    """The task of an experiment's config (see `configs/clip_quickstart.py`).

    Raises:
      ValueError: the config contradicts itself, or cuts the batch whose rows are to be compared.
    """
    if config.train.grad_accum != 1:
        raise ValueError(
            f"config.train.grad_accum is {config.train.grad_accum}: every pair is compared with the whole batch, "
            "which therefore cannot be cut; set it to 1 and use more devices, or config.vision.remat"
        )
    vision = VisionConfig(image_px=config.frame_px, **config.vision)
    text = TextTowerConfig(
        vocab_size=max(tokenizer.vocab_size, config.vocab_rows_min), end_id=end_of_text(tokenizer), **config.text
    )
    if config.text.length < 2:
        raise ValueError(f"config.text.length must be at least 2, a word and the end mark; got {config.text.length}")
    return ClipTask(
        config=ContrastiveConfig(vision, text, math.log(config.loss.scale_init), config.loss.bias_init),
        time=TimeConfig(**config.time),
        loss_kind=config.loss.kind,
        mean=tuple(config.pixels.mean),
        std=tuple(config.pixels.std),
    )


def pair_format(config: Any) -> PairFormat:
    """What a sample is: some frames and a text."""
    data = config.data
    return PairFormat(config.time.frames, config.text.length, data.text, data.pause_s, data.shift_s)
