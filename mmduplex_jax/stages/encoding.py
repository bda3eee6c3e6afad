"""Videos encoded once: what a model's tokens look at in each clip, and what its frozen towers make of it.

Which tokens there are, and where they look, depends on no parameter (`tokenizer/sight.py`); a frozen tower makes the
same of a picture at every step. So both are computed once and kept (`data_pipelines/encoded.py`), and a training reads
them instead of pixels. Of a tower that is trained the pictures themselves are kept, cut out and packed.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.dataset import ShardDataset, open_dataset
from data_pipelines.encoded import ArraySpec, EncodedManifest, pack_clip, write_encoded
from data_pipelines.flip import flip_record
from data_pipelines.samples import Pieces
from data_pipelines.schema import Record
from mmduplex_jax.stages.registry import Tower, find_stage
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.tokenizer.bflow import BFlow
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.tokenizer.sight import Sight, see_clips
from mmduplex_jax.tokenizer.sight_arrays import ANCHORS, CROPS, kept_rows, sight_arrays
from mmduplex_jax.train.optimizer import NEVER, make_groups
from mmduplex_jax.train.step import abstract_params
from mmduplex_jax.train.task import Task
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.init_from import make_start
from mmduplex_jax.weights.portable import flatten

DTYPES = ("float32", "float16")
TOKENIZER = "tokenizer/"
# What decides how a tower runs, not what it makes of a picture.
_HOW = ("remat", "attention", "image_px")
_WEIGHTS = "weights_sha256"
_LOOKS = {"frames": ANCHORS, "crops": CROPS}
_PICTURES = 64  # that a tower looks at together


class EncodingError(ValueError):
    """A model's video cannot be encoded, or a training cannot learn from what was encoded; says why."""


class EncodeReport(NamedTuple):
    """What an encoding did.

    Attributes:
      manifest: of the finished directory.
      written, kept: names of the files that it wrote, and of those that were there.
      features: by what is looked at ("frames", "crops"), whether features are kept, not pictures.
    """

    manifest: EncodedManifest
    written: tuple[str, ...]
    kept: tuple[str, ...]
    features: dict[str, bool]

    def as_json(self) -> dict[str, Any]:
        """What was done, in numbers."""
        clips, size_bytes = self.manifest.num_clips, sum(shard.size_bytes for shard in self.manifest.shards)
        return {
            "records": self.manifest.num_records,
            "clips": clips,
            "files_written": len(self.written),
            "files_kept": len(self.kept),
            "features": self.features,
            "bytes": size_bytes,
            "bytes_a_clip": size_bytes / max(clips * (1 + self.manifest.mirrored), 1),
        }


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A model's eyes.

    Attributes:
      config: of the tokenizer.
      num_ticks: T, of a clip.
      towers: those that are frozen, whose features are kept.
      make_params: gives `params`, which takes a while.
    """

    config: TokenizerConfig
    num_ticks: int
    towers: tuple[Tower, ...]
    make_params: Callable[[], PyTree]

    @functools.cached_property
    def params(self) -> PyTree:
        """Of the tokenizer; of its frozen towers as a training begins with them."""
        return self.make_params()

    def facts(self, dtype: str, *, with_weights: bool = True) -> dict[str, Any]:
        """All that decides what is kept, as JSON values; the weights of towers by their hash, if they are asked for."""
        c = self.config
        sight = {
            "kind": c.kind,
            "clock": dataclasses.asdict(c.clock),
            "frame_px": list(c.frame_px),
            "ticks": self.num_ticks,
            "anchor_tokens": c.anchor_tokens,
            "motion": dataclasses.asdict(c.motion),
            "budget": dataclasses.asdict(c.budget) if c.kind == "bflow" else {},
            "baseline": {} if c.kind == "bflow" else dataclasses.asdict(c.baseline),
            "flow": {name: getattr(c.flow, name) for name in ("crop_px", "crop_scales", "centre", "inside")},
        }
        frozen = {tower.sees: tower for tower in self.towers}
        looks = {
            sees: self._tower_facts(frozen[sees], dtype, with_weights) if sees in frozen else {"kept": "pictures"}
            for sees, there in (("frames", c.anchor_tokens), ("crops", c.flow_slots))
            if there
        }
        return json.loads(json.dumps({"tokenizer": sight, "looks": looks}))

    def _tower_facts(self, tower: Tower, dtype: str, with_weights: bool) -> dict[str, Any]:
        shape = {name: value for name, value in dataclasses.asdict(tower.config).items() if name not in _HOW}
        part = self.config.anchor if tower.sees == "frames" else self.config.flow
        seen = {"px": list(self.config.anchor_px) if tower.sees == "frames" else [self.config.flow.looked_px] * 2}
        prefix = tower.prefix.removeprefix(TOKENIZER)
        weights = {_WEIGHTS: weights_hash(self.params, prefix)} if with_weights else {}
        return (
            seen
            | weights
            | {
                "kept": dtype,
                "tower": {"kind": tower.config.kind, **shape},
                "readout": "pooled" if part.readout == "pooled" else "tokens",
                "mean": tower.mean,
                "std": tower.std,
            }
        )

    def arrays(self, dtype: str) -> tuple[ArraySpec, ...]:
        """What is kept of a clip."""
        features = {_LOOKS[tower.sees]: dtype for tower in self.towers}
        return tuple(ArraySpec(*array) for array in sight_arrays(self.config, self.num_ticks, features))

    def compiled(self, dtype: str) -> Callable[[np.ndarray], list[dict[str, np.ndarray]]]:
        """A function from frames uint8 `[B, T, H, W, 3]` to the kept rows of each clip."""
        module, params, config = BFlow(self.config), jax.tree.map(jnp.asarray, self.params), self.config
        see = jax.jit(lambda frames: see_clips(frames, config))
        apply = lambda look: jax.jit(lambda pictures: module.apply({"params": params}, pictures, method=look))
        looks = {ANCHORS: apply(_look_at_frames), CROPS: apply(_look_at_crops)}
        frozen = [_LOOKS[tower.sees] for tower in self.towers]

        def encode(frames: np.ndarray) -> list[dict[str, np.ndarray]]:
            sight: Sight = jax.device_get(see(frames))
            clips = [kept_rows(sight, clip, config) for clip in range(len(frames))]
            for name in frozen:
                seen = _in_groups(looks[name], np.concatenate([clip[name] for clip in clips])).astype(dtype)
                if not np.isfinite(seen).all():
                    raise EncodingError(f"{name}: features are over {dtype}'s range: keep them as float32")
                ends = np.cumsum([len(clip[name]) for clip in clips])
                for clip, rows in zip(clips, np.split(seen, ends[:-1])):
                    clip[name] = rows
            return clips

        return encode


def _look_at_frames(module: BFlow, pictures: jax.Array) -> jax.Array:
    return module.anchors.look(pictures)


def _look_at_crops(module: BFlow, pictures: jax.Array) -> jax.Array:
    return module.crops(pictures)


def _in_groups(look: Callable[[np.ndarray], jax.Array], pictures: np.ndarray) -> np.ndarray:
    """What `look` makes of pictures, so many at a time that it compiles once."""
    filled = np.concatenate([pictures, np.zeros((-len(pictures) % _PICTURES, *pictures.shape[1:]), pictures.dtype)])
    if not len(filled):
        shape = jax.eval_shape(look, jax.ShapeDtypeStruct((_PICTURES, *pictures.shape[1:]), pictures.dtype)).shape
        return np.zeros((0, *shape[1:]), np.float32)
    groups = [look(filled[at : at + _PICTURES]) for at in range(0, len(filled), _PICTURES)]
    return np.concatenate([np.asarray(group, np.float32) for group in groups])[: len(pictures)]


def weights_hash(params: PyTree, prefix: str) -> str:
    """A hash of the parameters whose paths begin with `prefix`: their names, shapes and numbers."""
    digest = hashlib.sha256()
    for name, array in sorted(flatten(params).items()):
        if name.startswith(prefix):
            values = np.ascontiguousarray(array, np.float32)
            digest.update(f"{name.removeprefix(prefix)} {values.shape}\n".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()


def make_encoder(
    config: Any, task: Task, tokenizer: TextTokenizer, log: Callable[[str], None] = lambda line: None
) -> Encoder:
    """The eyes of a config's model, as a training of that config begins: with `config.init_from`, by the same seed.

    Args:
      config: resolved.
      task: of the config.
      tokenizer: of the config.
      log: where lines on what is taken go.

    Raises:
      EncodingError: the stage does not learn from encoded clips.
      InitFromError, GroupsError: the config does not fit.
    """
    if not hasattr(task, "with_encoded"):
        raise EncodingError(f"stage {config.stage!r} does not learn from encoded clips: stage 'duplex' does")
    boxed = abstract_params(task)
    groups = make_groups(config.train, boxed)
    towers = []
    for tower in find_stage(config.stage).parts(task).towers:
        names = [name for name in groups.of if name.startswith(tower.prefix)]
        if tower.prefix.startswith(TOKENIZER) and all(groups.of[name].start_step == NEVER for name in names):
            towers.append(tower)

    def make_params() -> PyTree:
        # Compiled for these alone: what else the model has is not made. The key is given, so that every seed has the
        # same program.
        made = jax.jit(lambda key: nn.unbox(task.init(key))["tokenizer"])(jax.random.key(config.train.seed))
        params = {"tokenizer": made}
        start = make_start(config, task, tokenizer, log, only=TOKENIZER)
        if start is not None:
            params = start(nn.unbox(boxed))(params)
        return jax.tree.map(np.asarray, params["tokenizer"])

    c: Any = task
    return Encoder(c.config.tokenizer, c.ticks, tuple(towers), make_params)


def encode(
    config: Any,
    task: Task,
    tokenizer: TextTokenizer,
    data: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    mirrored: bool = False,
    every_s: float = 0.0,
    batch: int = 4,
    log: Callable[[str], None] = print,
    on_records: Callable[[int], None] = lambda records: None,
) -> EncodeReport:
    """Encodes the records of a directory of shards.

    Args:
      config: resolved; a clip is `config.data.clip_s` long.
      task: of the config.
      tokenizer: of the config.
      data: prepared shards.
      out: gets the encoded clips; gone on with where it stopped.
      dtype: of features, one of `DTYPES`.
      mirrored: also flips every clip left to right.
      every_s: how long after a clip of a longer record the next begins; 0: when it ends.
      batch: clips at a time.
      log: where lines for people go.
      on_records: called with how many records were done since the last call; those of files that are kept count.

    Raises:
      EncodingError: the model cannot encode, or the data not be encoded.
      ShardError: data cannot be read, or `out` not be written.
    """
    if dtype not in DTYPES:
        raise EncodingError(f"features are kept as one of {', '.join(DTYPES)}, not {dtype!r}")
    encoder = make_encoder(config, task, tokenizer, log)
    dataset, clock = open_dataset(data), encoder.config.clock
    if dataset.clock != clock:
        raise EncodingError(f"{data} has {dataset.clock}, the config {clock}")
    if mirrored and not dataset.manifest.flip_safe:
        raise EncodingError(f"{data} must not be flipped: its manifest does not say flip_safe")
    plan = EncodedManifest(
        facts=encoder.facts(dtype) | {"every_s": every_s},
        arrays=encoder.arrays(dtype),
        clock=clock,
        frame_px=encoder.config.frame_px,
        num_ticks=encoder.num_ticks,
        mirrored=mirrored,
        flip_safe=dataset.manifest.flip_safe,
        fit=dataset.manifest.fit,
        cameras=dataset.manifest.cameras,
        sources=tuple(shard.sha256 for shard in dataset.manifest.shards),
    )
    pieces = Pieces(dataset, encoder.num_ticks, False, 0, frame_px=encoder.config.frame_px)
    ends = np.cumsum([shard.records for shard in dataset.manifest.shards]).tolist()
    step_ticks = clock.ticks_in(every_s) if every_s else encoder.num_ticks
    run: list[Callable[[np.ndarray], list[dict[str, np.ndarray]]]] = []  # compiled when the first file is written

    def clips_of(number: int, write: Callable[[bytes], None]) -> tuple[int, ...]:
        if not run:
            run.append(encoder.compiled(dtype))
        counts: list[int] = []
        indices = range(ends[number] - dataset.manifest.shards[number].records, ends[number])
        waiting: list[tuple[Record, range, np.ndarray]] = []

        def flush() -> None:
            frames = np.stack([item[2] for item in waiting])
            frames = np.concatenate([frames, np.zeros((batch - len(frames), *frames.shape[1:]), np.uint8)])
            for (record, ticks, _), rows in zip(waiting, run[0](frames), strict=False):
                write(pack_clip(record, ticks, rows))
            waiting.clear()

        for record in _read_ahead(dataset, indices):
            starts = clip_starts(record.num_ticks, encoder.num_ticks, step_ticks)
            counts.append(len(starts))
            for begin in starts:
                ticks = range(begin, min(begin + encoder.num_ticks, record.num_ticks))
                for shown in [record, flip_record(record)] if mirrored else [record]:
                    waiting.append((shown, ticks, _filled(pieces, shown, ticks)))
                    if len(waiting) == batch:
                        flush()
            on_records(1)
        if waiting:
            flush()
        return tuple(counts)

    written: list[str] = []
    kept: list[str] = []

    def note(name: str, there: bool) -> None:
        (kept if there else written).append(name)
        if there:
            on_records(dataset.manifest.shards[len(kept) + len(written) - 1].records)

    manifest = write_encoded(Path(out), plan, clips_of, note)
    there = {tower.sees for tower in encoder.towers}
    return EncodeReport(manifest, tuple(written), tuple(kept), {sees: sees in there for sees in plan.facts["looks"]})


def clip_starts(record_ticks: int, num_ticks: int, step_ticks: int) -> list[int]:
    """Where the clips of a record begin: every `step_ticks`, and the last one where it ends with the record."""
    last = max(record_ticks - num_ticks, 0)
    return [*range(0, last, step_ticks), last]


def _filled(pieces: Pieces, record: Record, ticks: range) -> np.ndarray:
    """A clip's frames, black ones behind a shorter record, as a training fills it up."""
    frames = pieces.frames(record, slice(ticks.start, ticks.stop))
    return np.concatenate([frames, np.zeros((pieces.num_ticks - len(frames), *frames.shape[1:]), np.uint8)])


def _read_ahead(dataset: ShardDataset, indices: Sequence[int], ahead: int = 8) -> Iterator[Record]:
    """Records in order, the next ones decoded by threads meanwhile; without motion, which a flip does not turn."""
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(dataset.read, index) for index in indices[:ahead]]
        for number in range(len(indices)):
            record = waiting.pop(0).result()
            if number + ahead < len(indices):
                waiting.append(threads.submit(dataset.read, indices[number + ahead]))
            yield dataclasses.replace(record, motion=None)


# A training from encoded clips.


def encoded_task(
    config: Any, task: Task, tokenizer: TextTokenizer, dirs: Sequence[str | Path], log: Callable[[str], None]
) -> Task:
    """The task that learns from encoded clips instead of frames.

    Args:
      config: resolved.
      task: of the config.
      tokenizer: of the config.
      dirs: of encoded clips.
      log: where lines for people go.

    Raises:
      EncodingError: the clips were encoded by another sight, or by towers with other weights, or for a clip of another
        length; or a tower is to be trained whose features are kept. The message says everything that differs.
      ShardError: a directory cannot be read.
    """
    manifests = [EncodedManifest.load(Path(directory)) for directory in dirs]
    encoder = make_encoder(config, task, tokenizer)
    for directory, manifest in zip(dirs, manifests):
        _check_fits(directory, manifest, encoder)
    arrays = manifests[0].arrays
    for directory, manifest in zip(dirs, manifests):
        if manifest.arrays != arrays:
            raise EncodingError(f"{dirs[0]} and {directory} were encoded with different options: they cannot be mixed")
    kept = {sees: facts["kept"] for sees, facts in manifests[0].facts["looks"].items()}
    log("learning from encoded clips: " + ", ".join(f"{sees} as {how}" for sees, how in kept.items()))
    learner: Any = task
    return learner.with_encoded(arrays)


def _check_fits(directory: str | Path, manifest: EncodedManifest, encoder: Encoder) -> None:
    theirs = manifest.facts["looks"]
    frozen = {tower.sees for tower in encoder.towers}
    wrong = [
        f"{sees}: features of their tower are kept, and config.train.groups trains it: freeze it (start_step=-1), or "
        "encode with this config, which keeps pictures"
        for sees, facts in theirs.items()
        if facts["kept"] != "pictures" and sees not in frozen
    ]
    # What is kept as pictures any tower can look at.
    like = [tower for tower in encoder.towers if theirs.get(tower.sees, {}).get("kept") in DTYPES]
    dtypes = {facts["kept"] for facts in theirs.values()} - {"pictures"}
    ours, dtype = dataclasses.replace(encoder, towers=tuple(like)), min(dtypes, default=DTYPES[0])
    same = {"every_s": manifest.facts["every_s"]}
    wrong = wrong or [
        line
        for line in manifest.differences(ours.facts(dtype, with_weights=False) | same)
        if f".{_WEIGHTS} " not in line
    ]
    wrong = wrong or manifest.differences(ours.facts(dtype) | same)
    if wrong:
        raise EncodingError(
            f"{directory} was encoded by another sight or another tower than this training has:\n  "
            + "\n  ".join(wrong)
            + "\n-> change the config, or encode again with it: python -m launch.encode"
        )
