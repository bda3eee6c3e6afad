"""Captions out of a model that tells how likely each next token is: greedily, by chance, or by a beam.

Nothing here knows the model. It is a function `write(memory, token) -> (memory, logits)` over `N` captions at once, and
for a beam a function that copies rows of the memory. All is compiled as one program with a loop inside that ends as
soon as every caption has. A caption ends with its end mark; the last token that there is room for is always that.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmduplex_jax.typing import Array, Bool, Float, Int32, PyTree

HOW = ("greedy", "sample", "beam")
Write = Callable[[PyTree, Array], tuple[PyTree, Array]]
GatherCache = Callable[[PyTree, Array], PyTree]


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
      how: "greedy" (the likeliest, one by one), "sample" (by chance) or "beam" (the likeliest caption of those that
        `width` unfinished or finished ones, kept at every token, lead to).
      temperature: of "sample": logits are divided by it.
      top_p: of "sample": only the likeliest tokens that together reach this probability (Holtzman et al., 2020).
      width: of "beam"; 1 is greedy.
      length_penalty: of "beam": a caption's score is its log-probability over (its number of tokens) ** this; 0 favours
        short captions, 1 compares the mean of a token.
    """

    how: str = "greedy"
    temperature: float = 1.0
    top_p: float = 1.0
    width: int = 4
    length_penalty: float = 0.0

    def __post_init__(self):
        if self.how not in HOW:
            raise ValueError(f"decoding is one of {', '.join(HOW)}, not {self.how!r}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be over 0, got {self.temperature}; the likeliest token: 'greedy'")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be over 0 and at most 1, got {self.top_p}")
        if self.width < 1:
            raise ValueError(f"a beam needs a width of at least 1, got {self.width}")
        if not self.length_penalty >= 0:
            raise ValueError(f"length_penalty must be at least 0, got {self.length_penalty}")


class Written(NamedTuple):
    """Captions.

    Attributes:
      ids: int32 `[B, S]`, the end mark from where a caption ends.
      length: int32 `[B]`, tokens with the end mark.
      log_prob: float32 `[B]`, of the whole caption by the model, its end mark included.
    """

    ids: Int32[Array, "B S"]
    length: Int32[Array, "B"]
    log_prob: Float[Array, "B"]


def decode(
    decoding: Decoding,
    write: Write,
    gather_cache: GatherCache,
    memory: PyTree,
    logits: Float[Array, "B V"],
    *,
    allowed: Bool[Array, "V"],
    end_id: int,
    length: int,
    keys: Array,
) -> Written:
    """Writes captions; to be jitted by the caller.

    Args:
      decoding: how.
      write: reads a token of every row and gives the logits of the next.
      gather_cache: `(memory, rows int32 [N]) -> memory` of these rows, which may repeat; for "beam".
      memory: what `write` goes on from.
      logits: of the first token.
      allowed: ids that a caption may hold; the end mark may always come.
      end_id: the end mark.
      length: S, the most tokens, end mark included.
      keys: typed keys `[B]` of `jax.random`; for "sample". A row's caption depends on its own key only.
    """
    may = jnp.asarray(allowed).at[end_id].set(True)
    log_probs = lambda raw: jax.nn.log_softmax(jnp.where(may, raw.astype(jnp.float32), -jnp.inf))
    if decoding.how == "beam":
        return _beam(decoding, write, gather_cache, memory, logits, log_probs, end_id, length)
    if decoding.how == "greedy":
        choose = lambda scores, step: scores.argmax(axis=-1)
    else:
        choose = lambda scores, step: jax.vmap(jax.random.categorical)(
            jax.vmap(jax.random.fold_in, (0, None))(keys, step), nucleus(scores / decoding.temperature, decoding.top_p)
        )
    return _one_by_one(choose, write, memory, logits, log_probs, end_id, length)


def nucleus(logits: Float[Array, "B V"], top_p: float) -> Float[Array, "B V"]:
    """Log-probabilities of the fewest likeliest tokens that reach `top_p` together; the others are -inf."""
    log_prob = jax.nn.log_softmax(logits)
    if top_p == 1:
        return log_prob
    falling = -jnp.sort(-log_prob, axis=-1)
    before = jnp.cumsum(jnp.exp(falling), axis=-1) - jnp.exp(falling)
    last = jnp.where(before < top_p, falling, jnp.inf).min(axis=-1, keepdims=True)
    return jax.nn.log_softmax(jnp.where(log_prob >= last, log_prob, -jnp.inf))


class _Row(NamedTuple):
    """Captions so far: how many steps were done, the last tokens, and what is known of each caption."""

    step: Array
    memory: PyTree
    ids: Array
    length: Array
    log_prob: Array
    done: Array


def _one_by_one(
    choose: Callable, write: Write, memory: PyTree, logits: Array, log_probs: Callable, end_id: int, length: int
) -> Written:
    batch = len(logits)

    def add(row: _Row, scores: Array) -> _Row:
        last = row.step == length - 1
        token = jnp.where(row.done | last, end_id, choose(scores, row.step).astype(jnp.int32))
        gained = jnp.take_along_axis(scores, token[:, None], axis=1)[:, 0]
        return _Row(
            row.step + 1,
            row.memory,
            row.ids.at[:, row.step].set(token),
            row.length + ~row.done,
            row.log_prob + jnp.where(row.done, 0.0, gained),
            row.done | (token == end_id),
        )

    def go_on(row: _Row) -> _Row:
        memory, logits = write(row.memory, row.ids[:, row.step - 1])
        return add(row._replace(memory=memory), log_probs(logits))

    start = _Row(
        jnp.zeros((), jnp.int32),
        memory,
        jnp.full((batch, length), end_id, jnp.int32),
        jnp.zeros((batch,), jnp.int32),
        jnp.zeros((batch,), jnp.float32),
        jnp.zeros((batch,), bool),
    )
    end = jax.lax.while_loop(lambda row: ~row.done.all(), go_on, add(start, log_probs(logits)))
    return Written(end.ids, end.length, end.log_prob)


def _beam(
    decoding: Decoding,
    write: Write,
    gather_cache: GatherCache,
    memory: PyTree,
    logits: Array,
    log_probs: Callable,
    end_id: int,
    length: int,
) -> Written:
    """A beam in which finished captions keep their places, so that width 1 is greedy whatever the penalty."""
    batch, vocab = logits.shape
    width = decoding.width
    score = lambda log_prob, tokens: log_prob / tokens.astype(jnp.float32) ** decoding.length_penalty

    def add(row: _Row, scores: Array) -> tuple[_Row, Array]:
        """The best captions that are one token longer, or finished; and whose continuations they are."""
        is_end = jnp.arange(vocab) == end_id
        may = jnp.where((row.step == length - 1) | row.done[..., None], is_end, True)
        gained = jnp.where(row.done[..., None], 0.0, scores.reshape(batch, width, vocab))
        log_prob = jnp.where(may, row.log_prob[..., None] + gained, -jnp.inf)
        tokens = row.length + ~row.done
        _, best = jax.lax.top_k(score(log_prob, tokens[..., None]).reshape(batch, -1), width)
        parent, token = best // vocab, best % vocab
        pick = lambda array: jnp.take_along_axis(array, parent, axis=1)
        ids = jnp.take_along_axis(row.ids, parent[..., None], axis=1).at[:, :, row.step].set(token)
        kept = jnp.take_along_axis(log_prob.reshape(batch, -1), best, axis=1)
        new = _Row(row.step + 1, row.memory, ids, pick(tokens), kept, pick(row.done) | (token == end_id))
        return new, (parent + width * jnp.arange(batch)[:, None]).reshape(-1)

    def unsettled(carry: tuple[_Row, Array]) -> Array:
        row, _ = carry
        # A log-probability only falls; divided by the most that it may be, it bounds every score that it may lead to.
        reach = jnp.where(row.done, -jnp.inf, score(row.log_prob, jnp.full_like(row.length, length)))
        found = jnp.where(row.done, score(row.log_prob, row.length), -jnp.inf)
        return (reach.max(axis=1) > found.max(axis=1)).any()

    def go_on(carry: tuple[_Row, Array]) -> tuple[_Row, Array]:
        row, parents = carry
        memory, logits = write(gather_cache(row.memory, parents), row.ids[:, :, row.step - 1].reshape(-1))
        return add(row._replace(memory=memory), log_probs(logits))

    each = jnp.repeat(jnp.arange(batch), width)
    first = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf)  # all are the same: one of them counts
    start = _Row(
        jnp.zeros((), jnp.int32),
        gather_cache(memory, each),
        jnp.full((batch, width, length), end_id, jnp.int32),
        jnp.zeros((batch, width), jnp.int32),
        jnp.broadcast_to(first, (batch, width)).astype(jnp.float32),
        jnp.zeros((batch, width), bool),
    )
    end, _ = jax.lax.while_loop(unsettled, go_on, add(start, log_probs(logits[each])))
    best = jnp.where(end.done, score(end.log_prob, end.length), -jnp.inf).argmax(axis=1)[:, None]
    return Written(
        jnp.take_along_axis(end.ids, best[..., None], axis=1)[:, 0],
        jnp.take_along_axis(end.length, best, axis=1)[:, 0],
        jnp.take_along_axis(end.log_prob, best, axis=1)[:, 0],
    )
