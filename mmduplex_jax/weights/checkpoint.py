"""Checkpoints of a run, and imported weights, by Orbax. The only file that imports it.

A checkpoint is WORKDIR/checkpoints/STEP/ with four items: `params`, `optimizer` (its state and the step), `data` (the
Grain iterator) and `metadata` (JSON: layout, config, tokenizer, shapes). Saving is asynchronous, and a checkpoint
appears under its name only when it is whole; what a killed run left half-written is removed by the next.

Imported weights are one Orbax checkpoint, a folder, with their metadata (JSON) in it.
"""

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils
from orbax.checkpoint.experimental import v1 as ocp_v1

from mmduplex_jax.frame_size import fit_of, with_stored_sizes
from mmduplex_jax.sharding import array_name
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.portable import converted_config, converted_parameter, flatten, unflatten

# `mmduplex_jax.train.step.TrainState`: `step`, `params` and `opt_state`, arrays or abstract ones.
State = Any

# Raised with every change after which a run cannot go on from older checkpoints.
# 2: the names of portable layout 3. Parameters of layout 1 can still be used, not trained further (`load_params`).
LAYOUT_VERSION = 2

# Where Orbax keeps the metadata of a checkpoint; the folders that it takes for one hold others' weights too.
_ORBAX_METADATA = "_CHECKPOINT_METADATA"

# Imported weights go to disk in pieces of at least this size, so that an import of any size needs little memory.
_PIECE_BYTES = 64 << 20

# What may change when a run goes on: how long, how often, where, with how many hands. Everything else decides what is
# computed. The content of the data is compared by fingerprint, so its folder may move; the loader's batches do not
# depend on its workers.
FREE_TO_CHANGE = (
    "train.stop_at_step",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "mesh",
    "data.dirs",
    "evals",  # nothing of a training is changed by how it is evaluated
    "data.corrupt_records_max",
    "data.unknown_words_max",
    "data.prefetch",
    "data.workers",
    "loss.chunk",  # the same loss; only sums of float32 are in another order, as on another mesh
    "profile",
)


# What a checkpoint is made of, each a folder.
ITEMS = ("params", "optimizer", "data", "metadata")

# Values of a config, as JSON, that ask for nothing.
_EMPTY = ('""', "null", "[]")


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from, or not be written; says what is wrong and what to do."""


class DiskFull(CheckpointError):
    """A checkpoint for which there was no room; says which one is whole."""


class CheckpointMismatch(CheckpointError):
    """A checkpoint that does not fit this run; the message lists what differs and what to do."""


class CheckpointDamaged(CheckpointError):
    """A checkpoint of which something is missing or cannot be read; the message names it, and the newest whole one."""


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What a checkpoint says about its run, and what a resumed run must share with it.

    Attributes:
      config: the resolved config, as JSON gives it back.
      data_fingerprint: names the data's content; None where the loader does not say.
    """

    config: Mapping[str, Any]
    tokenizer_json: str
    data_fingerprint: str | None = None


class Checkpoints:
    """Saves and restores the checkpoints of one run.

    Args:
      keep: how many of the newest checkpoints stay.
    """

    def __init__(self, workdir: Path, keep: int, facts: RunFacts):
        if keep < 1:
            raise ValueError(f"config.train.keep must be at least 1, got {keep}")
        self._facts = facts
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._orbax = ocp.CheckpointManager(_checkpoints_dir(workdir), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        # Of several processes one that failed must not wait for the others, nor they for it.
        if exc[0] is None or jax.process_count() == 1:
            self._orbax.close()

    @property
    def latest_step(self) -> int | None:
        return self._orbax.latest_step()

    def save(
        self,
        step: int,
        state: State,
        iterator_state: str,
        window: Mapping[str, Any],
        evaluations: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts to save; returns when the state has been copied, so that it may be donated.

        Args:
          step: steps done; a checkpoint of this step that is there already stays.
          iterator_state: JSON of the data iterator after `step` batches.
          window: metrics of the steps since the last line.
          evaluations: what is known of them (`mmduplex_jax/train/evaluation.py`).

        Raises:
          DiskFull: this or an earlier save, which are asynchronous, found no room on the disk.
          Exception: whatever else an earlier save failed with.
        """
        optimizer = {"step": state.step, "opt_state": state.opt_state}
        self._save(
            step,
            state.params,
            {"window": dict(window), "evaluations": dict(evaluations or {})},
            optimizer=ocp.args.StandardSave(optimizer),
            data=ocp.args.JsonSave(json.loads(iterator_state)),
        )

    def save_params(self, step: int, params: PyTree) -> None:
        """Saves parameters alone, which can be used and not gone on from; errors as of `save`."""
        self._save(step, params, {})

    def _save(self, step: int, params: PyTree, more: Mapping[str, Any], **items: Any) -> None:
        with self._room():
            self._orbax.check_for_errors()
            if self.latest_step == step:
                return
            metadata = {
                "layout_version": LAYOUT_VERSION,
                "step": step,
                **dataclasses.asdict(self._facts),
                "processes": jax.process_count(),
                "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
                "shapes": _shapes(params),
                **more,
                "versions": {"jax": jax.__version__, "orbax": ocp.__version__, "grain": grain.__version__},
            }
            self._orbax.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params), metadata=ocp.args.JsonSave(metadata), **items
                ),
                force=True,
            )

    def finish(self) -> None:
        """Waits until everything is on disk; raises what a save failed with."""
        with self._room():
            self._orbax.wait_until_finished()
            self._orbax.check_for_errors()

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Turns what a full disk raises, in whatever wrapping, into a line."""
        try:
            yield
        except Exception as error:
            if not _says_full_disk(error):
                raise
            directory = Path(self._orbax.directory)
            whole = [step for step in _steps_in(directory) if find_damage(directory / str(step)) is None]
            kept = f"the newest whole checkpoint is step {max(whole)}" if whole else "no checkpoint is whole yet"
            free = shutil.disk_usage(directory).free
            raise DiskFull(
                f"no room for a checkpoint in {directory} ({free / 2**20:,.0f} MiB are free; a quota may allow less): "
                f"{kept}. Make room, or lower config.train.keep, and start the same command again"
            ) from None

    def checked_metadata(self, target: State) -> dict[str, Any] | None:
        """Metadata of the newest checkpoint; None where there is no checkpoint yet.

        Args:
          target: abstract state of this run.

        Raises:
          CheckpointMismatch: when this run differs from the one that saved.
        """
        step = self.latest_step
        if step is None:
            return None
        directory = Path(self._orbax.directory)
        if damage := find_damage(directory / str(step), arrays=False):
            raise _damaged(directory, step, damage, ITEMS, "go on from it with --from_step={step}")
        metadata = json.loads((directory / str(step) / "metadata" / "metadata").read_text(encoding="utf-8"))
        differences = _differences(metadata, self._facts, target.params)
        if differences:
            raise CheckpointMismatch(
                f"{self._orbax.directory}/{step} was saved by a different run:\n  " + "\n  ".join(differences)
            )
        return metadata

    def restore(self, target: State, data: Any) -> State:
        """The newest checkpoint, on the mesh of `target`; sets `data` to where it was. Check the metadata first.

        Args:
          target: abstract state with shardings.
          data: the data iterator; changed in place.
        """
        step = self.latest_step
        assert step is not None
        try:
            restored = self._orbax.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(target.params),
                    optimizer=ocp.args.StandardRestore({"step": target.step, "opt_state": target.opt_state}),
                    data=ocp.args.JsonRestore(),
                ),
            )
        except Exception as error:
            directory = Path(self._orbax.directory)
            damage = find_damage(directory / str(step))
            if damage is None:
                raise
            raise _damaged(directory, step, damage, ITEMS, "go on from it with --from_step={step}") from error
        data.set_state(restored["data"])
        optimizer = restored["optimizer"]
        return target.replace(step=optimizer["step"], params=restored["params"], opt_state=optimizer["opt_state"])


def load_params(path: str | Path, shardings: PyTree | None = None) -> tuple[PyTree, dict[str, Any]]:
    """Parameters and metadata of a run, without its optimiser or data.

    Args:
      path: a workdir (its newest checkpoint) or one checkpoint's folder, WORKDIR/checkpoints/STEP.
      shardings: where each parameter goes, as a tree like the parameters; None: whole, on the first device.

    Returns:
      A nested dict of arrays, and the metadata that `Checkpoints.save` wrote; names of an older layout are converted.

    Raises:
      FileNotFoundError: when there is no checkpoint.
      CheckpointMismatch: when its layout is newer than this code.
      CheckpointDamaged: when something of it is missing or cannot be read.
    """
    directory, step = _find(Path(path))
    folder, items = directory / str(step), ("params", "metadata")
    hint = f"use it as {directory}/{{step}}"
    if damage := find_damage(folder, items, arrays=False):
        raise _damaged(directory, step, damage, items, hint)
    metadata = json.loads((folder / "metadata" / "metadata").read_text(encoding="utf-8"))
    if metadata["layout_version"] > LAYOUT_VERSION:
        raise CheckpointMismatch(f"{directory}/{step}: {_layout_difference(metadata['layout_version'])}")
    try:
        with ocp.StandardCheckpointer() as reader:
            params = reader.restore(folder / "params", _target(metadata["shapes"], shardings))
    except Exception as error:
        damage = find_damage(folder, items)
        if damage is None:
            raise
        raise _damaged(directory, step, damage, items, hint) from error
    if metadata["layout_version"] < LAYOUT_VERSION:
        params = unflatten({converted_parameter(name): value for name, value in flatten(params).items()})
        metadata["shapes"] = {converted_parameter(name): shape for name, shape in metadata["shapes"].items()}
        metadata["config"] = converted_config(metadata["config"])
    return params, metadata


def find_damage(folder: Path, items: Collection[str] = ITEMS, *, arrays: bool = True) -> str | None:
    """What of a checkpoint is missing or cannot be read; None where it is whole.

    Args:
      folder: WORKDIR/checkpoints/STEP.
      items: that must be there.
      arrays: reads every array, which takes as long as loading it; otherwise only what is missing is found.
    """
    for item in items:
        if not (folder / item).is_dir():
            return f"{item}/ is missing"
        wanted = ("metadata",) if item in ("data", "metadata") else ("_METADATA", "manifest.ocdbt")
        for file in wanted:
            if not (folder / item / file).is_file():
                return f"{item}/{file} is missing"
        try:
            if item in ("data", "metadata"):
                json.loads((folder / item / "metadata").read_text(encoding="utf-8"))
            elif arrays:
                _read_as_numpy(folder / item)
        except Exception as error:  # noqa: BLE001 - whatever other people's readers raise is damage
            return f"{item}/ cannot be read: {(str(error).strip() or repr(error)).splitlines()[0][:200]}"
    return None


def _read_as_numpy(folder: Path) -> PyTree:
    """An item's arrays, whatever devices they were saved from."""
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(folder).item_metadata.tree
        return reader.restore(
            folder, restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        )


def _damaged(directory: Path, step: int, damage: str, items: Collection[str], hint: str) -> CheckpointDamaged:
    older = sorted((other for other in _steps_in(directory) if other < step), reverse=True)
    whole = next((other for other in older if find_damage(directory / str(other), items) is None), None)
    instead = (
        "no older one is whole: start in another workdir"
        if whole is None
        else f"the newest whole one is step {whole}: {hint.format(step=whole)}"
    )
    return CheckpointDamaged(
        f"{directory}/{step} is damaged: {damage}. It may have been copied in part, or the disk was full; {instead}"
    )


def set_aside_after(workdir: Path, step: int) -> list[str]:
    """Moves checkpoints newer than `step` out of a run's way, into WORKDIR/set_aside/; returns a line on each.

    Raises:
      CheckpointError: there is no such checkpoint, or it is damaged.
    """
    directory = _checkpoints_dir(workdir)
    steps = _steps_in(directory)
    if step not in steps:
        raise CheckpointError(f"--from_step={step}: {directory} holds the steps {steps or 'none'}")
    if damage := find_damage(directory / str(step)):
        raise _damaged(directory, step, damage, ITEMS, "go on from it with --from_step={step}")
    lines = []
    if jax.process_index() == 0:
        for newer in (other for other in steps if other > step):
            place = workdir.absolute() / "set_aside" / f"{newer}-{time.strftime('%Y%m%d-%H%M%S')}"
            place.parent.mkdir(exist_ok=True)
            os.rename(directory / str(newer), place)
            lines.append(f"--from_step={step}: checkpoint {newer} is set aside as {place}")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("set aside")
    return lines


def _steps_in(directory: Path) -> list[int]:
    return sorted(int(entry.name) for entry in directory.glob("*") if entry.name.isdigit())


def _says_full_disk(error: BaseException) -> bool:
    """Whether an error, or one that it comes from, says that there is no room; tensorstore's says so in its text."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if re.search(r"No space left on device|ENOSPC|Disk quota exceeded", str(cause)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def write_weights(folder: str | Path, arrays: Iterable[tuple[str, np.ndarray]], metadata: Mapping[str, Any]) -> None:
    """Writes imported weights, a piece at a time: of `arrays` little more than one item is in memory.

    Args:
      folder: must not exist, or be empty; it appears when everything is in it.
      arrays: `(path, array)` of every parameter, each once, as `a/b/kernel`.

    Raises:
      FileExistsError: the folder has something in it.
      Exception: whatever `arrays` raises; nothing is left of the folder then.
    """
    folder = Path(folder).absolute()
    if folder.exists():
        if not folder.is_dir() or any(folder.iterdir()):
            raise FileExistsError(f"{folder} has something in it already: name another folder, or remove it")
        folder.rmdir()
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(folder)
    try:
        for number, piece in enumerate(_pieces(arrays)):
            custom = dict(metadata) if number == 0 else None
            ocp_v1.partial.save(folder, unflatten(piece), custom_metadata=custom)
        ocp_v1.partial.finalize(folder)
    finally:
        _remove_unfinished(folder)


def _pieces(arrays: Iterable[tuple[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """Gathers parameters into pieces."""
    piece: dict[str, np.ndarray] = {}
    for name, array in arrays:
        piece[name] = array
        del array  # or it would stay while the next ones are read
        if sum(held.nbytes for held in piece.values()) >= _PIECE_BYTES:
            yield piece
            piece = {}
    if piece:
        yield piece


def _remove_unfinished(folder: Path) -> None:
    """Removes what a killed import left beside `folder`."""
    for left in folder.parent.glob(f"{folder.name}.partial_save*"):
        shutil.rmtree(left)


def is_weights(folder: str | Path) -> bool:
    """Whether a folder holds imported weights (rather than a training, or nothing)."""
    file = Path(folder) / _ORBAX_METADATA
    return file.is_file() and "kind" in (json.loads(file.read_text(encoding="utf-8")).get("custom_metadata") or {})


def read_weights_metadata(folder: str | Path) -> dict[str, Any]:
    """The metadata that `write_weights` was given (FileNotFoundError: the folder holds no imported weights)."""
    folder = Path(folder).absolute()
    if not is_weights(folder):
        raise FileNotFoundError(
            f"{folder} holds no imported weights: write them with `python -m launch.import_weights`"
        )
    metadata: dict[str, Any] = ocp_v1.metadata(folder).custom_metadata
    return metadata


def read_weights(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Imported weights as a nested dict of NumPy arrays, and their metadata; errors as of `read_weights_metadata`."""
    metadata = read_weights_metadata(folder)
    return ocp_v1.load(Path(folder).absolute()), metadata


def _checkpoints_dir(workdir: Path) -> Path:
    return workdir.absolute() / "checkpoints"


def _find(path: Path) -> tuple[Path, int]:
    """The folder of checkpoints and the step that `path` means."""
    path = path.absolute()
    if path.name.isdigit() and path.is_dir():
        return path.parent, int(path.name)
    directory = path if path.name == "checkpoints" else _checkpoints_dir(path)
    steps = _steps_in(directory)
    if not steps:
        raise FileNotFoundError(f"{path}: no checkpoint; wanted a workdir with checkpoints/STEP/, or such a folder")
    return directory, max(steps)


def _shapes(params: PyTree) -> dict[str, list[Any]]:
    return {
        array_name(path): [list(leaf.shape), str(leaf.dtype)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def _target(shapes: Mapping[str, Any], shardings: PyTree | None) -> PyTree:
    """Abstract parameters from the metadata's `shapes`."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = {} if shardings is None else flatten(shardings)  # under the names of today, whatever layout was saved
    leaf = lambda name, shape, dtype: jax.ShapeDtypeStruct(
        shape, dtype, sharding=placed[converted_parameter(name)] if placed else device
    )
    return unflatten({name: leaf(name, *saved) for name, saved in shapes.items()})


def _layout_difference(found: int) -> str:
    older = "go on with the code that wrote it, or begin a new run with its weights (config.init_from)"
    what = older if found < LAYOUT_VERSION else "use newer code"
    return f"layout version {found}, this code's is {LAYOUT_VERSION}: {what}"


def _differences(metadata: Mapping[str, Any], facts: RunFacts, params: PyTree) -> list[str]:
    """What keeps a run from going on from a checkpoint, one line each, with what to do."""
    if metadata["layout_version"] != LAYOUT_VERSION:
        return [_layout_difference(metadata["layout_version"])]
    lines = []
    lines += _config_differences(metadata["config"], facts.config, metadata["step"], free=False)
    if lines:
        lines.append("-> go on with the saved values, or start another run in a new --workdir")
    if metadata["tokenizer_json"] != facts.tokenizer_json:
        lines.append("the text tokenizer is another one: point config.text_tokenizer at the one of the checkpoint")
    if metadata["data_fingerprint"] != facts.data_fingerprint:
        lines.append(
            f"the data are others: saved with {metadata['data_fingerprint']}, now {facts.data_fingerprint}: point "
            "config.data.dirs at the same shards"
        )
    saved, now = metadata["shapes"], _shapes(params)
    lines += [f"parameter {name}: saved {saved[name]}, the model has none" for name in saved if name not in now]
    lines += [f"parameter {name}: the model has {now[name]}, none was saved" for name in now if name not in saved]
    both = [name for name in now if name in saved]
    lines += [f"parameter {n}: saved {saved[n]}, the model has {now[n]}" for n in both if saved[n] != now[n]]
    return lines


def free_changes(metadata: Mapping[str, Any], facts: RunFacts) -> list[str]:
    """What differs between a checkpoint and the run that goes on from it, and may; one line each."""
    lines = _config_differences(metadata["config"], facts.config, metadata["step"], free=True)
    if metadata["processes"] != jax.process_count():
        lines.append(f"processes: saved with {metadata['processes']}, now {jax.process_count()}")
    return [f"{line}, which may be" for line in lines]


def _config_differences(saved: Mapping[str, Any], now: Mapping[str, Any], step: int, *, free: bool) -> list[str]:
    """Fields that differ, among those that may change or among those that may not; the run is at `step`.

    A field that is empty says what its absence did before there was one: older runs go on, and so do those from before
    frames could be rectangles.
    """
    may_change = FREE_TO_CHANGE + (("train.steps", "train.decay_steps") if _before_decay(saved, now, step) else ())
    as_json = lambda config: {name: json.dumps(value) for name, value in flatten_dict(dict(config), sep=".").items()}
    fields = ({"fit": fit_of(config), **with_stored_sizes(config)} for config in (saved, now))
    before, after = ({n: value for n, value in as_json(config).items() if value not in _EMPTY} for config in fields)
    return [
        f"config.{name}: saved with {before.get(name, 'nothing')}, now {after.get(name, 'nothing')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
        and free == any(name == field or name.startswith(field + ".") for field in may_change)
    ]


def _before_decay(saved: Mapping[str, Any], now: Mapping[str, Any], step: int) -> bool:
    """Whether how long a run is has not mattered to it yet: at `step` its learning rate is constant, or warms up.

    So it is with `train.decay_steps`, which sets when the rate goes down by the run's end (`train/optimizer.py`).
    """
    trains = [config.get("train", {}) for config in (saved, now)]
    return all(train.get("decay_steps") and step <= train["steps"] - train["decay_steps"] for train in trains)
