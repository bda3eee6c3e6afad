"""What the cells of `colabs/eval_captions.ipynb` call: a model, videos, what it says about them, and its scores.

    model = load("world")                                  or "real", or a checkpoint's folder
    watched = watch(model, ["match.mp4"], "watched")       prints words as they come; a film, captions and numbers each
    show(watched)                                          a page: the films with words and tokens on a timeline
    print(table(scores(model, clips=16)))                  the table of `launch.evaluate`, with its controls

A model of stage `duplex` commentates, one of stage `vlm` captions pieces. The work is done by what is behind
`launch.commentate`, `launch.caption` and `launch.evaluate`. Nothing here needs a notebook: `show` gives HTML that a
notebook draws, and `Page.save` writes it as a file.
"""

import contextlib
import dataclasses
import importlib
import itertools
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax

from data_pipelines.decode import Tick
from data_pipelines.schema import Event
from data_pipelines.sources.folder import VIDEO_SUFFIXES
from data_pipelines.video_source import VideoError, camera_index
from data_pipelines.world import WorldConfig
from data_pipelines.world.clip import write_clip_files
from mmduplex_jax.commentator import Commentator, commentator_of, recording, report_of
from mmduplex_jax.evals.evaluator import UNSEEN_SEED
from mmduplex_jax.frame_size import FrameSize, frame_size, size_text
from mmduplex_jax.pages import Page, jpeg
from mmduplex_jax.pages.watched import CaptionedVideo, Commentary, Spent, captions_page, commentary_page
from mmduplex_jax.stages.evaluation import evaluate, stage_options
from mmduplex_jax.stages.registry import find_stage
from mmduplex_jax.stages.vlm.captioner import (
    PICTURE_SUFFIXES,
    Captioned,
    Captioner,
    Decoding,
    caption_source,
    files_of,
    line_of,
    pieces_of,
)
from mmduplex_jax.streaming.captions import Terminal
from mmduplex_jax.streaming.slot import TickResult
from mmduplex_jax.tokenizer.bflow import ANCHOR
from mmduplex_jax.weights import portable
from mmduplex_jax.weights.trained import DEFAULT, MODELS, Trained, load_trained
from mmduplex_jax.word_decoder import TimedWord

__all__ = ["Model", "collect_videos", "load", "scores", "show", "table", "watch"]

AS_TRAINED = "as trained"  # of `watch`: pictures are fitted as they were in the training
# What a training's workdir holds its checkpoints in.
_CHECKPOINTS = "checkpoints"
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# Pieces captioned at a time.
_CAPTION_BATCH = 8
_CAPTIONED_PX = 224
_JPEG_QUALITY = 85


@dataclasses.dataclass(frozen=True)
class Video:
    """A video that is to be watched, or a picture.

    Attributes:
      name: what to call it; no two of a list have the same, and each can name a file.
      source: a path, an address, or a camera's number.
      events: what happens in it, where somebody knows (the world does); None where nobody does.
    """

    name: str
    source: str
    events: tuple[Event, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model that says something about videos.

    Attributes:
      name: what to call it.
      checkpoint: as `launch.evaluate --checkpoint` takes it.
      trained: the model.
    """

    name: str
    checkpoint: str
    trained: Trained

    def __str__(self) -> str:
        config, clock = self.trained.config, self.trained.clock
        number = sum(leaf.size for leaf in jax.tree.leaves(self.trained.params))
        return (
            f"{self.name}: stage {config.stage}, {number / 1e6:.1f} M parameters, {self.trained.steps:,} steps of "
            f"training\n{size_text(frame_size(config.frame_px))} at {1 / clock.tick_s:.4g} pictures a second, "
            f"{self.trained.tokenizer.vocab_size:,} text tokens; on {jax.default_backend()}"
        )


def load(checkpoint: str = "", *, upload: bool = False, folder: str | Path = "watched") -> Model:
    """A model that captions or commentates.

    Args:
      checkpoint: a training's workdir or a portable checkpoint, or a folder with one below; or "real" or "world", the
        models that come with the library (`./real` is a folder of that name); "": the first of these.
      upload: ask for a checkpoint's files, or an archive of its folder (in Colab), instead.
      folder: where an upload is kept.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: it does not fit this code, or is of a stage that says nothing.
    """
    if upload and checkpoint:
        raise ValueError(f"the checkpoint is to be uploaded, and is to be {checkpoint!r}: choose one")
    if upload:
        upload_into(Path(folder) / "checkpoint")
        checkpoint = str(Path(folder) / "checkpoint")
    checkpoint = checkpoint or DEFAULT
    where = checkpoint if checkpoint in MODELS else str(find_checkpoint(checkpoint))
    trained = load_trained(where)
    if not find_stage(trained.config.stage).OUTPUT:
        raise ValueError(
            f"{trained.folder} is of stage {trained.config.stage!r}, which says nothing about a video; `duplex` and "
            f"`vlm` do. Its scores: python -m launch.evaluate --checkpoint={trained.folder}"
        )
    return Model(trained.title, where, trained)


def watch(
    model: Model,
    videos: str | Path | Sequence[Video | str | Path],
    folder: str | Path,
    *,
    max_s: float = 60.0,
    fit: str = AS_TRAINED,
    pad_bias: float = 0.0,
    decode: str = "greedy",
) -> list[Commentary] | list[CaptionedVideo]:
    """Lets the model watch videos, one after another, each from an empty state; prints words as they come.

    Args:
      model: that watches.
      videos: paths, folders (the videos and pictures in them), addresses, or what `collect_videos` gives.
      folder: where a commentator's `NAME.mp4` and `NAME.vtt` are written; it is made.
      max_s: watch at most so much of each.
      fit: how a picture of another shape becomes the model's frame, as of `launch.commentate --fit`, or `AS_TRAINED`.
      pad_bias: of stage `duplex`: added to silence's logit; more is quieter.
      decode: of stage `vlm`: "greedy", "sample" or "beam".

    Returns:
      What was said about each. A video that broke on the way has what was said until then, and its error.

    Raises:
      FileNotFoundError: a path or a folder's videos are missing.
      VideoError: a source is no video.
      ValueError: `pad_bias` or `decode` is of the other stage, or a camera is to be captioned, or a
        video would be overwritten.
    """
    chosen = _as_videos([videos] if isinstance(videos, str | Path) else videos)
    trained, chosen_fit = model.trained, None if fit == AS_TRAINED else fit
    if find_stage(trained.config.stage).OUTPUT == "captions":
        if pad_bias:
            raise ValueError(f"pad_bias={pad_bias} is of models of stage 'duplex'; this one is of stage 'vlm'")
        captioner = Captioner(
            trained.task, trained.config, trained.tokenizer, Decoding(decode), _CAPTION_BATCH, params=trained.params
        )
        return [_caption_one(captioner, trained, video, max_s, chosen_fit) for video in chosen]
    if decode != Decoding().how:
        raise ValueError(f"decode={decode!r} is of models of stage 'vlm'; this one is of stage 'duplex'")
    folder = Path(folder)
    for video in chosen:
        if _film(folder, video).exists() and _film(folder, video).resolve() == Path(video.source).resolve():
            raise ValueError(f"{video.source} would be overwritten by what is written to {folder}: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    commentator = commentator_of(trained, model.name)
    return [_watch_one(commentator, video, folder, max_s, chosen_fit, pad_bias) for video in chosen]


def show(watched: Sequence[Commentary] | Sequence[CaptionedVideo]) -> Page:
    """The page of what was said, which a notebook shows; ValueError where nothing was watched."""
    if not watched:
        raise ValueError("nothing was watched, so there is nothing to show")
    captioned = [one for one in watched if isinstance(one, CaptionedVideo)]
    return captions_page(captioned) if captioned else commentary_page(cast(Sequence[Commentary], watched))


def scores(
    model: Model,
    *,
    clips: int = 16,
    data: str = "world",
    look: str = "plain",
    pad_bias: float = 0.0,
    decode: str = "greedy",
) -> dict[str, Any]:
    """The report of `launch.evaluate` on clips that no training has seen; see its --help for what is in it.

    Args:
      model: that is scored.
      clips: how many.
      data: `world`, or a folder of prepared shards.
      look: of the world's clips.
      pad_bias, decode: as of `watch`.

    Raises:
      ValueError: as `launch.evaluate` refuses its flags.
    """
    trained = model.trained
    given = ({"pad_bias": pad_bias} if pad_bias else {}) | ({"decode": decode} if decode != "greedy" else {})
    options = stage_options(trained.config.stage, given)
    report = evaluate(
        trained.task, trained.params, trained.config, trained.tokenizer, clips=clips, data=data, look=look, **options
    )
    return report | {"stage": trained.config.stage}


def table(report: dict[str, Any]) -> str:
    """A report of `scores` as a person reads it."""
    return find_stage(report["stage"]).format_table(report)


class _Counter:
    """Keeps, as a listener, what each tick spent."""

    def __init__(self) -> None:
        self.spent: list[Spent] = []

    def on_tick(self, tick: Tick, result: TickResult, tokens_in_last_second: int) -> None:
        """Counts the tick."""
        anchor = int((result.tokens.kind == ANCHOR).sum())
        self.spent.append(Spent(anchor, result.tokens.number - anchor, tokens_in_last_second))

    def close(self, words: Sequence[TimedWord]) -> None:
        """Nothing is left to do."""


def _film(folder: Path, video: Video) -> Path:
    return folder / f"{video.name}.mp4"


def _watch_one(
    model: Commentator, video: Video, folder: Path, max_s: float, fit: str | None, pad_bias: float
) -> Commentary:
    film, captions = _film(folder, video), folder / f"{video.name}.vtt"
    counter = _Counter()
    with recording(
        model, video.source, pad_bias=pad_bias, fit=fit, captions=captions, film=film,
        listeners=[Terminal(), counter], say=lambda line: print(line, flush=True),
    ) as runtime:  # fmt: skip
        report = report_of(model, runtime.run(max_s))
    if report["error"]:
        print(f"  {report['error']}")
    print()
    return Commentary(
        name=video.name,
        film=film if film.exists() else None,
        captions=captions,
        report=report,
        spent=tuple(counter.spent),
        tick_s=model.clock.tick_s,
        events=video.events,
    )


def _caption_one(captioner: Captioner, trained: Trained, video: Video, max_s: float, fit: str | None) -> CaptionedVideo:
    if camera_index(video.source) is not None:
        raise ValueError(f"{video.source} is a camera: captions are shown below pictures of a file or an address")
    clock, said, error = trained.clock, list[Captioned](), ""
    try:
        for caption in caption_source(captioner, clock, video.source, batch=_CAPTION_BATCH, fit=fit, max_s=max_s):
            said.append(caption)
            print(line_of(caption), flush=True)
    except VideoError as broken:
        if not said:
            raise
        error = str(broken)
        print(f"  {error}")
    # The same frames again, as large as the page shows them; the model's own may be very small.
    pieces = pieces_of(
        video.source,
        clock,
        frames=captioner.frames,
        num_ticks=captioner.num_ticks,
        frame_px=_shown_size(captioner.frame_px),
        fit=fit or captioner.fit,
        max_s=max_s,
    )
    different = (piece.frames[:1] if (piece.frames == piece.frames[0]).all() else piece.frames for piece in pieces)
    jpegs = tuple(tuple(jpeg(frame, _JPEG_QUALITY) for frame in frames) for _, frames in zip(said, different))
    return CaptionedVideo(video.name, tuple(said), jpegs, video.events, error)


def _shown_size(frame_px: FrameSize) -> FrameSize:
    """A size of the model's proportions, as large as captioned pictures are shown."""
    scale = _CAPTIONED_PX / max(frame_px)
    return max(1, round(frame_px[0] * scale)), max(1, round(frame_px[1] * scale))


def upload_into(folder: str | Path) -> list[Path]:
    """Opens Colab's dialog, keeps what is chosen in `folder`, and unpacks archives (.zip) there.

    Returns:
      The files that were chosen, or of an archive the files that were in it.

    Raises:
      RuntimeError: this is not Colab, so there is no dialog.
      ValueError: nothing was chosen, or an archive is broken.
    """
    try:
        files = importlib.import_module("google.colab.files")
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "a dialog to upload files is there in Colab only: elsewhere put the files where this machine sees them, "
            "and give their path"
        ) from error
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # The dialog also leaves a copy of its own in the folder that is current.
    with contextlib.chdir(folder):
        chosen = files.upload()
    if not chosen:
        raise ValueError("no file was chosen: run the cell again, or turn the upload off")
    kept: list[Path] = []
    for name, content in chosen.items():
        path = folder / Path(name).name
        path.write_bytes(content)
        kept += _unpacked(path) if path.suffix.lower() == ".zip" else [path]
    return kept


def _unpacked(archive: Path) -> list[Path]:
    """Unpacks an archive into a folder of its name, and returns the files."""
    folder = archive.with_suffix("")
    try:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # names that lead out of the folder are bent back into it
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive.name} is no archive that can be read ({error}): upload it again") from error
    # Some archives carry a second tree of one system's notes, whose files have the names of the others.
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__MACOSX" not in path.parts)


def find_checkpoint(folder: str | Path) -> Path:
    """The one checkpoint in a folder, or in a folder below: what was zipped or uploaded often has folders around it.

    Raises:
      FileNotFoundError: there is none.
      ValueError: there are several.
    """
    folder = Path(folder)
    below = sorted(path for path in folder.rglob("*") if path.is_dir()) if folder.is_dir() else []
    found = [path for path in [folder, *below] if portable.is_portable(path) or _is_workdir(path)]
    if not found:
        raise FileNotFoundError(
            f"no checkpoint in {folder}: neither a portable one ({portable.METADATA_FILE}, {portable.PARAMS_FILE}) nor "
            f"a workdir of `python -m launch.train` ({_CHECKPOINTS}/STEP)"
        )
    if len(found) > 1:
        raise ValueError(f"{folder} holds several checkpoints: give one of {', '.join(map(str, found))}")
    return found[0]


def _is_workdir(folder: Path) -> bool:
    """Whether a training has kept a step there; a folder `checkpoints` of another kind may hold exported models."""
    kept = folder / _CHECKPOINTS
    return kept.is_dir() and any(step.name.isdecimal() for step in kept.iterdir())


def collect_videos(
    listed: str,
    folder: str | Path,
    *,
    upload: bool = False,
    world_clips: int = 0,
    look: str = "plain",
    clip_s: float = 12.0,
    seed: int = UNSEEN_SEED,
) -> list[Video]:
    """Videos from anywhere: those that are listed, those that a dialog uploads, and new clips of the built-in world.

    Args:
      listed: files, folders (the videos and pictures in them), addresses or a camera's number, with commas between
        them; "" for none.
      folder: where uploads and clips of the world are written.
      upload: whether to ask for files (in Colab).
      world_clips: how many clips of the world.
      look: of these clips, "plain" or "rich".
      clip_s: their length.
      seed: of these clips; no config trains on the default.

    Raises:
      FileNotFoundError: something that is listed is not there.
      ValueError: there is nothing to watch at all, or the world knows no such look.
    """
    videos: list[Video | str | Path] = [part.strip() for part in listed.split(",") if part.strip()]
    if upload:
        videos += _videos_of(upload_into(Path(folder) / "uploaded"))
    if world_clips:
        world = Path(folder) / "world"
        world.mkdir(parents=True, exist_ok=True)
        config = WorldConfig(look=look, clip_s=clip_s)
        for index in range(world_clips):
            files = write_clip_files(world, config, seed, index)
            facts = json.loads(files.events.read_text(encoding="utf-8"))
            events = tuple(Event(**event) for event in facts["events"])
            videos.append(Video(f"{look} world, clip {index}", str(files.video), events))
    if not videos:
        raise ValueError("there is nothing to watch: list a video, upload one, or ask for a clip of the world")
    return _as_videos(videos)


def _as_videos(videos: Sequence[Video | str | Path]) -> list[Video]:
    """The videos, of paths and addresses too, each with a name of its own that a file can have."""
    found = [
        one
        for video in videos
        for one in ([video] if isinstance(video, Video) else map(_video_of, _listed(str(video))))
    ]
    distinct: list[Video] = []
    for video in found:
        plain = re.sub(r"[^\w .,()-]+", "_", video.name)
        numbered = itertools.chain([plain], (f"{plain} ({number})" for number in itertools.count(2)))
        taken = {one.name for one in distinct}
        distinct.append(dataclasses.replace(video, name=next(name for name in numbered if name not in taken)))
    return distinct


def _video_of(source: str) -> Video:
    return Video(Path(source).stem or source, source)


def _listed(source: str) -> list[str]:
    if camera_index(source) is not None or _URL.match(source):
        return [source]
    if not Path(source).exists():
        raise FileNotFoundError(f"there is no {source}: give paths, folders or addresses of videos")
    return files_of(source)


def _videos_of(files: Sequence[Path]) -> list[Path]:
    """Those of the uploaded files that are videos or pictures by their names."""
    suffixes = VIDEO_SUFFIXES | PICTURE_SUFFIXES
    videos = [file for file in files if file.suffix.lower() in suffixes]
    if not videos:
        raise ValueError(
            f"no video and no picture among what was uploaded ({', '.join(file.name for file in files)}): their names "
            f"end in {', '.join(sorted(suffixes))}"
        )
    return videos
