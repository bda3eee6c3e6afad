"""The tokenizer: `step` for a stream, `__call__` for a clip, equal in values and masks.

frame ─ plan (integers: motion, peaks, budget) ─┬─ anchor ─ ViT ─ nested queries ─┬─ event transformer ─ tokens
└─ crops + motion ─ flow tokens ──┘
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.layers.attention import causal_window_mask
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.kv_cache import KVCache, Placed
from mmduplex_jax.layers.transformer import AttentionContext, Stack, attention_context, empty_stack_cache
from mmduplex_jax.tokenizer import token_plan
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.tokenizer.encoders import AnchorEncoder, FlowEncoder, SceneState, crops, motion_patches, table
from mmduplex_jax.typing import Array, Bool, Float, Int32, UInt8

FLOW, ANCHOR = 0, 1


class Tokens(NamedTuple):
    """Packed tokens of a clip, in the order of time; within a tick an anchor's come first.

    Attributes:
      values: `[B, N, D]`, zero where there is none.
      valid: bool `[B, N]`.
      step: int32 `[B, N]`, the step of the token's tick.
      kind: int32 `[B, N]`, FLOW or ANCHOR.
      centre_px: int32 `[B, N, 2]`, where the token looks (the frame's middle for an anchor).
      scale: int32 `[B, N]`, side of what a flow token looks at, in `flow.crop_px`; 1 for an anchor.
    """

    values: Float[Array, "B N D"]
    valid: Bool[Array, "B N"]
    step: Int32[Array, "B N"]
    kind: Int32[Array, "B N"]
    centre_px: Int32[Array, "B N 2"]
    scale: Int32[Array, "B N"]


class BFlowState(NamedTuple):
    """A stream's state, for `B` streams at once.

    Attributes:
      plan: what motion and budget keep of the ticks before.
      slots: `[B, Z, D]`, the scene's state.
      cache: the event transformer's keys and values.
    """

    plan: token_plan.TokenPlanState
    slots: Float[Array, "B Z D"]
    cache: KVCache


class BFlow(nn.Module):
    """The tokenizer as a Linen module without mutable collections."""

    config: TokenizerConfig

    def setup(self):
        c = self.config
        if c.anchor_tokens:
            self.anchors = AnchorEncoder(c)
        if c.kind == "bflow":
            self.scene = SceneState(c)
        if c.flow_slots:
            self.flows = FlowEncoder(c)
        self.kinds = table(self, "kinds", (2, c.width), (None, "feature"))
        self.event_in = dense(c.event.width, ("feature", "embed"), name="event_in", dtype=jnp.dtype(c.dtype))
        self.events = Stack(c.event)
        self.projector = dense(c.width, ("embed", "feature"), name="projector", dtype=jnp.dtype(c.dtype))

    def initial_state(self, batch: int) -> BFlowState:
        c = self.config
        single, size = token_plan.initial(c), c.ring_capacity(c.event.window_steps)
        slots = self.scene.initial(batch) if c.kind == "bflow" else jnp.zeros((batch, 0, c.width), jnp.dtype(c.dtype))
        return BFlowState(
            jax.tree.map(lambda a: jnp.broadcast_to(a, (batch, *a.shape)), single),
            slots,
            empty_stack_cache(c.event, batch, size),
        )

    def _spent(self, plan: token_plan.TokenPlan) -> Bool[Array, "... M"]:
        """Which of a tick's slots hold a token: an anchor's first ones, then flow."""
        anchor = jnp.arange(self.config.anchor_tokens) < plan.anchor_tokens[..., None]
        return jnp.concatenate([anchor, plan.flow], axis=-1)

    def _contextualise(
        self, values: Float[Array, "B N D"], context: AttentionContext, placed: Placed | None = None
    ) -> tuple[Float[Array, "B N D"], KVCache | None]:
        """Lets tokens attend to those before them; a residual, so that what a token itself shows stays in it."""
        x, cache = self.events(self.event_in(values), context, placed)
        return values + self.projector(x), cache

    def _flow_values(self, pictures, motion, places, states, at):
        """Flow tokens `[B, N, D]`.

        `places` holds cell, centre, scale and camera of each, `at` which of the scene's states it reads.
        """
        values = self.flows(pictures, motion, *places)
        if self.config.kind == "bflow":
            values = self.scene.read(values, states, at)
        return values + self.kinds[FLOW].astype(values.dtype)

    def __call__(
        self,
        frames: UInt8[Array, "B T H W 3"],
        anchor_keep: Int32[Array, "B"] | None = None,
        motion_from: Int32[Array, "B"] | None = None,
    ) -> Tokens:
        """Tokenizes whole clips; tick `t` stands at step `t · video_stride`.

        Args:
          frames: one a tick.
          anchor_keep: how many of an anchor's tokens stay, the first ones; training draws it, so that every prefix is a
            valid, coarser code. All stay where it is not given.
          motion_from: whose motion a clip's flow tokens are told of, by row: with another than its own a clip looks as
            it did and moves as it did not. Each its own where it is not given.
        """
        c = self.config
        batch, ticks = frames.shape[:2]
        plan = jax.vmap(lambda f: token_plan.plan_clip(f, c))(frames)
        spent = self._spent(plan)
        capacity = c.token_capacity(ticks)
        source, fits = _packed_positions(spent.reshape(batch, -1), capacity)  # [B, N], flat (tick, slot)
        valid = source < ticks * c.slots
        source = jnp.minimum(source, ticks * c.slots - 1)
        tick, slot = source // c.slots, source % c.slots
        is_flow = slot >= c.anchor_tokens
        if anchor_keep is not None:
            valid &= is_flow | (slot < anchor_keep[:, None])
        values = jnp.zeros((batch, capacity, c.width), jnp.dtype(c.dtype))
        centre = jnp.broadcast_to(jnp.array(c.middle_px, jnp.int32), (batch, capacity, 2))
        scale = jnp.ones((batch, capacity), jnp.int32)

        if c.anchor_tokens:
            room = c.anchor_capacity(ticks)
            which, anchors_fit = _packed_positions(plan.anchor, room)  # [B, A]
            fits, which = fits & anchors_fit, jnp.minimum(which, ticks - 1)
            chosen = jnp.take_along_axis(frames, which[..., None, None, None], axis=1)
            read = self.anchors(chosen.reshape(-1, *frames.shape[2:])).reshape(batch, room, c.anchor_tokens, c.width)
            count = jnp.cumsum(plan.anchor, axis=1)  # anchors up to and including each tick
            at = jnp.take_along_axis(count, tick, axis=1) - 1
            at = jnp.clip(at, 0, room - 1) * c.anchor_tokens + jnp.minimum(slot, c.anchor_tokens - 1)
            from_anchor = jnp.take_along_axis(read.reshape(batch, -1, c.width), at[..., None], axis=1)
            values = from_anchor + self.kinds[ANCHOR].astype(values.dtype)
        if c.flow_slots:
            pick = lambda a: jnp.take_along_axis(
                a.reshape(batch, ticks * c.flow_slots, -1),
                (tick * c.flow_slots + jnp.maximum(slot - c.anchor_tokens, 0))[..., None],
                axis=1,
            )
            cell, flow_centre, flow_scale = pick(plan.cell), pick(plan.centre_px), pick(plan.scale)[..., 0]
            camera = jnp.take_along_axis(plan.camera, tick[..., None], axis=1)
            pictures = jax.vmap(functools.partial(crops, flow=c.flow))(frames, tick, flow_centre, flow_scale)
            motion = jax.vmap(motion_patches)(plan.motion, tick, cell)
            if motion_from is not None:
                motion, camera = motion[motion_from], camera[motion_from]
            states, seen = None, None
            if c.kind == "bflow":
                states, seen = self._states(read), jnp.take_along_axis(count, tick, axis=1)
            from_flow = self._flow_values(pictures, motion, (cell, flow_centre, flow_scale, camera), states, seen)
            values = jnp.where(is_flow[..., None], from_flow, values)
            centre = jnp.where(is_flow[..., None], flow_centre, centre)
            scale = jnp.where(is_flow, flow_scale, scale)

        values = jnp.where(valid[..., None], values, 0)
        step = tick * c.clock.video_stride
        mask = causal_window_mask(step, step, valid, c.event.window_steps)
        values, _ = self._contextualise(values, attention_context(c.event, step, mask))
        values = jnp.where(valid[..., None], values, 0)
        # The budget rules it out; if a change of its rule breaks that, no loss is a number and no token is lost unseen.
        values = jnp.where(fits[:, None, None], values, jnp.nan)
        return Tokens(values, valid, step, jnp.where(is_flow, FLOW, ANCHOR), centre, scale)

    def _states(self, read: Float[Array, "B A U D"]) -> Float[Array, "B A+1 Z D"]:
        """The slots before the first anchor and after each; a short loop, since few anchors fit a clip."""
        states = [self.scene.initial(len(read))]
        for i in range(read.shape[1]):
            states.append(self.scene.update(states[-1], read[:, i]))
        return jnp.stack(states, axis=1)

    def _read_anchors(self, frame: UInt8[Array, "B H W 3"], anchor: Bool[Array, "B"]) -> Float[Array, "B U D"]:
        """The tokens of the frames that are anchors; of others nothing, or what nobody looks at.

        Of many streams few spend an anchor at the same tick, so frames are looked at an eighth of the rows at a time,
        as often as it takes: not at all where there is none, and never more than all.
        """
        batch = len(frame)
        room = max(1, batch // 8)
        order = jnp.argsort(~anchor, stable=True).astype(jnp.int32)
        order = jnp.pad(order, (0, -batch % room), constant_values=batch)
        number = anchor.sum(dtype=jnp.int32)

        def look(module: "BFlow", carry: tuple[Array, Array]) -> tuple[Array, Array]:
            done, read = carry
            rows = jax.lax.dynamic_slice(order, (done,), (room,))
            new = module.anchors(jnp.take(frame, jnp.minimum(rows, batch - 1), axis=0))
            return done + room, read.at[rows].set(new, mode="drop")

        nothing = jnp.zeros((batch, self.config.anchor_tokens, self.config.width), jnp.dtype(self.config.dtype))
        begin = jnp.zeros((), jnp.int32), nothing
        # Flax's types ask for a `bool` where the loop's condition is an array.
        more: Any = lambda module, carry: carry[0] < number
        return nn.while_loop(more, look, self, begin)[1]

    def step(
        self,
        state: BFlowState,
        frame: UInt8[Array, "B H W 3"],
        now: Int32[Array, "B"],
        active: Bool[Array, "B"],
        cap: Int32[Array, "B"] | None = None,
    ) -> tuple[BFlowState, Tokens]:
        """One tick of `B` streams.

        Args:
          state: from `initial_state` or the last call.
          frame: the frames that the streams show.
          now: each stream's step.
          active: streams that take part; the others' state does not change and their tokens are not valid.
          cap: tokens a second at most, where fewer than configured are wanted.

        Returns:
          The new state and the tick's tokens, with `N = M` slots: an anchor's, then flow tokens.
        """
        c = self.config
        batch = len(frame)
        if cap is None:
            cap = jnp.full((batch,), c.cap, jnp.int32)
        new_plan_state, plan = jax.vmap(lambda s, f, m: token_plan.plan_tick(s, f, c, m))(state.plan, frame, cap)
        anchor = plan.anchor & active
        parts, centres, scales, slots = [], [], [], state.slots
        if c.anchor_tokens:
            read = self.anchors(frame) if self.is_initializing() else self._read_anchors(frame, anchor)
            if c.kind == "bflow":
                slots = jnp.where(anchor[:, None, None], self.scene.update(slots, read), slots)
            parts.append(read + self.kinds[ANCHOR].astype(read.dtype))
            centres.append(jnp.broadcast_to(jnp.array(c.middle_px, jnp.int32), (batch, c.anchor_tokens, 2)))
            scales.append(jnp.ones((batch, c.anchor_tokens), jnp.int32))
        if c.flow_slots:
            tick = jnp.zeros((c.flow_slots,), jnp.int32)
            cut = lambda f, at, scale: crops(f[None], tick, at, scale, c.flow)
            pictures = jax.vmap(cut)(frame, plan.centre_px, plan.scale)
            motion = jax.vmap(lambda m, at: motion_patches(m[None], tick, at))(plan.motion, plan.cell)
            camera = jnp.broadcast_to(plan.camera[:, None], (batch, c.flow_slots, 2))
            first = jnp.zeros((batch, c.flow_slots), jnp.int32)
            places = (plan.cell, plan.centre_px, plan.scale, camera)
            parts.append(self._flow_values(pictures, motion, places, slots[:, None], first))
            centres.append(plan.centre_px)
            scales.append(plan.scale)
        valid = self._spent(plan) & active[:, None]
        values = jnp.where(valid[..., None], jnp.concatenate(parts, axis=1), 0)
        steps = jnp.broadcast_to(now[:, None], valid.shape)
        placed = state.cache.place(steps, valid)
        context = attention_context(c.event, steps, placed.cache.mask(steps, c.event.window_steps))
        values, cache = self._contextualise(values, context, placed)
        assert cache is not None  # a stack that is given one gives one back
        values = jnp.where(valid[..., None], values, 0)
        kind = jnp.where(jnp.arange(c.slots) < c.anchor_tokens, ANCHOR, FLOW)
        keep = lambda new, old: jax.tree.map(
            lambda a, b: jnp.where(active.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old
        )
        state = BFlowState(keep(new_plan_state, state.plan), slots, cache)
        kinds = jnp.broadcast_to(kind, valid.shape)
        looks = (jnp.concatenate(part, axis=1) for part in (centres, scales))
        tokens = Tokens(values, valid, steps, kinds, *looks)
        return state, tokens


def _packed_positions(mask: Bool[Array, "B X"], capacity: int) -> tuple[Int32[Array, "B capacity"], Bool[Array, "B"]]:
    """The positions of the true entries, in order, `X` (one past the end) where there are no more; whether all fit."""
    size = mask.shape[1]
    target = jnp.where(mask, jnp.cumsum(mask, axis=1) - 1, capacity)
    rows = jnp.arange(mask.shape[0])[:, None]
    filled = jnp.full((mask.shape[0], capacity), size, jnp.int32)
    filled = filled.at[rows, target].set(jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), mask.shape), mode="drop")
    return filled, mask.sum(axis=1) <= capacity
