"""How well event tokens find what was said about them: a contrastive loss over all moments of a batch.

A moment's event token must find its bag of words among all bags, and the bag its event token among all of them (InfoNCE
as in CLIP, Radford et al., 2021). Other moments of the same video are among the others: they look alike, and only what
happens differs. Moments so near that their bags overlap, and bags of the same words, are neither right nor wrong.

A bag must also refuse hard negatives, which differ from what it describes in nothing but the arrow of time or the
motion: the clip played backwards, and the clip with another's motion (after the arrow of time of Wei et al., 2018).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.layers.attention import MASKED
from mmduplex_jax.stages.bflow.word_bags import Bags
from mmduplex_jax.typing import Array, Bool, Float, Int


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
      bags: of the batch.
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
      scale: factor of the cosines.
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
