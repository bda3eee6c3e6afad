"""What a run costs before it is run: memory, time, money, data; from its config and what a device is said to do.

Operations and memory are read off the traced gradient (`traced.py`), and time is operations over a share of the
device's peak (MFU), which is a guess until it is measured. Where a guess stands, it is an argument.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.extend import core

from mmduplex_jax.frame_size import frame_size
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.planning.devices import Device
from mmduplex_jax.planning.traced import Flops, count_flops, peak_bytes
from mmduplex_jax.sharding import abstract_mesh, mesh_sizes
from mmduplex_jax.stages.registry import find_stage
from mmduplex_jax.streaming.sound import voice_of
from mmduplex_jax.tokenizer.bflow import crop_trips
from mmduplex_jax.train.optimizer import Groups, make_groups
from mmduplex_jax.train.parameters import count
from mmduplex_jax.train.step import Program, TrainState, abstract_params, make_program
from mmduplex_jax.train.task import Task, averaged_by
from mmduplex_jax.typing import PyTree

# Assumed until measured: what well-made trainings of this size reach on one such device, rounded down.
ASSUMED_MFU = 0.4
# Of a device's memory, what drivers, the compiler's own buffers and fragments leave to a program.
USABLE_MEMORY = 0.9

# docs/data.md: `launch.prepare` made 78 hours of video an hour on 4 cores, 382 MB each, at 256 px.
PREPARED_HOURS_PER_CORE_HOUR = 78 / 4
STORED_BYTES_PER_HOUR = 382e6
STORED_PX = 256
# docs/data.md: four cores read 9,300 frames a second of 224 px shards; decoding takes as long as there are pixels.
READ_FRAMES_PER_CORE_S = 9300 / 4
READ_PX = 224


class Memory(NamedTuple):
    """Bytes on one device.

    Attributes:
      parameters, optimizer, gradients: what of them lies there.
      activations: the most that the step needs beside them, in the order of its jaxpr. Compilers fuse, so this is
        rather too much; a mesh axis `tensor` splits some of it, which is not counted.
    """

    parameters: int
    optimizer: int
    gradients: int
    activations: int
    batch: int

    @property
    def total(self) -> int:
        return sum(self)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a run costs.

    Attributes:
      parameters: how many numbers are in the model.
      flops_by_module: the model's, by the names of its parameters at the top.
      device, num_devices: on what.
      mfu: share of the devices' peak that the operations take.
      checkpoint_bytes: a whole state on disk, before compression.
      weights_bytes: the parameters alone.
      dollars_per_hour: of one device; None where no price is known.
    """

    parameters: int
    flops: Flops
    flops_by_module: Mapping[str, float]
    steps: int
    batch_size: int
    device: Device
    num_devices: int
    mfu: float
    checkpoint_bytes: int
    weights_bytes: int
    dollars_per_hour: float | None

    @property
    def step_s(self) -> float:
        return self.flops.model / (self.mfu * self.device.flops_per_s * self.num_devices)

    @property
    def days(self) -> float:
        return self.steps * self.step_s / 86_400

    @property
    def device_hours(self) -> float:
        return 24 * self.days * self.num_devices

    @property
    def dollars(self) -> float | None:
        return None if self.dollars_per_hour is None else self.device_hours * self.dollars_per_hour

    def on(self, device: Device) -> "Cost":
        """The same run on as many devices of another kind, at the table's price."""
        price = device.price.dollars_per_hour if device.price else None
        return dataclasses.replace(self, device=device, dollars_per_hour=price)

    def fits(self, memory: Memory) -> bool:
        return memory.total <= USABLE_MEMORY * self.device.memory_bytes


def estimate(
    task: Task,
    config: Any,
    device: Device,
    num_devices: int,
    *,
    mfu: float = ASSUMED_MFU,
    dollars_per_hour: float | None = None,
) -> Cost:
    """The cost of the run of a config; tracing a step takes seconds.

    Args:
      config: of the experiment; `mesh`, `data.batch_size` and `train` are used.
      mfu: the share of their peak that is reached.
      dollars_per_hour: of one device; the table's price where None.

    Raises:
      ShardingError: the mesh and the devices, or the parameters, do not fit each other.
      ValueError: the batch cannot be split over the mesh, or `mfu` is no share.
    """
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu is a share of the peak, over 0 and at most 1; got {mfu}")
    program, flops = program_for(task, config, num_devices), flops_per_step(task, config)
    if dollars_per_hour is None and device.price is not None:
        dollars_per_hour = device.price.dollars_per_hour
    return Cost(
        parameters=count(program.boxed),
        flops=flops,
        flops_by_module=flops.by_module(program.boxed),
        steps=config.train.steps,
        batch_size=config.data.batch_size,
        device=device,
        num_devices=num_devices,
        mfu=mfu,
        checkpoint_bytes=_bytes(program.target),
        weights_bytes=_bytes(program.target.params),
        dollars_per_hour=dollars_per_hour,
    )


def program_for(task: Task, config: Any, num_devices: int) -> Program:
    """The program of a config for a mesh of devices that are not there.

    Raises:
      ShardingError: the mesh and the devices, or the parameters, do not fit each other.
      ValueError: the batch cannot be split over the mesh.
    """
    sizes = mesh_sizes(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, num_devices)
    mesh: Any = abstract_mesh(*sizes)  # a program asks its mesh for sizes only, until it is compiled
    return make_program(task, config, mesh)


def gradient(task: Task, boxed: PyTree, groups: Groups, rows: int) -> core.ClosedJaxpr:
    """The gradient of `rows` rows as it is traced: of what is trained, and none of what never is."""
    trained, kept = groups.split(nn.unbox(boxed))

    def of_trained(trained: PyTree, kept: PyTree, batch: Any, rng: Any) -> PyTree:
        loss = lambda trained: task.loss(groups.join(trained, kept), batch, rng)
        return jax.value_and_grad(loss, has_aux=True)(trained)

    return jax.make_jaxpr(of_trained)(trained, kept, task.example_batch(rows), jax.random.key(0))


def flops_per_step(task: Task, config: Any) -> Flops:
    """The operations of a step on the config's whole batch, as a run's `mfu` counts them."""
    boxed = abstract_params(task)
    return count_flops(
        gradient(task, boxed, make_groups(config.train, boxed, averaged_by(task)), config.data.batch_size)
    )


def memory(task: Task, config: Any, num_devices: int) -> Memory:
    """What each of the devices holds; tracing takes seconds, up to a minute for a large model unrolled.

    Raises:
      ValueError: as `program_for`.
    """
    program = program_for(task, config, num_devices)
    grad_accum, mesh = config.train.grad_accum, program.mesh
    rows = config.data.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"] * grad_accum)
    target: TrainState = program.target
    trained, _ = program.groups.split(target.params)
    peak = peak_bytes(gradient(task, program.boxed, program.groups, rows))
    return Memory(
        parameters=_bytes_here(target.params),
        optimizer=_bytes_here(target.opt_state),
        # From two microbatches on, gradients are summed beside the new ones.
        gradients=_bytes_here(trained) * (2 if grad_accum > 1 else 1),
        activations=max(0, peak - _bytes(trained)),  # its results are the gradients
        batch=_bytes(task.example_batch(rows * grad_accum)),
    )


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _bytes_here(tree: PyTree) -> int:
    sizes = (math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    return sum(sizes)


@dataclasses.dataclass(frozen=True)
class RowCost:
    """What rows cost one device, from two traces: activations grow with the rows as a line.

    Attributes:
      fixed_bytes: parameters, moments and gradients, and what activations take without any row.
      row_bytes: of a row more.
    """

    fixed_bytes: float
    row_bytes: float

    def rows_in(self, device: Device) -> int:
        """The rows that fit one device by itself; 0 where none does."""
        left = USABLE_MEMORY * device.memory_bytes - self.fixed_bytes
        return max(0, math.floor(left / self.row_bytes))


def row_cost(task: Task, config: Any) -> RowCost:
    """The memory of a config's step on one device by the rows of its batch; traced at the whole batch and at half."""
    config = config.copy_and_resolve_references()
    config.mesh.update(data=1, fsdp=1, tensor=1)
    config.train.grad_accum = 1
    rows = (config.data.batch_size // 2, config.data.batch_size)
    totals = []
    for number in rows:
        config.data.batch_size = number
        totals.append(memory(task, config, 1).total)
    row_bytes = (totals[1] - totals[0]) / (rows[1] - rows[0])
    return RowCost(totals[0] - rows[0] * row_bytes, row_bytes)


class DataCost(NamedTuple):
    """What all steps of a run see; rates are those measured in docs/data.md.

    Attributes:
      samples: clips, or pairs of pictures and texts.
      frames_per_step: pictures that are read.
      text_tokens: slots of text, or places for the tokens of captions.
      video_tokens: the most that there are of tokens made of pictures; patches for `clip`.
      video_hours: of clips; where a sample is a picture, or a few frames of a piece, how long the pieces are.
      prepare_core_hours, stored_bytes: to prepare as many hours once; a run that sees its data E times needs an E-th.
      frames_read_per_core_s: what a core reads.
    """

    samples: int
    frames_per_step: int
    text_tokens: int
    video_tokens: int
    video_hours: float
    prepare_core_hours: float
    stored_bytes: float
    frames_read_per_core_s: float


def data_cost(task: Task, config: Any) -> DataCost:
    """The data of a config's run."""
    batch_size, steps = config.data.batch_size, config.train.steps
    example = task.example_batch(1)
    samples = batch_size * steps
    text = example["slots" if "slots" in example else "ids"].shape[1]
    hours = samples * config.data.clip_s / 3600
    return DataCost(
        samples=samples,
        frames_per_step=batch_size * example["frames"].shape[1],
        text_tokens=samples * text,
        video_tokens=samples * find_stage(config.stage).video_tokens(task),
        video_hours=hours,
        prepare_core_hours=hours / PREPARED_HOURS_PER_CORE_HOUR,
        stored_bytes=stored_bytes(hours, config.frame_px),
        frames_read_per_core_s=READ_FRAMES_PER_CORE_S * READ_PX**2 / math.prod(frame_size(config.frame_px)),
    )


def stored_bytes(video_hours: float, frame_px: int | Sequence[int]) -> float:
    """Shards of frames of `frame_px`, as large as their pixels are many."""
    return video_hours * STORED_BYTES_PER_HOUR * math.prod(frame_size(frame_px)) / STORED_PX**2


class StreamCost(NamedTuple):
    """What a live stream costs.

    Attributes:
      flops_per_s: for a second of video, with as many anchors, and as many flow tokens, as the budget allows.
      state_bytes: all that a stream remembers; it does not grow.
      weights_bytes: in float32, as they are kept.
    """

    flops_per_s: float
    state_bytes: int
    weights_bytes: int

    def with_voice(self, voice: "StreamCost") -> "StreamCost":
        """Of a stream that is heard; `voice` is of `voice_cost`."""
        return StreamCost(
            self.flops_per_s + voice.flops_per_s,
            self.state_bytes + voice.state_bytes,
            self.weights_bytes + voice.weights_bytes,
        )

    def step_s_least(self, device: Device) -> float:
        """A step of a stream by itself reads all weights once; less time than that it cannot take."""
        return self.weights_bytes / device.bytes_per_s


def live_step_flops(task: Any) -> Mapping[str, float]:
    """Operations of one stream's live step: an `anchor`, where one is due; a `tick`, without it; a `text` step; a
    `crop`, by its tower, for each flow token that is spent; of a model with an audio stream, which then speaks, the
    step's `sound`. What else flow tokens cost is that of a tick which spends all.
    """
    trips = crop_trips(task.config.tokenizer)
    live = LiveModel(task.config)
    params = nn.unbox(abstract_params(task))
    state = jax.eval_shape(lambda params: live.init_state(params, 1), params)
    row = lambda dtype, *shape: jax.ShapeDtypeStruct((1, *shape), dtype)
    inputs = (row(np.uint8, *task.config.tokenizer.frame_px, 3), row(np.bool_), row(np.int32), row(np.float32))
    parts, speaking = {"anchor": 0.0, "crop": 0.0, "tick": 0.0, "text": 0.0}, {}
    if task.config.audio is not None:
        parts["sound"], speaking = 0.0, {"speaking": row(np.bool_)}
    traced = jax.make_jaxpr(lambda *given, **heard: live.live_step(*given, **heard))(params, state, *inputs, **speaking)
    for scope, flops in count_flops(traced).by_scope.items():
        names = scope.split("/")
        if "DualStream.sound_step" in names:
            parts["sound"] += flops
        elif "anchors" in names:
            parts["anchor"] += flops
        elif "crops" in names:
            parts["crop"] += flops  # (the tower sees one at a time: `bflow._of_some`)
        elif "flows" in names:
            parts["tick"] += flops * trips
        else:
            parts["tick" if "DualStream.video_step" in names else "text"] += flops
    return parts


def stream_cost(task: Any, config: Any) -> StreamCost | None:
    """The cost of a stream of a duplex; None for stages that do not stream."""
    if find_stage(config.stage).OUTPUT != "commentary":
        return None
    c, k = task.config, task.config.tokenizer
    params = nn.unbox(abstract_params(task))
    state = jax.eval_shape(lambda params: LiveModel(c).init_state(params, 1), params)
    ticks_per_s = c.clock.step_hz / c.clock.video_stride
    anchors_per_s = ticks_per_s / k.anchor_interval_min_ticks if k.kind == "bflow" else ticks_per_s
    crops_per_s = min(k.cap - k.anchor_tokens * anchors_per_s, k.flow_slots * ticks_per_s) if k.flow_slots else 0.0
    flops = live_step_flops(task)
    return StreamCost(
        flops_per_s=flops["anchor"] * anchors_per_s
        + flops["crop"] * crops_per_s
        + flops["tick"] * ticks_per_s
        + (flops["text"] + flops.get("sound", 0.0)) * c.clock.step_hz,
        state_bytes=_bytes(state),
        weights_bytes=np.dtype(np.float32).itemsize * count(params),
    )


def voice_cost(task: Any, codec_task: Any) -> StreamCost:
    """What a codec's decoder adds to a stream that is heard; ValueError where it is not the codec of its codes."""
    voice = voice_of(task.config, codec_task.config, nn.unbox(abstract_params(codec_task))["codec"], "the codec")
    state = jax.eval_shape(lambda: voice.codec.decoder_state(1))
    codes = jax.ShapeDtypeStruct((1, 1, task.config.audio.depth.codebooks), np.int32)
    given = (voice.params, state, codes, jax.ShapeDtypeStruct((1,), np.bool_))
    flops = count_flops(jax.make_jaxpr(voice.codec.decode_step)(*given)).model
    return StreamCost(flops * voice.codec.config.step_hz, _bytes(state), _bytes(voice.params))
