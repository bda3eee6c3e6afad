"""What the cells of `colabs/eval_captions.ipynb` call: a model, videos, what it says about them, and its scores.

    model = load("")                                       the shipped model, or a checkpoint's folder
    videos = collect_videos("", "watched", world_clips=2)  yours, uploaded ones, or new ones of the built-in world
    watched = watch(model, videos, "watched")              prints words as they come; a film, captions and numbers each
    show(watched)                                          a page: the films with words and tokens on a timeline
    print(table(scores(model, clips=16)))                  the table of `launch.evaluate`, with its controls

A model of stage `duplex` commentates, one of stage `vlm` captions pieces. Everything is done by the functions behind
`launch.commentate`, `launch.caption` and `launch.evaluate`. Nothing here needs a notebook: `show` gives HTML that a
notebook draws, and `Page.save` writes it as a file.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax

from data_pipelines.decode import Tick, VideoReader
from launch import evaluate
from launch.commentate import Captions, Terminal, describe, report_of
from mmduplex_jax.commentator import Speaker, speaker_of
from mmduplex_jax.pages.notebook_captions import CAPTION_BATCH, CaptionedVideo, caption_video, captions_page
from mmduplex_jax.pages.notebook_files import Video, collect_videos, find_checkpoint, upload_into
from mmduplex_jax.pages.notebook_page import Commentary, Page, Spent, commentary_page
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.stages.vlm.caption_decoding import Decoding
from mmduplex_jax.stages.vlm.captioner import Captioner
from mmduplex_jax.stages.vlm.task import VlmTask
from mmduplex_jax.streaming.pool import Session
from mmduplex_jax.streaming.render import PICTURE_PX, Renderer
from mmduplex_jax.streaming.runtime import Runtime
from mmduplex_jax.streaming.slot import SpentTokens
from mmduplex_jax.tokenizer.bflow import ANCHOR
from mmduplex_jax.weights.trained import Trained, load_trained
from mmduplex_jax.word_decoder import TimedWord

__all__ = ["Model", "collect_videos", "load", "scores", "show", "table", "watch"]


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model that says something about videos.

    Attributes:
      name: what to call it.
      checkpoint: the folder as `launch.evaluate --checkpoint` takes it; None for the shipped one.
      trained: the model.
    """

    name: str
    checkpoint: str | None
    trained: Trained

    def __str__(self) -> str:
        config, clock = self.trained.config, self.trained.clock
        number = sum(leaf.size for leaf in jax.tree.leaves(self.trained.params))
        return (
            f"{self.name}: stage {config.stage}, {number / 1e6:.1f} M parameters, {self.trained.steps:,} steps of "
            f"training\n{config.frame_px} px at {1 / clock.tick_s:.4g} pictures a second, "
            f"{self.trained.tokenizer.vocab_size:,} text tokens; on {jax.default_backend()}"
        )


def load(checkpoint: str = "", *, upload: bool = False, folder: str | Path = "watched") -> Model:
    """A model that captions or commentates.

    Args:
      checkpoint: a training's workdir or a portable checkpoint, or a folder with one below; "": the shipped one.
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
    where = str(find_checkpoint(checkpoint)) if checkpoint else None
    trained = load_trained(where)
    if not isinstance(trained.task, DuplexTask | VlmTask):
        raise ValueError(
            f"{trained.folder} is of stage {trained.config.stage!r}, which says nothing about a video; `duplex` and "
            f"`vlm` do. Its scores: python -m launch.evaluate --checkpoint={trained.folder}"
        )
    return Model("the shipped model" if where is None else f"the model in {where}", where, trained)


def watch(
    model: Model,
    videos: Sequence[Video],
    folder: str | Path,
    *,
    max_s: float = 60.0,
    fit: str = "crop",
    pad_bias: float = 0.0,
    decode: str = "greedy",
) -> list[Commentary] | list[CaptionedVideo]:
    """Lets the model watch videos, one after another, each from nothing; prints words as they come.

    Args:
      model: that watches.
      videos: to be watched.
      folder: where a commentator's `NAME.mp4` and `NAME.vtt` are written; it is made.
      max_s: of a video no more is watched.
      fit: how a wide picture becomes the model's square, as of `launch.commentate --fit`.
      pad_bias: of stage `duplex`: added to silence's logit; more is quieter.
      decode: of stage `vlm`: "greedy", "sample" or "beam".

    Returns:
      What was said about each. A video that broke on the way has what was said until then, and its error.

    Raises:
      VideoError: a source is no video.
      ValueError: `pad_bias` or `decode` is of the other stage.
    """
    trained = model.trained
    if isinstance(trained.task, VlmTask):
        if pad_bias:
            raise ValueError(f"pad_bias={pad_bias} is of models of stage 'duplex'; this one is of stage 'vlm'")
        captioner = Captioner(trained, Decoding(decode), CAPTION_BATCH)
        return [caption_video(captioner, trained.clock, video, fit=fit, max_s=max_s) for video in videos]
    if decode != Decoding().how:
        raise ValueError(f"decode={decode!r} is of models of stage 'vlm'; this one is of stage 'duplex'")
    Path(folder).mkdir(parents=True, exist_ok=True)
    speaker = speaker_of(trained, model.name)
    session = speaker.session(speaker.config.delay.eval, pad_bias)
    return [_watch_one(speaker, session, video, Path(folder), max_s, fit) for video in videos]


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
    args = evaluate.parser().parse_args([])
    args.checkpoint, args.clips, args.data, args.look = model.checkpoint, clips, data, look
    args.pad_bias, args.decode = pad_bias, decode
    evaluate.check(args)
    return evaluate.evaluate(args)


def table(report: dict[str, Any]) -> str:
    """A report of `scores` as a person reads it."""
    return evaluate.STAGES[report["stage"]].table(report)


class _Counter:
    """Keeps, as a listener, what each tick spent."""

    def __init__(self) -> None:
        self.spent: list[Spent] = []

    def on_tick(self, tick: Tick, words: Sequence[TimedWord], tokens: SpentTokens, tokens_in_last_second: int) -> None:
        """Counts the tick."""
        anchor = int((tokens.kind == ANCHOR).sum())
        self.spent.append(Spent(anchor, tokens.number - anchor, tokens_in_last_second))

    def close(self, words: Sequence[TimedWord]) -> None:
        """Nothing is left to do."""


def _watch_one(speaker: Speaker, session: Session, video: Video, folder: Path, max_s: float, fit: str) -> Commentary:
    film, captions = folder / f"{video.name}.mp4", folder / f"{video.name}.vtt"
    with VideoReader(video.source, speaker.clock, session.frame_px, fit, picture_px=PICTURE_PX) as reader:
        print(f"{video.name}: {describe(reader.info)}", flush=True)
        renderer = Renderer(
            film,
            frame_px=session.frame_px,
            fit=fit,
            tokens_per_s_max=speaker.tokens_per_s_max,
            tick_s=speaker.clock.tick_s,
        )
        counter = _Counter()
        runtime = Runtime(session, reader, [Terminal(), Captions(str(captions)), renderer, counter])
        report = report_of(speaker, runtime.run(max_s), runtime.error)
    if report["error"]:
        print(f"  {report['error']}")
    print()
    return Commentary(
        name=video.name,
        film=film if film.exists() else None,
        captions=captions,
        report=report,
        spent=tuple(counter.spent),
        tick_s=speaker.clock.tick_s,
        events=video.events,
    )
