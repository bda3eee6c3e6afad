"""A training of any stage, from a resolved config: its task, its data, what it begins with, what it is scored on."""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from data_pipelines.cameras import matching_cameras
from data_pipelines.dataset import ShardDataset, open_dataset
from data_pipelines.encoded import EncodedDataset, EncodedManifest, is_encoded
from data_pipelines.encoded_loader import make_encoded_loader
from data_pipelines.loader import make_loader
from data_pipelines.manifest import Manifest
from data_pipelines.samples import CodeShape, survey_words
from data_pipelines.sound import SoundFormat, make_sound_loader, open_sound
from mmduplex_jax.frame_size import frame_size
from mmduplex_jax.stages.encoding import encoded_task
from mmduplex_jax.stages.evaluation import check_fit, make_held_out
from mmduplex_jax.stages.registry import find_stage
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.train.feed import DataError
from mmduplex_jax.train.loop import fit
from mmduplex_jax.train.task import Task
from mmduplex_jax.weights.init_from import make_start
from mmduplex_jax.weights.trained import load_tokenizer


def train(
    config: Any,
    workdir: str | Path,
    log: Callable[[str], None] = print,
    warn: Callable[[str], None] | None = None,
    from_step: int | None = None,
) -> int:
    """Trains the stage of a config; returns the exit code (0, 75 or 130).

    Whatever can be known to be wrong is, before anything compiles and before the workdir is made.

    Args:
      config: with every field.
      log, warn, from_step: see `mmduplex_jax.train.loop.fit`.

    Raises:
      Exception: see `mmduplex_jax.train.loop.fit` and `data_pipelines.loader.make_loader`.
    """
    try:
        tokenizer = load_tokenizer(config)
        stage = find_stage(config.stage)
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from error
    task = _build_task(config, tokenizer)
    encoded = _names(config.data.get("encoded", ""))
    dirs = encoded or _names(config.data.dirs)
    if not dirs:
        raise DataError("config.data.dirs is empty: pass --config.data.dirs=DIR, written by `python -m launch.prepare`")
    weights = weights_of(config.data.weights, len(dirs))
    check_held_cameras(dirs, config.data.get("held_cameras") or "")
    batches: dict[str, Any] = {
        "batch_size": config.data.batch_size,
        "seed": config.data.seed,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
        "worker_processes": config.data.workers,
        "weights": weights,
    }
    of_video: dict[str, Any] = batches | {
        "flip": config.data.get("flip"),
        "with_things": config.get("loss", {}).get("crop_name_weight", 0.0) > 0,
        "codes": code_shape(config),
    }
    form = stage.pair_format(config)
    try:
        if isinstance(form, SoundFormat):
            sound = open_sound(dirs, form)
            data = make_sound_loader(sound, **batches, sounding_min=config.data.get("sounding_min", 0.0))
            fingerprint = sound.fingerprint()
            log(f"{len(data.source):,} pieces of {form.length_s:g} s of sound in {', '.join(dirs)}")
        else:
            for directory in dirs:
                check_fit(directory, open_video(directory).manifest, config)
            if encoded:
                task = encoded_task(config, task, tokenizer, encoded, log)
                data = make_encoded_loader(dirs, tokenizer, **of_video)
            else:
                data = make_loader(
                    dirs,
                    tokenizer,
                    clip_s=config.data.clip_s,
                    frame_px=frame_size(config.frame_px),
                    mark_corrupt=True,
                    pairs=form,
                    **of_video,
                )
            fingerprint = data_fingerprint(dirs)
    except ValueError as error:
        raise DataError(f"config.data and {', '.join(dirs)} do not fit each other: {error}") from error
    try:
        if not isinstance(form, SoundFormat):
            log(f"{len(data.source):,} clips in {', '.join(dirs)}")
            for line in notes_on_data(dirs, len(data.source), config, tokenizer):
                log(line)
        try:
            held_out = make_held_out(task, config, tokenizer)
        except ValueError as error:
            raise DataError(str(error)) from error
        outcome = fit(
            task,
            data,
            config,
            workdir,
            tokenizer_json=tokenizer.to_json(),
            record_key=data.source.key,
            record_trouble=data.trouble,
            data_fingerprint=fingerprint,
            start=make_start(config, task, tokenizer, log),
            evaluate=held_out,
            from_step=from_step,
            log=log,
            warn=warn,
        )
    finally:
        data.close()
    return outcome.exit_code


def code_shape(config: Any) -> CodeShape | None:
    """The codes of sound that a config's model learns from (`config.audio`); None where it does not speak."""
    audio = config.get("audio")
    return CodeShape(audio.codebooks, audio.card) if audio and audio.codebooks else None


def _build_task(config: Any, tokenizer: TextTokenizer) -> Task:
    """The task of a config (DataError: the config contradicts itself, or lacks a field of its stage)."""
    try:
        return find_stage(config.stage).build_task(config, tokenizer)
    except AttributeError as error:
        raise DataError(f"the config of stage {config.stage!r} lacks a field: {str(error).splitlines()[0]}") from error
    except (TypeError, ValueError) as error:
        raise DataError(f"the config contradicts itself: {error}{_frame_px_that_fits(config, tokenizer)}") from error


def _frame_px_that_fits(config: Any, tokenizer: TextTokenizer) -> str:
    """The frame size nearest to the config's with which its task can be built; nothing where no size is the matter."""
    if "frame_px" not in config:  # a stage without pictures
        return ""
    height_px, width_px = frame_size(config.frame_px)
    if height_px != width_px:  # too many to try
        return ""
    for distance in range(1, max(height_px, 32)):
        for side in (height_px - distance, height_px + distance):
            other = config.copy_and_resolve_references().unlock()
            with other.ignore_type():
                other.frame_px = (side, side)
            try:
                find_stage(config.stage).build_task(other, tokenizer)
            except (AttributeError, ArithmeticError, TypeError, ValueError):
                continue
            return f" (--config.frame_px={side} would fit)"
    return ""


def notes_on_data(dirs: Sequence[str], clips: int, config: Any, tokenizer: TextTokenizer) -> list[str]:
    """What a person should know of the data before the training starts; a sample of clips is read for it.

    Raises:
      DataError: the tokenizer cannot spell more of their words than `config.data.unknown_words_max`.
    """
    lines = []
    if clips < config.data.batch_size:
        fits = 2 ** int(math.log2(max(clips, 1)))
        lines.append(
            f"a batch takes {config.data.batch_size} clips and there are {clips}, so that some come in it twice: "
            f"prepare more, or pass --config.data.batch_size={fits}"
        )
    survey = survey_words([open_video(directory) for directory in dirs], tokenizer)
    where = f"{survey.clips} of {survey.of_clips} clips" if survey.clips < survey.of_clips else f"{survey.clips} clips"
    if survey.unknown:
        listed = ", ".join(f"{word!r} ({times} times)" for word, times in survey.unknown.most_common(5))
        most = config.data.unknown_words_max
        line = (
            f"config.text_tokenizer={config.text_tokenizer!r} cannot spell {survey.unknown.total()} of {survey.words} "
            f"words in {where} ({survey.unknown_share:.1%}; {len(survey.unknown)} different ones): {listed}"
            + (", ..." if len(survey.unknown) > 5 else "")
        )
        if survey.unknown_share > most:
            raise DataError(
                f"{line}. Pass --config.text_tokenizer=FILE: a tokenizer.json that can, or a folder of imported "
                f"weights with one. `python -m launch.make_tokenizer --data={','.join(dirs)} --out=tokenizer.json` "
                "makes one; `world` knows the words of the built-in world only. "
                f"config.data.unknown_words_max={most:g} allows {most:.1%}"
            )
        lines.append(f"{line}: they are left out of what is learned")
    if survey.cut:
        lines.append(
            f"{survey.cut} of {survey.words} words in {where} are not said in full before their clip ends: speech "
            f"has more tokens a second there than the text stream has steps, and falls {survey.max_lag_s:.1f} s behind"
        )
    if config.get("loss", {}).get("crop_name_weight", 0.0) > 0 and survey.with_things < survey.clips:
        lines.append(
            f"{survey.clips - survey.with_things} of {where} do not say where things are: nothing is learned from "
            f"these by config.loss.crop_name_weight={config.loss.crop_name_weight:g} (clips of the look `real` say it)"
        )
    if code_shape(config) is not None:
        if len(survey.codecs) > 1:
            counts = ", ".join(f"{count} of {codec!r}" for codec, count in survey.codecs.most_common())
            raise DataError(f"the sound in {where} was encoded by several codecs ({counts}): encode all of it by one")
        if survey.codecs.total() < survey.clips:
            lines.append(
                f"{survey.clips - survey.codecs.total()} of {where} have no codes of sound: they teach text alone"
            )
    lengths_s = survey.lengths_s
    short_s = [length_s for length_s in lengths_s if length_s < config.data.clip_s - 1e-6]
    if short_s:
        lines.append(
            f"{len(short_s)} of {len(lengths_s)} sampled clips are shorter than config.data.clip_s="
            f"{config.data.clip_s:g} (the shortest: {min(short_s):.2f} s): they are filled up, and what fills them is "
            "not counted"
        )
    return lines


def check_held_cameras(dirs: Sequence[str], held_cameras: str) -> None:
    """Makes sure that no data shows a camera that is held back for evaluation.

    Args:
      dirs: of shards, or of encoded clips.
      held_cameras: a regular expression of whole names, `config.data.held_cameras`; "" where none is held back.

    Raises:
      DataError: data show such a camera, or do not say which cameras they show.
      ShardError: data cannot be read.
    """
    for directory in dirs if held_cameras else ():
        cameras = open_video(directory).manifest.cameras
        if cameras is None:
            raise DataError(
                f"{directory} does not say of which cameras its pictures are, and config.data.held_cameras="
                f"{held_cameras!r} holds some back: prepare it again from a source that names them"
            )
        try:
            seen = matching_cameras(held_cameras, cameras)
        except ValueError as error:
            raise DataError(f"config.data.held_cameras: {error}") from error
        if seen:
            raise DataError(
                f"{directory} shows {', '.join(sorted(seen))}, which config.data.held_cameras={held_cameras!r} holds "
                "back for evaluation: prepare it without"
            )


def open_video(directory: str | Path) -> ShardDataset | EncodedDataset:
    """The records of a directory of shards, or of encoded clips; ShardError where it is neither."""
    return EncodedDataset(directory) if is_encoded(directory) else open_dataset(directory)


def _names(text: str) -> list[str]:
    """Directories that a config names, separated by commas."""
    return [directory.strip() for directory in text.split(",") if directory.strip()]


def weights_of(text: str, num_dirs: int) -> list[float] | None:
    """The numbers of `config.data.weights`, None where it is empty.

    Raises:
      DataError: they are no positive numbers, one a directory.
    """
    if not text.strip():
        return None
    try:
        weights = [float(weight) for weight in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != num_dirs or not all(0 < weight < math.inf for weight in weights):
        raise DataError(
            f"config.data.weights is {text!r}: give a positive number for each of the {num_dirs} directories in "
            "config.data.dirs, separated by commas, or leave it empty to mix them by their sizes"
        )
    return weights


def data_fingerprint(dirs: Sequence[str]) -> str:
    """A hash of the hashes of all shards, or encoded clips, in order: the same in another folder have the same."""
    digest = hashlib.sha256()
    for directory in dirs:
        if is_encoded(directory):
            digest.update(EncodedManifest.load(Path(directory)).fingerprint.encode())
            continue
        for shard in Manifest.load(Path(directory)).shards:
            digest.update(shard.sha256.encode())
    return digest.hexdigest()
