"""A model that commentates: `load` one and let it watch a file, an address, a camera, or your own frames.

    import mmduplex_jax as mm

    model = mm.load()  # the model of real cameras; or "world", or a folder
    for word in model.commentate("video.mp4"):  # words with the time of the picture and of being said
        print(word)

    stream = model.stream()
    words = stream.push(frame, t_s)  # one's own frames, RGB uint8 of any size
    words += stream.close()

A model that speaks is heard where `on_sound` takes its sound. All times are in seconds.
"""

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.decode import VideoReader
from data_pipelines.geometry import fitter
from data_pipelines.pictures import DEFAULT_RATE_HZ
from data_pipelines.video_source import VideoError, redact
from mmduplex_jax.clock import Clock, TickSampler
from mmduplex_jax.compile_cache import keep_compiled, kept_folder
from mmduplex_jax.frame_size import FrameSize, fit_of, size_text
from mmduplex_jax.interruptible import run_interruptibly
from mmduplex_jax.models.fusion import fusion_of
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.stages.config_file import load_config
from mmduplex_jax.stages.registry import build_task, find_stage
from mmduplex_jax.streaming.captions import CaptionFile
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import Session, StreamPool
from mmduplex_jax.streaming.programs import Compile, compiled, recalled
from mmduplex_jax.streaming.render import PICTURE_PX, Renderer
from mmduplex_jax.streaming.runtime import Listener, Runtime, Watching
from mmduplex_jax.streaming.sound import SoundPiece, Voice, voice_of
from mmduplex_jax.streaming.speech import open_speech
from mmduplex_jax.streaming.statistics import RunStatistics
from mmduplex_jax.streaming.unrolled import codec_on_this_machine, live_on_this_machine
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.codec import CODEC_FOLDER, find_codec, load_codec
from mmduplex_jax.weights.reduced import check_kind, reduced
from mmduplex_jax.weights.trained import Trained, load_tokenizer, load_trained
from mmduplex_jax.word_decoder import TimedWord

# A picture of one's own stands for so long when none follows; then the stream's time jumps to the next one.
_GAP_S = 10.0


class Delays(NamedTuple):
    """How far words may run behind the picture, in steps: the least and the most that were trained, and the usual."""

    least: int
    most: int
    usual: int

    def chosen(self, delay_steps: int | None) -> int:
        """The delay that is asked for, or the usual one; ValueError where the model was not made for it."""
        if delay_steps is None:
            return self.usual
        if not self.least <= delay_steps <= self.most:
            raise ValueError(
                f"a delay of {delay_steps} steps: this model was made for delays of {self.least} to {self.most} steps"
            )
        return delay_steps


@dataclasses.dataclass(frozen=True, repr=False)
class Commentator:
    """A live model with everything that a stream needs. The first stream prepares its step, later ones use it again.

    Attributes:
      name: what to call it in a report.
      live: the model.
      params: its parameters, unboxed; large tables of fewer bits than float32 are `layers.reduced.Reduced`.
      config: of its training.
      tokenizer: its words.
      steps: how long it was trained; 0 for random parameters.
      voice: what makes it heard; None for a model that only writes, or without its codec.
    """

    name: str
    live: LiveModel
    params: PyTree
    config: ConfigDict
    tokenizer: TextTokenizer
    steps: int = 0
    voice: Voice | None = None
    _idle: list[Session] = dataclasses.field(default_factory=list, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        return (
            f"<Commentator: {self.name}, {size_text(self.frame_px)} at {self.clock.tick_hz:g} Hz, {self.steps:,} steps>"
        )

    @property
    def clock(self) -> Clock:
        return self.live.config.clock

    @property
    def tokens_per_s_max(self) -> int:
        return self.live.config.tokenizer.cap

    @property
    def tokens_per_s_min(self) -> int:
        """The least cap under which a stream is still seen (`BudgetRule.cap_min`)."""
        return self.live.config.tokenizer.cap_min

    @property
    def frame_px(self) -> FrameSize:
        """Height and width of the frames that it watches."""
        return self.live.config.tokenizer.frame_px

    @property
    def fit(self) -> str:
        """How pictures were fitted to these frames in training, and are here unless another way is asked for."""
        return fit_of(self.config)

    @property
    def anew_at_cuts(self) -> bool:
        """Whether its streams begin anew at cuts: it was trained on single scenes (`launch.export --anew_at_cuts`)."""
        return bool(self.config.get("anew_at_cuts"))

    @property
    def sample_rate_hz(self) -> int | None:
        """Of its sound; None: it has no voice, or no codec to make its codes heard."""
        return None if self.voice is None else self.voice.sample_rate_hz

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the parameters: another one after any training, whatever the model is called."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            values = np.asarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {values.dtype} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    @property
    def delays(self) -> Delays:
        delay = self.config.delay
        return Delays(delay.min, delay.max, delay.eval)

    def commentate(
        self,
        source: str | os.PathLike[str] | int,
        *,
        delay_steps: int | None = None,
        pad_bias: float = 0.0,
        fit: str | None = None,
        image_rate_hz: float = DEFAULT_RATE_HZ,
        realtime: bool = False,
        max_s: float | None = None,
        on_sound: Callable[[SoundPiece], None] | None = None,
    ) -> Iterator[TimedWord]:
        """Watches a video and yields its words as they come.

        Args:
          source: a file, an address that PyAV opens, a camera's number, or a folder of pictures.
          delay_steps: steps that the words run behind the picture; the config's usual delay where it is not given.
          pad_bias: added to silence's logit; more is quieter.
          fit: how a picture of another shape becomes the model's frame: "pad" all of it between black bars, or "crop"
            its centre; as the model was trained where it is not given.
          image_rate_hz: pictures a second of a folder.
          realtime: watch at the video's own speed, and drop frames rather than fall behind; always so for live sources.
          max_s: watch no more than this.
          on_sound: takes what is heard, a piece a step; where it is given the model speaks.

        Raises:
          VideoError: it is no video, or broke on the way: then after the words that were said until there.
          ValueError: a setting that the model was not made for.
        """
        session = self.session(delay_steps, pad_bias, speaking=on_sound is not None)
        hearers = [] if on_sound is None else [on_sound]
        with VideoReader(
            source, self.clock, self.frame_px, fit or self.fit, trusted=True, image_rate_hz=image_rate_hz
        ) as reader:
            runtime = Runtime(session, reader, realtime=realtime, hearers=hearers)
            try:
                yield from runtime.words(max_s)
            except GeneratorExit:  # whoever took the words has heard enough
                self._idle.append(session)
                raise
        self._idle.append(session)
        if runtime.error is not None:
            raise runtime.error

    def stream(
        self,
        *,
        delay_steps: int | None = None,
        pad_bias: float = 0.0,
        fit: str | None = None,
        on_sound: Callable[[SoundPiece], None] | None = None,
    ) -> "CommentaryStream":
        """Begins a stream of one's own frames; settings as of `commentate`."""
        session = self.session(delay_steps, pad_bias, speaking=on_sound is not None)
        return CommentaryStream(self, session, fit or self.fit, on_sound)

    def session(self, delay_steps: int | None = None, pad_bias: float = 0.0, *, speaking: bool = False) -> Session:
        """A stream over ticks of the model's own clock and frame size, compiled; settings as of `commentate`.

        Args:
          speaking: its ticks give sound, too.

        Raises:
          ValueError: a delay that was not trained, a bias that is no number, or a model that cannot be heard.
        """
        delay_steps = self.delays.chosen(delay_steps)
        if speaking and self.voice is None:
            raise ValueError(why_unheard(self))
        for session in self._idle:
            if session.speaking == speaking:
                self._idle.remove(session)
                session.configure(delay_steps=delay_steps, pad_bias=pad_bias)
                return session
        return Session(
            self.live,
            self.params,
            self.tokenizer,
            self.clock,
            self.frame_px,
            delay_steps=delay_steps,
            pad_bias=pad_bias,
            voice=self.voice if speaking else None,
            anew_at_cuts=self.anew_at_cuts,
            compile=compile_of(self.live),
        )


def pool_of(
    model: Commentator,
    slots: int,
    policy: DeadlinePolicy,
    *,
    ahead: int = 1,
    movable: bool = False,
    anew_at_cuts: bool | None = None,
) -> StreamPool:
    """A pool for so many streams of a model at once, compiled; they may speak where the model does.

    Args:
      model: watches.
      slots, policy, ahead, movable: as of `StreamPool`.
      anew_at_cuts: whether streams begin anew at cuts; as the model's do where it is not given.

    Raises:
      ValueError: a rung of the policy leaves less than a stream needs.
    """
    return StreamPool(
        model.live,
        model.params,
        model.tokenizer,
        model.clock,
        model.frame_px,
        slots=slots,
        policy=policy,
        tokens_per_s_max=model.tokens_per_s_max,
        tokens_per_s_min=model.tokens_per_s_min,
        ahead=ahead,
        voice=model.voice,
        movable=movable,
        anew_at_cuts=model.anew_at_cuts if anew_at_cuts is None else anew_at_cuts,
        compile=compile_of(model.live),
    )


def compile_of(live: LiveModel) -> Compile:
    """How programs of a model come to be: from traces that are kept, unless some of it is not this project's code."""
    if type(live) is not LiveModel or not fusion_of(live.config.fusion).__module__.startswith("mmduplex_jax."):
        return compiled
    return recalled


class ModelFacts(Protocol):
    """What a viewer or a client knows of a model; `Commentator` has it."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def frame_px(self) -> FrameSize: ...
    @property
    def fit(self) -> str: ...
    @property
    def tokens_per_s_max(self) -> int: ...
    @property
    def sample_rate_hz(self) -> int | None: ...
    @property
    def delays(self) -> Delays: ...


class Commentates(ModelFacts, Protocol):
    """What `recording` needs of a model: `Commentator` has it, and so has the model of a server."""

    def session(self, delay_steps: int | None = None, pad_bias: float = 0.0, *, speaking: bool = False) -> Watching: ...


@contextlib.contextmanager
def recording(
    model: Commentates,
    source: str | os.PathLike[str] | int,
    *,
    delay_steps: int | None = None,
    pad_bias: float = 0.0,
    fit: str | None = None,
    image_rate_hz: float = DEFAULT_RATE_HZ,
    realtime: bool = False,
    captions: str | os.PathLike[str] | None = None,
    film: str | os.PathLike[str] | None = None,
    speech: str | os.PathLike[str] | None = None,
    listeners: Sequence[Listener] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Runtime]:
    """A run over a video, open and ready, whose words are also written to files.

    Args:
      model: that watches.
      source, delay_steps, pad_bias, fit, image_rate_hz, realtime: as of `Commentator.commentate`.
      captions: a .vtt or .srt with the words.
      film: an .mp4 or .mkv of the video with the words as subtitles, the tokens' places, and the sound of a model that
        speaks.
      speech: a .wav, .opus, .ogg or .m4a with what is heard, or "device": it is played.
      listeners: that take the words, too.
      say: takes a line about what is going on.

    Raises:
      VideoError: it is no video.
      ValueError: a setting that the model was not made for.
    """
    delay_steps, fit = model.delays.chosen(delay_steps), fit or model.fit
    with VideoReader(
        source, model.clock, model.frame_px, fit, picture_px=PICTURE_PX if film else None, trusted=True,
        image_rate_hz=image_rate_hz,
    ) as reader:  # fmt: skip
        say(f"{reader.info.source}: {reader.info}; {model.name}")
        if isinstance(model, Commentator) and not model._idle:
            kept = "" if kept_folder() is None else "; later starts find it compiled"
            say(f"compiling the model's step: 10 to 20 s for a small model on two cores, more for others{kept}")
        rate_hz = model.sample_rate_hz
        if speech is not None and rate_hz is None:
            raise ValueError(why_unheard(model))
        speaking = rate_hz is not None and (speech is not None or film is not None)
        session = run_interruptibly(lambda: model.session(delay_steps, pad_bias, speaking=speaking), "compile")
        writers: list[Listener] = [CaptionFile(Path(captions))] if captions else []
        hearers: list[Callable[[SoundPiece], None]] = []
        if speech is not None and rate_hz is not None:
            heard = open_speech(speech, rate_hz)
            writers.append(heard)
            hearers.append(heard.on_sound)
        if film:
            cap, tick_s = model.tokens_per_s_max, model.clock.tick_s
            shown = Renderer(
                Path(film), frame_px=model.frame_px, fit=fit, tokens_per_s_max=cap, tick_s=tick_s,
                sample_rate_hz=rate_hz,
            )  # fmt: skip
            writers.append(shown)
            hearers.append(shown.on_sound)
        yield Runtime(session, reader, [*listeners, *writers], realtime=realtime, hearers=hearers)
    if isinstance(model, Commentator) and isinstance(session, Session):
        model._idle.append(session)


def report_of(model: Commentates, report: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a run (`Runtime.run`) with whose it is."""
    return {"checkpoint": model.name, "tokens_per_s_cap": model.tokens_per_s_max, **report}


def unopened_report(model: Commentates, source: str, error: VideoError) -> dict[str, Any]:
    """The report of a run that could not begin, since the source is no video."""
    nothing = RunStatistics(model.clock).report(duration_s=0.0, wall_s=0.0, compile_s=0.0, dropped_frames=0)
    return report_of(model, {"source": redact(source), **nothing, "notes": [], "error": redact(str(error))})


def why_unheard(model: ModelFacts) -> str:
    """What to do where a model is to be heard and cannot be."""
    if isinstance(model, Commentator) and model.live.config.audio is not None:
        return (
            f"{model.name} says codes of sound, and the codec that makes them heard is not beside it: name it with "
            f"--codec (in a program: codec=), or put it into the checkpoint's folder {CODEC_FOLDER!r} "
            "(`launch.export --codec`)"
        )
    return f"{model.name} has no voice: it writes only (config.audio), or its server does not hand out sound"


def why_silent(model: Commentates, pad_bias: float) -> str:
    """What to try where nothing was said in a whole run."""
    trained = f" It was trained for {model.steps:,} steps." if isinstance(model, Commentator) else ""
    return (
        f"the model chose silence at every step: perhaps nothing happened, or it is weak.{trained} A bias of "
        f"{pad_bias - 2:g} (--pad_bias, now {pad_bias:g}) makes it talk more."
    )


class CommentaryStream:
    """Frames of one's own in, words out. Pictures may come at any rate: the model looks at its own ticks."""

    def __init__(
        self,
        model: Commentator,
        session: Session,
        fit: str,
        on_sound: Callable[[SoundPiece], None] | None = None,
    ):
        self._model, self._session, self._on_sound = model, session, on_sound
        self._fitted = fitter(model.frame_px, fit)
        self._sampler: TickSampler[np.ndarray] = TickSampler(model.clock, _GAP_S)
        self._closed = False

    def push(self, frame: np.ndarray, t_s: float) -> list[TimedWord]:
        """Shows a picture; returns the words that are complete now, most often none.

        A picture stands until the next one, for at most ten seconds.

        Args:
          frame: RGB, uint8 `[H, W, 3]` of any size, upright; it must not be written to afterwards.
          t_s: when it was taken, in seconds from any zero; later than the last one's.

        Raises:
          ValueError: another shape or type, a time that is not finite or not later, or a stream that was closed.
        """
        if self._closed:
            raise ValueError("this stream is closed: begin another one with model.stream()")
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
            raise ValueError(f"a frame must be RGB, uint8 [H, W, 3], got {frame.dtype} {list(frame.shape)}")
        if not math.isfinite(t_s):
            raise ValueError(f"a frame's time must be a number of seconds, got {t_s}")
        words = []
        for tick_s, shown in self._sampler.push(float(t_s), frame):
            result = self._session.tick(tick_s, np.ascontiguousarray(self._fitted(shown, 1.0)))
            words += result.words
            if self._on_sound is not None:
                for piece in result.sound:
                    self._on_sound(piece)
        return words

    def close(self) -> list[TimedWord]:
        """Ends the stream; returns the word that was being said, if any. A second call does nothing."""
        if self._closed:
            return []
        self._closed = True
        words = self._session.finish()
        self._model._idle.append(self._session)
        return words

    def __enter__(self) -> "CommentaryStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    codec: str | os.PathLike[str] | None = None,
    weights: str | None = None,
) -> Commentator:
    """A trained model that commentates.

    Args:
      checkpoint: a training's workdir or a portable checkpoint; or "real" (also where it is not given) or "world",
        the models that come with the library. These names go before a folder of that name: `./real` is the folder.
      codec: of a model that speaks, the folder of its codec; where it is not given, `codec` in the checkpoint's folder.
      weights: how its large tables are held, "float32", "bfloat16" or "int8" (fewer bits take less memory, and it
        computes as before); as it was exported where it is not given.

    Raises:
      FileNotFoundError: there is no checkpoint in the folder.
      ValueError: it is damaged, of another layout, of a stage that does not commentate, the codec is another model's,
        or there are no such weights.
    """
    keep_compiled()
    trained = load_trained(checkpoint, weights)
    return commentator_of(trained, trained.title, codec)


def commentator_of(trained: Trained, name: str, codec: str | os.PathLike[str] | None = None) -> Commentator:
    """From a trained model; codec and errors as of `load`."""
    task = _commentating(trained.task, trained.config, str(trained.folder))
    live, params = live_on_this_machine(task.config, trained.params)
    params = reduced(params, trained.weights)
    beside = find_codec(trained.folder) if live.config.audio is not None else None
    voice = _voice(live, codec if codec is not None else beside)
    return Commentator(name, live, params, trained.config, trained.tokenizer, trained.steps, voice)


def _voice(live: LiveModel, codec: str | os.PathLike[str] | None) -> Voice | None:
    """The voice that the codec in a folder gives a model; None where there is none."""
    if codec is None:
        return None
    weights = load_codec(os.fspath(codec))
    return codec_on_this_machine(voice_of(live.config, weights.config, weights.params, os.fspath(codec)))


def random_commentator(
    path: str | Path,
    seed: int,
    codec: str | os.PathLike[str] | None = None,
    weights: str | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Commentator:
    """A model that has learned nothing, of a config file (`configs/*.py`): as fast as a trained one.

    Args:
      weights: how its large tables are held, as of `load`; "float32" where it is not given.
      changes: other values of the config's fields, by their names with dots (`{"text.layers": 2}`).

    Raises:
      FileNotFoundError: there is no such file.
      KeyError: the config has no such field.
      ValueError: it is no config, of a stage that does not commentate, the codec is another model's, or there are no
        such weights.
    """
    kind = check_kind("float32" if weights is None else weights)
    config = load_config(path).lock()
    config.update_from_flattened_dict(changes)
    tokenizer = load_tokenizer(config)
    task = _commentating(build_task(config, tokenizer), config, f"--random_init={path}")
    # A short clip makes the same parameters and compiles sooner.
    short = dataclasses.replace(task, ticks=2)
    params = nn.unbox(jax.jit(short.init)(jax.random.key(seed)))
    live, params = live_on_this_machine(task.config, params)
    params = reduced(params, kind)
    voice = _voice(live, codec)
    return Commentator(f"{Path(path).stem} with random parameters", live, params, config, tokenizer, voice=voice)


def _commentating(task: Any, config: Any, named: str) -> Any:
    """The task of a stage that commentates; ValueError for one of another."""
    if find_stage(config.stage).OUTPUT != "commentary":
        raise ValueError(f"{named} is of stage {config.stage!r}; only `duplex` models commentate")
    return task
