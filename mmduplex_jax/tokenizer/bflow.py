"""The tokenizer: `step` for a stream, `__call__` for a clip, equal in values and masks.

frame ─ plan (integers: motion, peaks, budget) ─┬─ anchor ─ tower ─ nested queries ─┬─ event transformer ─ tokens
                                               └─ crops (tower) + motion ─ flow ──┘
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.layers.attention import causal_window_mask
from mmduplex_jax.layers.dense import dense, scaled_init
from mmduplex_jax.layers.kv_cache import KVCache, Placed
from mmduplex_jax.layers.transformer import AttentionContext, Stack, attention_context, empty_stack_cache
from mmduplex_jax.tokenizer import token_plan
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.tokenizer.encoders import AnchorEncoder, CropTower, FlowEncoder, SceneState, table
from mmduplex_jax.tokenizer.sight import FlowSight, Sight, see_clips, see_tick, spent_slots
from mmduplex_jax.typing import Array, Bool, Float, Int32, PyTree, UInt8

FLOW, ANCHOR = 0, 1
# Crops that a trunk sees at once, at least: two at a time take 1.8 times as long, since a CPU arranges the weights anew
# for every product of a few rows (docs/speed.md, "A picture step").
CROPS_AT_ONCE = 8


def crop_trips(config: TokenizerConfig) -> int:
    """How often a stream's tick runs the flow encoder if it spends all its slots: a trace has one run (`_of_some`)."""
    looped = config.flow.layers and config.flow.pixels
    return -(-config.flow_slots // _room(config.flow_slots, CROPS_AT_ONCE)) if looped else 1


def _room(size: int, least: int) -> int:
    """How many of `size` pictures are looked at at a time."""
    return max(min(least, size), size // 8, 1)


def _wanted_first(wanted: Bool[Array, "X"], room: int) -> Int32[Array, "Y"]:
    """Where the wanted ones are, then the others, then `X` up to a multiple of `room` and `room` times more.

    Where all are looked at at once, a loop over no more than `X` would read the same rows in every run: a compiler then
    takes what it computes out of the loop and computes it always, whether it is wanted or not.
    """
    order = jnp.argsort(~wanted, stable=True).astype(jnp.int32)
    return jnp.pad(order, (0, -len(wanted) % room + room), constant_values=len(wanted))


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
        if c.carries_scene:
            self.scene = SceneState(c)
        if c.flow_slots:
            self.flows = FlowEncoder(c)
            if c.flow.tower is not None:
                self.crops = CropTower(c.flow)
        self.kinds = table(self, "kinds", (2, c.width), (None, "feature"))
        self.event_in = dense(c.event.width, ("feature", "embed"), name="event_in", dtype=jnp.dtype(c.dtype))
        self.events = Stack(c.event)
        quiet = scaled_init(c.context_init_scale)
        self.projector = dense(c.width, ("embed", "feature"), name="projector", dtype=jnp.dtype(c.dtype), init=quiet)

    def initial_state(self, batch: int) -> BFlowState:
        c = self.config
        single, size = token_plan.initial(c), c.ring_capacity(c.event.window_steps)
        slots = self.scene.initial(batch) if c.carries_scene else jnp.zeros((batch, 0, c.width), jnp.dtype(c.dtype))
        return BFlowState(
            jax.tree.map(lambda a: jnp.broadcast_to(a, (batch, *a.shape)), single),
            slots,
            empty_stack_cache(c.event, batch, size),
        )

    def _contextualise(
        self, values: Float[Array, "B N D"], context: AttentionContext, placed: Placed | None = None
    ) -> tuple[Float[Array, "B N D"], KVCache | None]:
        """Lets tokens attend to those before them; a residual, so that what a token itself shows stays in it."""
        x, cache = self.events(self.event_in(values), context, placed)
        return values + self.projector(x), cache

    def _flow_values(self, sight: FlowSight, states, at, spent: Bool[Array, "B N"] | None = None):
        """Flow tokens `[B, N, D]`; `at` says which of the scene's states each of them reads.

        Where `spent` says which tokens there are, others may hold anything that is finite.
        """
        values = self.flows(sight) if spent is None else self._spent_flows(sight, spent)
        if self.config.carries_scene:
            values = self.scene.read(values, states, at)
        return values + self.kinds[FLOW].astype(values.dtype)

    def __call__(
        self,
        video: UInt8[Array, "B T H W 3"] | Sight,
        anchor_keep: Int32[Array, "B"] | None = None,
        motion_from: Int32[Array, "B"] | None = None,
    ) -> Tokens:
        """Tokenizes whole clips; tick `t` stands at step `t · video_stride`.

        Args:
          video: frames, one a tick, or what tokens look at in them (`sight.see_clips`), perhaps looked at already
            (`look`).
          anchor_keep: how many of an anchor's tokens stay, the first ones; training draws it, so that every prefix is a
            valid, coarser code. All stay where it is not given.
          motion_from: whose motion a clip's flow tokens are told of, by row: with another than its own a clip looks as
            it did and moves as it did not. Each its own where it is not given.
        """
        c = self.config
        sight = video if isinstance(video, Sight) else see_clips(video, c)
        sight = self.look(sight, anchors=True, crops=c.flow.tower is not None)
        tick, valid = sight.tick, sight.valid
        batch, capacity = tick.shape
        is_flow = sight.slot >= c.anchor_tokens
        if anchor_keep is not None:
            valid &= is_flow | (sight.slot < anchor_keep[:, None])
        values = jnp.zeros((batch, capacity, c.width), jnp.dtype(c.dtype))
        centre = jnp.broadcast_to(jnp.array(c.middle_px, jnp.int32), (batch, capacity, 2))
        scale = jnp.ones((batch, capacity), jnp.int32)
        read = None
        if sight.looks is not None:
            room = sight.looks.shape[1]
            read = self.anchors.read(sight.looks.reshape(batch * room, *sight.looks.shape[2:]))
            read = read.reshape(batch, room, c.anchor_tokens, c.width)
            at = jnp.clip(sight.anchors_before - 1, 0, room - 1) * c.anchor_tokens
            at += jnp.minimum(sight.slot, c.anchor_tokens - 1)
            from_anchor = jnp.take_along_axis(read.reshape(batch, -1, c.width), at[..., None], axis=1)
            values = from_anchor + self.kinds[ANCHOR].astype(values.dtype)
        if sight.flow is not None:
            flow, states, seen = sight.flow, None, None
            if motion_from is not None:
                flow = flow._replace(motion=flow.motion[motion_from], camera=flow.camera[motion_from])
            if read is not None and c.carries_scene:
                states, seen = self._states(read), sight.anchors_before
            from_flow = self._flow_values(flow, states, seen)
            values = jnp.where(is_flow[..., None], from_flow, values)
            centre = jnp.where(is_flow[..., None], flow.centre_px, centre)
            scale = jnp.where(is_flow, flow.scale, scale)

        values = jnp.where(valid[..., None], values, 0)
        step = tick * c.clock.video_stride
        mask = causal_window_mask(step, step, valid, c.event.window_steps)
        values, _ = self._contextualise(values, attention_context(c.event, step, mask))
        values = jnp.where(valid[..., None], values, 0)
        # The budget rules it out; if a change of its rule breaks that, no loss is a number and no token is lost unseen.
        values = jnp.where(sight.fits[:, None, None], values, jnp.nan)
        return Tokens(values, valid, step, jnp.where(is_flow, FLOW, ANCHOR), centre, scale)

    def look(self, sight: Sight, *, anchors: bool, crops: bool) -> Sight:
        """Lets towers look at the pictures of a sight, whose `looks` become their features; what is no picture stays.

        Args:
          sight: of clips.
          anchors: whether the anchors' tower looks.
          crops: whether that of the crops does.
        """
        if anchors and sight.looks is not None and sight.looks.dtype == jnp.uint8:
            batch, room = sight.looks.shape[:2]
            seen = self.anchors.look(sight.looks.reshape(batch * room, *sight.looks.shape[2:]))
            sight = sight._replace(looks=seen.reshape(batch, room, *seen.shape[1:]))
        if crops and sight.flow is not None and sight.flow.looks.dtype == jnp.uint8:
            pictures = sight.flow.looks
            seen = self.crops(pictures.reshape(-1, *pictures.shape[2:]))
            sight = sight._replace(flow=sight.flow._replace(looks=seen.reshape(*pictures.shape[:2], *seen.shape[1:])))
        return sight

    def _states(self, read: Float[Array, "B A U D"]) -> Float[Array, "B A+1 Z D"]:
        """The slots before the first anchor and after each; a short loop, since few anchors fit a clip."""
        states = [self.scene.initial(len(read))]
        for i in range(read.shape[1]):
            states.append(self.scene.update(states[-1], read[:, i]))
        return jnp.stack(states, axis=1)

    def _of_some(
        self,
        look: Callable[["BFlow", Any], Array],
        pictures: PyTree,
        wanted: Bool[Array, "X"],
        each: jax.ShapeDtypeStruct,
        room: int = 1,
    ) -> Float[Array, "X ..."]:
        """What `look` makes of the pictures that are wanted; of others nothing, or what nobody looks at.

        Of many streams few spend an anchor at the same tick, and of the crops of a tick few move, so pictures are
        looked at an eighth at a time, as often as it takes: not at all where there is none, and never more than all.

        Args:
          look: of this module and some pictures.
          pictures: of which some are wanted; an array, or a tree of arrays `[X, ...]`.
          wanted: which.
          each: what `look` gives of one picture.
          room: how many at a time at least, where a picture is so small that the weights cost more than it.
        """
        if self.is_initializing():
            return look(self, pictures)
        size = len(wanted)
        room = _room(size, room)
        order = _wanted_first(wanted, room)
        number = wanted.sum(dtype=jnp.int32)

        def look_on(module: "BFlow", carry: tuple[Array, Array]) -> tuple[Array, Array]:
            done, seen = carry
            rows = jax.lax.dynamic_slice(order, (done,), (room,))
            new = look(module, jax.tree.map(lambda a: jnp.take(a, jnp.minimum(rows, size - 1), axis=0), pictures))
            return done + room, seen.at[rows].set(new, mode="drop")

        begin = jnp.zeros((), jnp.int32), jnp.zeros((size, *each.shape), each.dtype)
        # Flax's types ask for a `bool` where the loop's condition is an array.
        more: Any = lambda module, carry: carry[0] < number
        return nn.while_loop(more, look_on, self, begin)[1]

    def _read_anchors(self, frame: UInt8[Array, "B H W 3"], anchor: Bool[Array, "B"]) -> Float[Array, "B U D"]:
        """The tokens of the frames that are anchors."""
        each = jax.ShapeDtypeStruct((self.config.anchor_tokens, self.config.width), jnp.dtype(self.config.dtype))
        return self._of_some(lambda module, some: module.anchors(some), frame, anchor, each)

    def _looked_at(self, sight: FlowSight, flow: Bool[Array, "B K"]) -> FlowSight:
        """A tick's sight with the features of the crops that are spent."""
        if self.config.flow.tower is None:
            return sight
        batch, count = flow.shape
        each = jax.ShapeDtypeStruct(*self.config.crop_features)
        pictures = sight.looks.reshape(batch * count, *sight.looks.shape[2:])
        seen = self._of_some(lambda module, some: module.crops(some), pictures, flow.reshape(-1), each)
        return sight._replace(looks=seen.reshape(batch, count, *each.shape))

    def _spent_flows(self, sight: FlowSight, spent: Bool[Array, "B K"]) -> Float[Array, "B K D"]:
        """A tick's flow tokens before they read the scene; a trunk runs where any is spent, over some at a time."""
        flow = self.config.flow
        if not (flow.layers and flow.pixels):
            return self.flows(sight)
        one = jax.tree.map(lambda a: a.reshape(-1, 1, *a.shape[2:]), sight)  # clips of a token each
        each = jax.ShapeDtypeStruct((1, self.config.width), jnp.dtype(self.config.dtype))
        values = self._of_some(lambda module, some: module.flows(some), one, spent.reshape(-1), each, CROPS_AT_ONCE)
        return values.reshape(*spent.shape, -1)

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
            read = self._read_anchors(frame, anchor)
            if c.carries_scene:
                slots = jnp.where(anchor[:, None, None], self.scene.update(slots, read), slots)
            parts.append(read + self.kinds[ANCHOR].astype(read.dtype))
            centres.append(jnp.broadcast_to(jnp.array(c.middle_px, jnp.int32), (batch, c.anchor_tokens, 2)))
            scales.append(jnp.ones((batch, c.anchor_tokens), jnp.int32))
        if c.flow_slots:
            first = jnp.zeros((batch, c.flow_slots), jnp.int32)
            spent = plan.flow & active[:, None]
            sight = self._looked_at(see_tick(frame, plan, c), spent)
            parts.append(self._flow_values(sight, slots[:, None], first, spent))
            centres.append(plan.centre_px)
            scales.append(plan.scale)
        valid = spent_slots(plan, c) & active[:, None]
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
