"""The dual-stream transformer: text that is written while video is watched.

Video tokens pass a causal video stream; text is a decoder-only language model with one slot a step. `fusion` says how
they
meet: `cross` (text layers look at projected video tokens, through gates that may start at zero), `sum` (one vector a
step is added to the text embedding, as Moshi sums its streams) or `interleave` (one sequence, as LiveCC).

A text slot at step `s` is given the slot before and sees video with `time ≤ s`; video never sees text (but in
`interleave`).
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.layers import ring, rotary
from mmduplex_jax.layers.attention import attend, causal_window_mask, heads_first
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.norms import RMSNorm
from mmduplex_jax.layers.transformer import Stack, StackConfig, attention_context, empty_stack_buffers, phases
from mmduplex_jax.layers.vocabulary import token_loss_of
from mmduplex_jax.models.event_memory import EventMemory, MemoryConfig, MemoryState
from mmduplex_jax.tokenizer.bflow import BFlow, BFlowState, Tokens
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.typing import Array, Bool, Float, Int32, UInt8

FUSIONS = ("cross", "sum", "interleave")
TOKEN_CONTROLS = ("real", "shuffled", "zeroed")


@dataclasses.dataclass(frozen=True)
class DualStreamConfig:
    """Everything about the model.

    Attributes:
      tokenizer, video, text: the parts.
      fusion: how the streams meet, one of `FUSIONS`.
      vocab_size: ids of the text tokenizer, marks included.
      vocab_rows_min: rows that the embedding table has at least.
      vocab_multiple: the embedding table is padded to a multiple of this, so that it can be sharded.
      pad_id, word_id, start_id: the marks.
      delay_max: largest delay that the model is told apart from others.
      tied: whether the head is the embedding table; otherwise it is a table of its own.
      future_word_head: whether there is a head that names the words of the next second or two (a helper in training).
      memory: what video tokens see of the last hour; None for nothing.
      token_control: "real", or a control that ruins the tokens' contents: "shuffled" (each row gets its neighbour's) or
        "zeroed".
    """

    tokenizer: TokenizerConfig
    video: StackConfig
    text: StackConfig
    fusion: str
    vocab_size: int
    pad_id: int
    word_id: int
    start_id: int
    delay_max: int
    vocab_rows_min: int = 0
    vocab_multiple: int = 128
    tied: bool = True
    future_word_head: bool = False
    memory: MemoryConfig | None = None
    token_control: str = "real"

    def __post_init__(self):
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion is one of {', '.join(FUSIONS)}, not {self.fusion!r}")
        if self.token_control not in TOKEN_CONTROLS:
            raise ValueError(f"token_control is one of {', '.join(TOKEN_CONTROLS)}, not {self.token_control!r}")
        if (self.fusion == "cross") != bool(self.text.cross_every):
            raise ValueError(f"fusion {self.fusion!r} does not go with text.cross_every={self.text.cross_every}")

    @property
    def vocab_rows(self) -> int:
        return -(-max(self.vocab_size, self.vocab_rows_min) // self.vocab_multiple) * self.vocab_multiple

    @property
    def clock(self):
        return self.tokenizer.clock

    @property
    def text_ring_size(self) -> int:
        size = self.text.num_sinks + self.text.window_steps
        return size + (self.tokenizer.ring_capacity(self.text.window_steps) if self.fusion == "interleave" else 0)


class LiveState(NamedTuple):
    """All that `B` streams remember; a pytree of fixed size.

    Attributes:
      tokenizer: see `BFlowState`.
      video_index, video_buffers: rings of the video stream.
      seen: projected keys and values that text looks at, placed like the video stream's; a pair `[B, G, R, E]` a group
        of text layers, stacked to `[groups, B, G, R, E]` each where those are scanned.
      text_index, text_buffers: rings of the text stream.
      step: int32 `[B]`, the step to be done next.
      token: int32 `[B]`, the slot of the step before.
      memory: of events; () for a model without.
    """

    tokenizer: BFlowState
    video_index: ring.RingIndex
    video_buffers: Any
    seen: Any
    text_index: ring.RingIndex
    text_buffers: Any
    step: Int32[Array, "B"]
    token: Int32[Array, "B"]
    memory: MemoryState | tuple[()] = ()


class VideoPool(nn.Module):
    """One vector a step for `sum`: a learned query looks at the projected video tokens."""

    config: StackConfig

    @nn.compact
    def __call__(self, phase: Array, mask: Bool[Array, "B S N"], keys_values: tuple[Array, Array]) -> Array:
        c = self.config
        dtype = jnp.dtype(c.dtype)
        normal = nn.with_logical_partitioning(nn.initializers.normal(1.0), (None, None))
        query = self.param("query", normal, (c.heads, c.head_width)).astype(dtype)
        query = rotary.rotate(jnp.broadcast_to(query, (*mask.shape[:2], *query.shape)), phase)
        zeros = nn.initializers.zeros_init()
        null = self.param("null", nn.with_logical_partitioning(zeros, (None,)), (c.heads,))
        out = attend(query, *keys_values, mask, null_logit=null).reshape(*mask.shape[:2], -1)
        gate = self.param("gate", nn.with_logical_partitioning(nn.initializers.constant(c.cross_gate), (None,)), (1,))
        return dense(c.width, (c.heads_axis, "embed"), name="out", dtype=dtype)(out) * jnp.tanh(gate).astype(dtype)


class DualStream(nn.Module):
    """The model as a Linen module without mutable collections."""

    config: DualStreamConfig

    def setup(self):
        c = self.config
        self.tokenizer = BFlow(c.tokenizer)
        normal = lambda *axes: nn.with_logical_partitioning(nn.initializers.normal(0.02), axes)
        self.embedding = self.param("embedding", normal("vocab", "embed"), (c.vocab_rows, c.text.width))
        self.delays = self.param("delays", normal(None, "embed"), (c.delay_max + 1, c.text.width))
        if not c.tied:
            self.head = self.param("head", normal("vocab", "embed"), (c.vocab_rows, c.text.width))
        self.text = Stack(c.text)
        dtype = jnp.dtype(c.text.dtype)
        if c.fusion == "interleave":
            self.video_in = dense(c.text.width, ("feature", "embed"), name="video_in", dtype=dtype)
        else:
            self.video_in = dense(c.video.width, ("feature", "embed"), name="video_in", dtype=jnp.dtype(c.video.dtype))
            self.video = Stack(c.video)
            self.projector_norm = RMSNorm(dtype=dtype)
            layers = c.text.groups if c.fusion == "cross" else 1
            out = layers * 2 * c.text.kv_heads * c.text.head_width
            self.projector = dense(out, ("embed", "kv_heads"), name="projector", dtype=dtype)
        if c.fusion == "sum":
            self.pool = VideoPool(c.text)
        if c.memory is not None:
            self.memory = EventMemory(c.memory, c.text.width if c.fusion == "interleave" else c.video.width)
        if c.future_word_head:
            self.future_word_head = dense(c.text.width, ("embed", "mlp"), name="future_word_head", dtype=dtype)

    # What both forms share.

    def _controlled(self, values: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        control = self.config.token_control
        if control == "shuffled":
            return jnp.roll(values, 1, axis=0)
        return jnp.zeros_like(values) if control == "zeroed" else values

    def _embed(self, slots: Int32[Array, "B S"], delay: Int32[Array, "B"]) -> Float[Array, "B S D"]:
        delay = jnp.minimum(delay, self.config.delay_max)
        return (self.embedding[slots] + self.delays[delay][:, None]).astype(jnp.dtype(self.config.text.dtype))

    def _logits(self, x: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        logits = jnp.einsum("bsd,vd->bsv", x, self._table().astype(x.dtype), preferred_element_type=jnp.float32)
        return logits[..., : self.config.vocab_size]

    def _table(self) -> Float[Array, "V D"]:
        return self.embedding if self.config.tied else self.head

    def _project(self, video: Float[Array, "B N D"], step: Int32[Array, "B N"]) -> tuple[Array, Array]:
        """Keys, rotated to their steps, and values for the text layers: `[groups, B, N, G, E]` each."""
        c = self.config.text
        out = self.projector(self.projector_norm(video))
        out = out.reshape(*video.shape[:2], -1, 2, c.kv_heads, c.head_width)
        out = jnp.moveaxis(out, 2, 0)
        phase = phases(c, step)
        keys = jax.vmap(lambda k: rotary.rotate(k, phase))(out[..., 0, :, :])
        return keys, out[..., 1, :, :]

    def _by_group(self, stacked: tuple[Array, Array]) -> Any:
        """Keys and values as text layers take them (`Stack`): a pair a group, or stacked where those are scanned."""
        if self.config.text.scan:
            return stacked
        return tuple((keys, values) for keys, values in zip(*stacked))

    def _text(self, x, look, buffers, keys_values):
        """Runs the text layers where the streams meet outside the sequence (`cross`, `sum`)."""
        if self.config.fusion == "sum":
            first = jax.tree.map(lambda a: a[0], keys_values) if self.config.text.scan else keys_values[0]
            x = x + self.pool(look.cross_phase, look.cross_mask, first)
            keys_values = None
        return self.text(x, look, buffers, keys_values)

    # Whole clips.

    def __call__(
        self,
        frames: UInt8[Array, "B T H W 3"],
        slots: Int32[Array, "B S"],
        delay: Int32[Array, "B"],
        anchor_keep: Int32[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B S V"], Tokens]:
        """Logits of every step, teacher-forced.

        Args:
          frames: one a tick.
          slots: the slot before each step (`streams.shifted`).
          delay: steps that the text runs behind, one a row.
          anchor_keep: see `BFlow`.
        """
        tokens = self.tokenizer(frames, anchor_keep)
        x = self.hidden(tokens, slots, delay)
        if self.is_initializing() and self.config.future_word_head:
            self.future_word_head(x)
        return self._logits(x), tokens

    def token_nll(
        self,
        frames: UInt8[Array, "B T H W 3"],
        slots: Int32[Array, "B S"],
        delay: Int32[Array, "B"],
        anchor_keep: Int32[Array, "B"] | None,
        target: Int32[Array, "B S"],
        chunk: int = 0,
    ) -> tuple[Float[Array, "B S"], Float[Array, "B S V"] | None, Tokens]:
        """Negative log-likelihood of `target` at every step, in nats, teacher-forced; other arguments as of `__call__`.

        Args:
          chunk: steps whose logits are held at once (`layers/vocabulary.py`); 0 for all.

        Returns:
          Each target's negative log-likelihood; the future-word head's logits, of all steps (None without one); tokens.
        """
        tokens = self.tokenizer(frames, anchor_keep)
        x = self.hidden(tokens, slots, delay)
        nll, _ = token_loss_of(x, self._table(), target, chunk, self.config.vocab_size)
        return nll, self._logits(self.future_word_head(x)) if self.config.future_word_head else None, tokens

    def hidden(self, tokens: Tokens, slots: Int32[Array, "B S"], delay: Int32[Array, "B"]) -> Float[Array, "B S D"]:
        """The text stream's last layer, from tokens that were made before (videos can be encoded once and kept)."""
        c = self.config
        values = self._controlled(tokens.values)
        batch, length = slots.shape
        step = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
        x, video = self._embed(slots, delay), self.video_in(values)
        if c.memory is not None:
            video = video + self.memory(values, tokens.step, tokens.valid, length)
        if c.fusion == "interleave":
            x = jnp.concatenate([x, video], axis=1)
            at = jnp.concatenate([step, tokens.step], axis=1)
            order = jnp.concatenate([2 * step + 1, 2 * tokens.step], axis=1)
            valid = jnp.concatenate([jnp.ones_like(step, bool), tokens.valid], axis=1)
            mask = causal_window_mask(order, order, at, at, valid, c.text.window_steps, c.text.num_sinks)
            x, _ = self.text(x, attention_context(c.text, at, mask))
            return x[:, :length]
        at = tokens.step
        mask = causal_window_mask(at, at, at, at, tokens.valid, c.video.window_steps)
        video, _ = self.video(video, attention_context(c.video, at, mask))
        keys_values = self._by_group(jax.vmap(heads_first)(*self._project(video, at)))
        cross_mask = causal_window_mask(step, at, step, at, tokens.valid, c.video.window_steps)
        valid = jnp.ones_like(step, bool)
        mask = causal_window_mask(step, step, step, step, valid, c.text.window_steps, c.text.num_sinks)
        x, _ = self._text(x, attention_context(c.text, step, mask, cross_mask=cross_mask), None, keys_values)
        return x

    # Streams.

    def initial_state(self, batch: int) -> LiveState:
        c = self.config
        size = 0 if c.fusion == "interleave" else c.tokenizer.ring_capacity(c.video.window_steps)
        layers = {"cross": c.text.groups, "sum": 1, "interleave": 0}[c.fusion]
        seen = lambda: ring.empty_buffers(batch, size, c.text.kv_heads, c.text.head_width, jnp.dtype(c.text.dtype))
        stacked = lambda: jax.tree.map(lambda a: jnp.broadcast_to(a, (layers, *a.shape)), seen())
        return LiveState(
            tokenizer=self.tokenizer.initial_state(batch),
            video_index=ring.empty_index(batch, size),
            video_buffers=() if c.fusion == "interleave" else empty_stack_buffers(c.video, batch, size),
            seen=stacked() if c.text.scan else tuple(seen() for _ in range(layers)),
            text_index=ring.empty_index(batch, c.text_ring_size),
            text_buffers=empty_stack_buffers(c.text, batch, c.text_ring_size),
            step=jnp.zeros((batch,), jnp.int32),
            token=jnp.full((batch,), c.start_id, jnp.int32),
            memory=() if c.memory is None else self.memory.initial_state(batch),
        )

    def video_step(
        self, state: LiveState, frame: UInt8[Array, "B H W 3"], active: Bool[Array, "B"], cap: Any = None
    ) -> tuple[LiveState, Tokens]:
        """One tick of the rows that are active: tokenizes the frame and lets the text stream see it."""
        c = self.config
        kept, tokens = self.tokenizer.step(state.tokenizer, frame, state.step, active, cap)
        values, at = self._controlled(tokens.values), tokens.step
        video = self.video_in(values)
        state = state._replace(tokenizer=kept)
        if isinstance(state.memory, MemoryState):
            memory, found = self.memory.step(state.memory, values, tokens.valid, state.step, active)
            state, video = state._replace(memory=memory), video + found
        if c.fusion == "interleave":
            index, entry = ring.place(state.text_index, at, tokens.valid, c.text.num_sinks)
            look = attention_context(c.text, at, self._ring_mask(at, index), entry=entry)
            _, buffers = self.text(video, look, state.text_buffers)
            return state._replace(text_index=index, text_buffers=buffers), tokens
        index, entry = ring.place(state.video_index, at, tokens.valid)
        mask = causal_window_mask(at, index.step, at, index.step, index.step >= 0, c.video.window_steps)
        look = attention_context(c.video, at, mask, entry=entry)
        video, buffers = self.video(video, look, state.video_buffers)
        new, write = self._project(video, at), lambda old, key, value: ring.write_pair(old, entry, key, value)
        if c.text.scan:
            seen: Any = jax.vmap(write)(state.seen, *new)
        else:
            seen = tuple(write(old, *pair) for old, pair in zip(state.seen, self._by_group(new)))
        return state._replace(video_index=index, video_buffers=buffers, seen=seen), tokens

    def text_step(
        self, state: LiveState, delay: Int32[Array, "B"], active: Bool[Array, "B"]
    ) -> tuple[LiveState, Float[Array, "B V"]]:
        """One step of the text stream of the rows that are active.

        Returns:
          The state with the step counted (the caller sets `token` to what it chose), and the logits.
        """
        c = self.config
        step = state.step[:, None]
        x = self._embed(state.token[:, None], delay)
        index, entry = ring.place(state.text_index, step, active[:, None], c.text.num_sinks, sinks=True)
        mask = self._ring_mask(step, index)
        cross_mask = None
        if c.fusion != "interleave":
            at = state.video_index.step
            cross_mask = causal_window_mask(step, at, step, at, at >= 0, c.video.window_steps)
        look = attention_context(c.text, step, mask, entry=entry, cross_mask=cross_mask)
        if c.fusion == "interleave":
            x, buffers = self.text(x, look, state.text_buffers)
        else:
            x, buffers = self._text(x, look, state.text_buffers, state.seen)
        done = state._replace(text_index=index, text_buffers=buffers, step=state.step + active)
        return done, self._logits(x)[:, 0]

    def _ring_mask(self, step: Int32[Array, "B S"], index: ring.RingIndex) -> Bool[Array, "B S R"]:
        text = self.config.text
        return causal_window_mask(
            step, index.step, step, index.step, index.step >= 0, text.window_steps, text.num_sinks
        )
