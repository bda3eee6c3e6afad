"""A model of any stage on clips that it has not seen: what `launch.evaluate`, the notebook and the training run."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.encoded import EncodedManifest
from data_pipelines.manifest import Manifest
from data_pipelines.sound import SoundFormat, sound_clips
from data_pipelines.world import WorldConfig
from mmduplex_jax.evals.clips import shard_records, world_records
from mmduplex_jax.evals.evaluator import (
    BATCH,
    UNSEEN_SEED,
    EvaluationStopped,
    Evaluator,
    Report,
    default_batch,
    load_metrics,
)
from mmduplex_jax.frame_size import fit_of, frame_size
from mmduplex_jax.stages.registry import STAGES, Stage, find_stage
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.train.evaluation import Evaluate
from mmduplex_jax.train.task import Task
from mmduplex_jax.typing import PyTree

WORLD = "world"


def add_stage_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the evaluation flags of every stage; only those that are given are in the namespace."""
    for name in STAGES:
        flags = find_stage(name).EVALUATION_FLAGS
        group = parser.add_argument_group(f"of stage {name}") if flags else None
        for flag, values in flags.items():
            assert group is not None
            group.add_argument(f"--{flag}", default=argparse.SUPPRESS, **values)


def stage_options(stage: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the flags in a namespace, those of a stage (ValueError: one of another stage was given)."""
    own = find_stage(stage).EVALUATION_FLAGS
    every = {flag for name in STAGES for flag in find_stage(name).EVALUATION_FLAGS}
    foreign = [f"--{flag}" for flag in sorted(every - set(own)) if flag in given]
    if foreign:
        raise ValueError(f"{', '.join(foreign)}: not of models of stage {stage!r}, which this one is")
    return {flag: given[flag] for flag in own if flag in given}


def open_clips(data: str, config: Any, *, clips: int, seed: int, look: str = "plain") -> tuple[int, Iterable[Any]]:
    """How many clips there are, and they themselves: records, or of a stage of sound alone pieces of sound.

    Args:
      data: `world`, for new clips of the built-in world, or a folder of prepared shards (or of files of sound).
      clips: how many, at most.
      seed: of the clips, or of which are chosen.
      look: of the world's.

    Raises:
      ValueError, ShardError: the data do not fit the model, or cannot be read.
    """
    if clips < 1:
        raise ValueError(f"--clips must be at least 1, got {clips}")
    form = find_stage(config.stage).pair_format(config)
    if isinstance(form, SoundFormat):
        if data == WORLD:
            raise ValueError(f"the built-in world is silent, a model of stage {config.stage!r} needs a folder of sound")
        return sound_clips(data, form, seed, clips)
    if data != WORLD:
        check_fit(data, Manifest.load(Path(data)), config)
        return shard_records(data, seed, clips)
    world = WorldConfig(look=look, frame_px=config.frame_px, **config.clock)
    return clips, world_records(world, seed, clips)


def check_fit(directory: str | Path, manifest: Manifest | EncodedManifest, config: Any) -> None:
    """ValueError for data whose pictures were fitted to frames in another way than the model's live ones are."""
    wanted = fit_of(config)
    if manifest.fit not in (None, wanted):
        raise ValueError(
            f"{directory} was prepared with fit={manifest.fit}, the model has {wanted}, and so it watches live: "
            f"prepare the data with --config.fit={wanted}, or train with --config.fit={manifest.fit}"
        )


def evaluate(
    task: Task,
    params: PyTree,
    config: Any,
    tokenizer: TextTokenizer,
    *,
    data: str = WORLD,
    clips: int = 160,
    seed: int = UNSEEN_SEED,
    look: str = "plain",
    batch: int | None = None,
    metrics: str = "",
    **options: Any,
) -> Report:
    """Every score of a model, with progress on stderr.

    Args:
      data, clips, seed, look: see `open_clips`.
      batch: clips at a time; None: as many as fit (`evaluator.default_batch`).
      metrics: further ones, by name (`evals/evaluator.py`), separated by commas.
      options: of the stage's `EVALUATION_FLAGS`.

    Raises:
      ValueError, ShardError: options or clips do not fit the model.
    """
    evaluator = make_evaluator(task, config, tokenizer, seed=seed, batch=batch, metrics=metrics, **options)
    number, records = open_clips(data, config, clips=clips, seed=seed, look=look)
    return evaluator.run(params, records, number)


def make_evaluator(
    task: Task, config: Any, tokenizer: TextTokenizer, *, metrics: str, batch: int | None = None, **options: Any
) -> Evaluator:
    """The evaluator of a model's stage, ready to be run with any parameters; `batch` and `options` as of `evaluate`."""
    stage: Stage = find_stage(config.stage)
    if batch is None:  # a stage of sound has no frames
        batch = default_batch(frame_size(config.frame_px)) if "frame_px" in config else BATCH
    return stage.make_evaluator(task, config, tokenizer, metrics=load_metrics(metrics), batch=batch, **options)


def make_held_out(task: Task, config: Any, tokenizer: TextTokenizer) -> dict[str, Evaluate]:
    """What `config.evals` asks for: every held-out set by its name (see `mmduplex_jax/train/evaluation.py`).

    Raises:
      ValueError, ShardError: a set cannot be read, or a metric not be found.
    """
    evals = config.get("evals")
    if not evals or not evals.every:
        return {}
    sets = [name.strip() for name in evals.dirs.split(",") if name.strip()]
    if not sets:
        raise ValueError(
            "config.evals.every asks for evaluations and config.evals.dirs names no data: pass "
            "--config.evals.dirs=DIR (held-out shards), or =world"
        )
    evaluator = make_evaluator(task, config, tokenizer, metrics=evals.metrics, batch=evals.batch, seed=evals.seed)
    names = {name.rstrip("/").rpartition("/")[2]: name for name in sets}
    if len(names) < len(sets):
        raise ValueError(f"config.evals.dirs={evals.dirs}: the last parts of these names must differ, they name scores")

    def held_out(data: str) -> Evaluate:
        # Not kept open: what is not read is not held. The same seed gives the same clips every time.
        clips = lambda: open_clips(data, config, clips=evals.clips, seed=evals.seed)
        clips()  # a folder that holds no shards is known before anything compiles

        def scores(params: PyTree, should_stop: Callable[[], bool]) -> Report:
            number, records = clips()
            return evaluator.run(params, _until(records, should_stop), number)

        return scores

    return {name: held_out(data) for name, data in names.items()}


def _until(records: Iterable[Any], should_stop: Callable[[], bool]) -> Iterator[Any]:
    for record in records:
        if should_stop():
            raise EvaluationStopped
        yield record
