"""How well event tokens find what was said about them: bags of words, hard negatives, and a contrastive loss over both.

Words are timed to a second at best (subtitles are late, commentators are early), so a moment is matched with all words
that begin near it: a bag, which has no order, as the sum of Deep Sets has none (Zaheer et al., 2017).

A moment's event token must find its bag of words among all bags, and the bag its event token among all of them (InfoNCE
as in CLIP, Radford et al., 2021). Other moments of the same video are among the others: they look alike, and only what
happens differs. Moments so near that their bags overlap, and bags of the same words, are neither right nor wrong.

A bag must also refuse hard negatives, which differ from what it describes in nothing but the arrow of time or the
motion: the clip played backwards, in which what entered leaves, and the clip with another's motion (after the arrow of
time of Wei et al., 2018).
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from mmduplex_jax.layers.attention import MASKED, AttentionReadout, heads_first
from mmduplex_jax.layers.dense import dense, layer_norm
from mmduplex_jax.layers.encoder import Mlp
from mmduplex_jax.layers.vocabulary import token_hash
from mmduplex_jax.sharding import in_units
from mmduplex_jax.towers.contrastive import unit
from mmduplex_jax.typing import Array, Bool, Float, Int, Int32, UInt8


@dataclasses.dataclass(frozen=True)
class BagConfig:
    """How words become a vector.

    Attributes:
      vocab_rows: rows of their table, at least as many as there are ids.
      width: of a word.
      heads, head_width: of the attention that joins them.
      hidden: width of the MLPs.
      embedding: width of the vector.
    """

    vocab_rows: int
    width: int
    heads: int
    head_width: int
    hidden: int
    embedding: int


@dataclasses.dataclass(frozen=True)
class Marks:
    """Ids that are no words: silence, what stands before every word, and what ends a sentence, where anything does."""

    pad_id: int
    word_id: int
    start_id: int
    end_id: int | None = None


class Bags(NamedTuple):
    """Which slots' tokens belong to each moment of a clip.

    Attributes:
      member: bool `[B, X, S]`.
      said: bool `[B, X]`, whether anything is said and all that is said is known.
      known: bool `[B, X]`, whether all that is said is known: silence is then silence.
      label: int32 `[B, X]`, the same for bags of the same tokens (others agree by chance once in 4 · 10⁹).
    """

    member: Bool[Array, "B X S"]
    said: Bool[Array, "B X"]
    known: Bool[Array, "B X"]
    label: Int32[Array, "B X"]


def gather_bags(
    slots: Int32[Array, "B S"],
    slot_valid: Bool[Array, "B S"],
    centre_step: Int[np.ndarray, "X"],
    reach_steps: int,
    marks: Marks,
) -> Bags:
    """The bags of words that begin within `reach_steps` of each centre (the later end left out).

    Args:
      slots: text slots, packed at delay 0: a word begins where its mark stands.
      slot_valid: slots of which it is known what is said in them. A bag with one that is not known is not known itself.
      centre_step: of the bags; what lies outside the clip takes no part.
      reach_steps: to either side.
    """
    at = jnp.arange(slots.shape[1], dtype=jnp.int32)
    begun = jax.lax.cummax(jnp.where(slots == marks.word_id, at, -1), axis=1)  # -1: its mark lies before the clip
    text = (slots != marks.pad_id) & (slots != marks.word_id) & (slots != marks.start_id) & (begun >= 0) & slot_valid
    if marks.end_id is not None:
        text &= slots != marks.end_id
    low = jnp.asarray(centre_step, jnp.int32)[:, None] - reach_steps
    near = lambda step: (step >= low) & (step < low + 2 * reach_steps)
    member = near(begun[:, None]) & text[:, None]
    known = ~(near(at[None])[None] & ~slot_valid[:, None]).any(axis=-1)
    hashed = token_hash(slots, jnp.uint32(0x9E3779B1))
    label = jnp.where(member, hashed[:, None], 0).sum(axis=-1, dtype=jnp.uint32)
    return Bags(member, member.any(axis=-1) & known, known, jax.lax.bitcast_convert_type(label, jnp.int32))


class BagEncoder(nn.Module):
    """Bags of tokens to vectors of length 1, `-> [B, X, embedding]`."""

    config: BagConfig

    def setup(self):
        c = self.config
        partitioned = lambda init, *axes: nn.with_logical_partitioning(init, axes)
        table = partitioned(nn.initializers.normal(1.0), "vocab", "embed")
        self.embedding = self.param("embedding", table, (c.vocab_rows, c.width))
        self.query = self.param("query", partitioned(nn.initializers.normal(1.0), None, None), (c.heads, c.head_width))
        heads = c.heads * c.head_width
        self.word_norm = layer_norm("word_norm")
        axis = in_units("heads", c.head_width)
        self.key = dense(heads, ("embed", axis), name="key")
        self.value = dense(heads, ("embed", axis), name="value")
        self.readout = AttentionReadout(c.width, (axis, "embed"), null=False, name_out="join")
        nn.share_scope(self, self.readout)
        self.join_norm = layer_norm("join_norm")
        self.mlp = Mlp(hidden=c.hidden)
        self.out_norm = layer_norm("out_norm")
        self.out = dense(c.embedding, ("embed", "feature"), name="out")

    def __call__(self, ids: Int32[Array, "B S"], member: Bool[Array, "B X S"]) -> Float[Array, "B X F"]:
        """Embeds bags.

        Args:
          member: which of them are in each bag; an empty bag has the same vector as every other.
        """
        c = self.config
        words = self.word_norm(self.embedding[ids])
        split = lambda a: rearrange(a, "b s (q e) -> b s q e", q=c.heads)
        query = jnp.broadcast_to(self.query, (*member.shape[:2], *self.query.shape))
        x = self.readout(query, *heads_first(split(self.key(words)), split(self.value(words))), member)
        x = x + self.mlp(self.join_norm(x))
        # Nothing said is no direction; a constant one, since the gradient of a length of 0 is not a number.
        return unit(jnp.where(member.any(axis=-1, keepdims=True), self.out(self.out_norm(x)), 1.0))

    def named(self, x: Float[Array, "B X D"]) -> Float[Array, "B X V"]:
        """Logits of every word for vectors of the words' width."""
        return jnp.einsum("bxd,vd->bxv", x, self.embedding) / self.config.width**0.5


class HardNegatives(NamedTuple):
    """Event tokens of clips that look like some of the batch, and are not.

    Attributes:
      event: `[C, Y, F]`, of length 1.
      row: `[C]`, which clip of the batch each imitates; a clip is imitated at most once.
      against: bool `[C, X, Y]`, which of them stand where something could be mistaken for moment X.
    """

    event: Float[Array, "C Y F"]
    row: Int[np.ndarray, "C"]
    against: Bool[Array, "C X Y"]


class Alignment(NamedTuple):
    """What the loss says of a batch, float32 scalars; shares and means are 0 where there is nothing to count.

    Attributes:
      loss: a mean over moments at which something is said.
      moments: how many those are.
      matched: share of bags whose own event token is the nearest of all that count, hard negatives left out.
      in_video: moments of the same video that a bag is compared with, its own left out, on average.
      in_video_matched: share of bags whose own event token is nearer than those.
      refused: share of bags that prefer their own event token to every hard negative, one a kind of hard negative.
    """

    loss: Float[Array, ""]
    moments: Float[Array, ""]
    matched: Float[Array, ""]
    in_video: Float[Array, ""]
    in_video_matched: Float[Array, ""]
    refused: tuple[Float[Array, ""], ...]


def compared_bags(bags: Bags, centre_step: Int[np.ndarray, "X"], apart_steps: int) -> Bool[Array, "B X B X"]:
    """Which event token (first two axes) is compared with which bag: its own, and those it is sure not to belong to.

    Args:
      centre_step: of a clip's bags.
      apart_steps: the exclusion band: centres of one video that are nearer than this are not compared.
    """
    batch, moments = bags.said.shape
    clip = jnp.arange(batch)
    same_clip = (clip[:, None] == clip)[:, None, :, None]
    step = jnp.asarray(centre_step, jnp.int32)
    distance = jnp.abs(step[:, None] - step)[None, :, None, :]
    own = same_clip & (jnp.arange(moments)[:, None] == jnp.arange(moments))[None, :, None, :]
    alike = (bags.label[:, :, None, None] == bags.label) & bags.said[:, :, None, None]
    other = ~alike & (~same_clip | (distance >= apart_steps))
    return bags.known[:, :, None, None] & bags.said & (own | other)


def align(
    event: Float[Array, "B X F"],
    bag: Float[Array, "B X F"],
    bags: Bags,
    centre_step: Int[np.ndarray, "X"],
    apart_steps: int,
    hard_negatives: tuple[HardNegatives, ...],
    scale: Float[Array, ""],
) -> Alignment:
    """The loss of a batch.

    Args:
      event: event tokens' embeddings, of length 1.
      bag: embeddings of the bags of the same moments, of length 1.
      bags: what is said, and what of it is known.
      centre_step: of a clip's bags.
      apart_steps: see `compared_bags`.
      hard_negatives: one entry a kind.
    """
    batch, moments = bags.said.shape
    size = batch * moments
    logits = scale * jnp.einsum("bxf,cyf->bxcy", event, bag, precision="highest").reshape(size, size)
    counted = compared_bags(bags, centre_step, apart_steps).reshape(size, size)
    said = bags.said.reshape(size)
    mine = jnp.diagonal(logits)
    masked = jnp.where(counted, logits, MASKED)
    among_bags = jax.nn.logsumexp(masked, axis=1)
    among_events = jax.nn.logsumexp(masked, axis=0)
    refused = []
    for kind in hard_negatives:
        against = scale * jnp.einsum("cxf,cyf->cxy", bag[kind.row], kind.event, precision="highest")
        against = jnp.where(kind.against, against, MASKED)
        none = jnp.full((batch, moments), MASKED)
        hardest = none.at[kind.row].set(against.max(axis=-1)).reshape(size)
        total = none.at[kind.row].set(jax.nn.logsumexp(against, axis=-1)).reshape(size)
        among_events = jnp.logaddexp(among_events, total)
        refused.append(_share(mine > hardest, said & (hardest > MASKED / 2)))
    each = (among_bags + among_events) / 2 - mine
    count = said.sum().astype(jnp.float32)
    other = counted & ~jnp.eye(size, dtype=bool)
    clip = jnp.repeat(jnp.arange(batch), moments)
    in_video = other & (clip[:, None] == clip)
    best = lambda among: jnp.where(among, logits, MASKED).max(axis=0)
    return Alignment(
        loss=jnp.where(said, each, 0.0).sum() / jnp.maximum(count, 1.0),
        moments=count,
        matched=_share(mine > best(other), said),
        in_video=jnp.where(said, in_video.sum(axis=0), 0).sum() / jnp.maximum(count, 1.0),
        in_video_matched=_share(mine > best(in_video), said & in_video.any(axis=0)),
        refused=tuple(refused),
    )


def _share(right: Bool[Array, "X"], counted: Bool[Array, "X"]) -> Float[Array, ""]:
    return (right & counted).sum().astype(jnp.float32) / jnp.maximum(counted.sum(), 1)


class Rows(NamedTuple):
    """Which clips of a batch are imitated, and how.

    Attributes:
      backward: int `[R]`, those that are also seen backwards.
      swapped: int `[W]`, those that are also seen with the motion of the clip after them.
    """

    backward: Int[np.ndarray, "R"]
    swapped: Int[np.ndarray, "W"]


def choose_rows(batch: int, backward_every: int, swapped_every: int) -> Rows:
    """Every n-th clip of a batch for each kind, none for 0, the kinds beginning at different clips.

    Raises:
      ValueError: there is no other clip whose motion one could have.
    """
    backward = np.arange(0, batch, backward_every) if backward_every else np.zeros(0, int)
    swapped = np.arange(min(1, batch - 1), batch, swapped_every) if swapped_every else np.zeros(0, int)
    if len(swapped) and batch < 2:
        raise ValueError(
            "a batch of one clip has no other whose motion it could have: set config.data.batch_size to 2 or more, or "
            "config.hard_negatives.swapped_every=0"
        )
    return Rows(backward, swapped)


def backwards(frames: UInt8[Array, "B T H W 3"], end_tick: Int32[Array, "B"]) -> UInt8[Array, "B T H W 3"]:
    """Clips played backwards; what stands from `end_tick` on, past a clip's end, stays where it is."""
    tick = jnp.arange(frames.shape[1], dtype=jnp.int32)
    source = jnp.where(tick < end_tick[:, None], end_tick[:, None] - 1 - tick, tick)
    return jnp.take_along_axis(frames, source[..., None, None, None], axis=1)


def mirrored_moments(
    centre_step: Int[np.ndarray, "X"], event_step: Int[np.ndarray, "Y"], end_step: Int32[Array, "B"], window_steps: int
) -> Bool[Array, "B X Y"]:
    """Which event tokens of the clip played backwards look at the frames of a moment.

    Args:
      centre_step: of the moments, in the clip as it is.
      event_step: where event tokens stand.
      end_step: the step of each clip's last frame, which is the first one backwards.
      window_steps: how far back event tokens look.
    """
    mirrored = end_step[:, None] - jnp.asarray(centre_step, jnp.int32)
    since = jnp.asarray(event_step, jnp.int32) - mirrored[..., None]
    return (since >= 0) & (since < window_steps)


def known_end(slot_valid: Bool[Array, "B S"], video_stride: int) -> Int32[Array, "B"]:
    """The tick after the last one of which something is known: a clip's end where black frames fill it up."""
    at = jnp.arange(1, slot_valid.shape[1] + 1, dtype=jnp.int32)
    return -(-jnp.where(slot_valid, at, 0).max(axis=1) // video_stride)
