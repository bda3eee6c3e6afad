"""How well is speech understood, and is it in time? A voice, a codec's round trip of it, and what a model says itself.

    python -m benchmarks.speech --data=data/spoken_heldout --codec=runs/codec
    python -m benchmarks.speech --data=data/spoken_heldout --codec=runs/codec --checkpoint=runs/speak --json=speech.json
    python -m benchmarks.speech --checkpoint=runs/speak --codec=runs/codec --delay=0 --live_s=60
    python -m benchmarks.speech --data=heard/model                       what was saved before, judged again

Rows. `voice`: the sound of `--data`, clips that were prepared with `--config.speech.voice` or a folder of sounds with
texts.json, what is said in each by file name: what the judges understand at best. `codec`: the same through the codec's
codes and back; `unquantised`: the same codec without rounding to codes. `model`: `--checkpoint` watches `--clips` clips
of the world that it was not trained on, and what is heard of it is judged by what it wrote, right or wrong.

Each row has a line for each judge (`mmduplex_jax/evals/recognisers.py`, extra `recognise`): word error with its 95 %
interval over clips, and how long after its text a word's sound begins, of words that were understood. The text's time
is that of the word in the clip, or in row `model` when the word was written. --vocabulary is what a judge takes for
possible that knows which words may come: all that the world may say, or those that are said in what is judged.

With --live_s a stream is played in real time: from the moment that a picture is there to that from which what is said
about it at once may be heard: the words' delay, that of the sound behind them, and what this machine takes.

Times are of this machine, which the report names; keep it quiet meanwhile.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from benchmarks.pools import world_frames
from benchmarks.turns import machine
from data_pipelines.audio_track import AudioFormat, AudioTrack, encode_audio
from data_pipelines.dataset import open_dataset
from data_pipelines.manifest import MANIFEST_NAME, ShardError
from data_pipelines.sound import length_of
from data_pipelines.video_source import VideoError
from data_pipelines.world import WorldConfig, make_clip
from data_pipelines.world.commentator import lexicon
from mmduplex_jax.codec.codec import Codec
from mmduplex_jax.commentator import Commentator, load, pool_of
from mmduplex_jax.evals.evaluator import UNSEEN_SEED
from mmduplex_jax.evals.recognisers import RECOGNISERS, Recogniser
from mmduplex_jax.evals.report import cell, markdown_table
from mmduplex_jax.evals.speech import SaidWord, compare, heard_report
from mmduplex_jax.stages.config_file import add_json_flag, at_least, command_parser, listed, run_main, show
from mmduplex_jax.streaming.deadlines import DeadlinePolicy, Level
from mmduplex_jax.streaming.slot import StreamOutput
from mmduplex_jax.streaming.sound import SoundPiece
from mmduplex_jax.weights.codec import CODEC_HELP, CodecWeights, load_codec

ROWS = ("voice", "codec", "unquantised", "model")
TEXTS = "texts.json"
# After a clip its last picture stands for so long, so that what was begun is said to its end.
_STANDS_S = 2.0
# Sounds that go through a codec at once.
_AT_ONCE = 8


class Speech(NamedTuple):
    """Words aloud.

    Attributes:
      key: of the clip.
      said: the words, and when their text was there, in the time of the sound.
      samples: float32 [L] from -1 to 1.
      rate_hz: of them.
      seen_s: of each word, of which picture it is; None where nobody says.
    """

    key: str
    said: tuple[SaidWord, ...]
    samples: np.ndarray
    rate_hz: int
    seen_s: tuple[float, ...] | None = None


def read_speech(folder: Path, rate_hz: int, limit: int) -> list[Speech]:
    """The first clips of prepared shards whose records have sound and words, or of a folder of sounds with texts.json.

    Raises:
      ValueError, ShardError, VideoError: there is none, or it cannot be read; names it.
    """
    found = _of_shards(folder, rate_hz) if (folder / MANIFEST_NAME).is_file() else _of_sounds(folder, rate_hz)
    speech = [one for one, _ in zip(found, range(limit))]
    if not speech:
        raise ValueError(
            f"{folder}: no clip has both sound and words: prepare some with `python -m launch.prepare … "
            "--config.speech.voice=…`"
        )
    return speech


def _of_shards(folder: Path, rate_hz: int) -> Iterator[Speech]:
    dataset = open_dataset(folder)
    for number in range(len(dataset)):
        record = dataset[number]
        if record.audio is None or not record.words:
            continue
        length_s = record.clock.tick_s * len(record.frames)
        samples = _read(record.audio, record.key, 0.0, length_s, rate_hz)
        yield Speech(record.key, tuple(SaidWord(word.text, word.start_s) for word in record.words), samples, rate_hz)


def _of_sounds(folder: Path, rate_hz: int) -> Iterator[Speech]:
    listed_in = folder / TEXTS
    try:
        texts = json.loads(listed_in.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds neither {MANIFEST_NAME} of `python -m launch.prepare` nor {TEXTS}, which says what is "
            'said in each of its sounds: {"0001.wav": "red dog stops"}'
        ) from error
    except ValueError as error:
        raise ValueError(f"{listed_in} is no JSON: {error}") from error
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f'{listed_in} must say what is said in each file: {{"0001.wav": "red dog stops"}}')
    for name, text in sorted(texts.items()):
        length = length_of(folder / name)
        samples = _read(str(folder / name), name, length.origin_s, length.length_s, rate_hz)
        yield Speech(Path(name).stem, tuple(SaidWord(word) for word in text.split()), samples, rate_hz)


def _read(file: str | bytes, name: str, origin_s: float, length_s: float, rate_hz: int) -> np.ndarray:
    track = AudioTrack(file, name, origin_s, AudioFormat("pcm", rate_hz))
    try:
        return track.samples(0.0, length_s).astype(np.float32) / 32768
    finally:
        track.close()


def through(
    codec: CodecWeights, speech: Sequence[Speech], codebooks: int | None = None
) -> tuple[list[Speech], list[Speech]]:
    """What a codec makes of speech at its own rate: of the first codes of a step (None: all), and without rounding."""
    step = codec.config.step_samples
    longest = -(-max(len(one.samples) for one in speech) // step) * step

    @jax.jit
    def both(params: Any, sound: Any) -> tuple[Any, Any]:
        run = lambda method, *given: Codec(codec.config).apply({"params": params}, *given, method=method)
        latents = run("latents", sound)
        codes = run(lambda module, x: module.quantizer.encode(x, codebooks), latents)
        return run("decode", codes), run(lambda module, x: module.wave(module.quantizer.unquantized(x)), latents)

    rounded: list[Speech] = []
    exact: list[Speech] = []
    for begin in range(0, len(speech), _AT_ONCE):
        some = speech[begin : begin + _AT_ONCE]
        sound = np.zeros((_AT_ONCE, longest), np.float32)
        for row, one in zip(sound, some):
            row[: len(one.samples)] = one.samples
        for kept, waves in zip((rounded, exact), jax.device_get(both(codec.params, sound))):
            kept += [one._replace(samples=wave[: len(one.samples)]) for one, wave in zip(some, waves)]
    return rounded, exact


def watch(model: Commentator, frames: np.ndarray, key: str, delay_steps: int | None) -> Speech:
    """What a model says aloud about a clip, uint8 [T, H, W, 3], a frame a tick.

    Raises:
      ValueError: the model has no voice, or not this delay.
    """
    assert model.sample_rate_hz is not None  # `main` asked before
    clock = model.clock
    stands = np.repeat(frames[-1:], clock.ticks_in(_STANDS_S), axis=0)
    session = model.session(delay_steps, speaking=True)
    results = [session.tick(clock.tick_time_s(tick), f) for tick, f in enumerate(np.concatenate([frames, stands]))]
    words = [word for result in results for word in result.words] + session.finish()
    pieces = [piece for result in results for piece in result.sound]
    begins_s = pieces[0].t_s
    said = tuple(SaidWord(word.text, word.t_emit_s - begins_s) for word in words)
    seen_s = tuple(word.t_video_s - begins_s for word in words)
    return Speech(key, said, joined(pieces, model.sample_rate_hz), model.sample_rate_hz, seen_s)


def joined(pieces: Sequence[SoundPiece], rate_hz: int) -> np.ndarray:
    """The sound of pieces, float32 [L] from the first one's time on, each at its time."""
    begins_s = pieces[0].t_s
    places = [round((piece.t_s - begins_s) * rate_hz) for piece in pieces]
    sound = np.zeros(places[-1] + len(pieces[-1].samples), np.float32)
    for place, piece in zip(places, pieces):
        sound[place : place + len(piece.samples)] = piece.samples
    return sound


def judged(name: str, judge: Recogniser, speech: Sequence[Speech], seed: int) -> dict[str, Any]:
    """A line of the table: `heard_report` of a row by a judge, and `after_picture`, its onsets behind the pictures."""
    progress = tqdm(speech, desc=f"{name}, {judge.name}", unit="clip", leave=False, disable=None)
    heard = [judge.hear(one.samples, one.rate_hz) for one in progress]
    report = heard_report([compare(one.said, words) for one, words in zip(speech, heard)], seed)
    report |= {"row": name, "judge": judge.name, "seconds": sum(len(one.samples) / one.rate_hz for one in speech)}
    if all(one.seen_s is not None for one in speech):
        seen = [
            tuple(SaidWord(word.text, t_s) for word, t_s in zip(one.said, one.seen_s or (), strict=True))
            for one in speech
        ]
        later = heard_report([compare(words, sound) for words, sound in zip(seen, heard)], seed)
        report["after_picture"] = {
            name: {"value": later[name], "interval": later["intervals"][name]}
            for name in ("onset_p50_s", "onset_p95_s")
        }
    return report


def live(model: Commentator, length_s: float, delay_steps: int | None, warm_s: float = 3.0) -> dict[str, Any]:
    """Plays a stream in real time and says how long after a picture its sound may be heard.

    A word about a tick's picture that is begun at once has its slot `delay_steps` later, and its first sound is in the
    piece of `audio_delay` and the acoustic delay later still. It is heard when that piece is there, and not before the
    piece's own time.

    Returns:
      `delay_steps`; `planned_s`, from a picture to the piece's time; `first_sound_p50_s` and `first_sound_p95_s`, as it
      came; `late`, share of the pieces that came after their time; `pictures`, that were counted; `dropped_frames`.
    """
    clock, audio = model.clock, model.live.config.audio
    assert audio is not None  # `main` asked before
    delay = model.delays.chosen(delay_steps)
    behind = delay + audio.audio_delay + max(audio.acoustic_delays)
    frames = np.concatenate(world_frames(model, clips=4))
    came_s: dict[int, float] = {}
    pool = pool_of(model, 1, DeadlinePolicy(ladder=(Level(),), gather_s=0.0), anew_at_cuts=False)
    dropped = 0

    def record(output: StreamOutput) -> None:
        nonlocal dropped
        dropped = output.dropped_frames
        came_s.update((piece.step, time.monotonic()) for piece in output.sound)

    handle = pool.join(delay_steps=delay, on_output=record, speaking=True)
    pool.start()
    ticks = clock.ticks_in(warm_s + length_s)
    began_s = time.monotonic() + 0.5
    for tick in range(ticks):
        time.sleep(max(0.0, began_s + clock.tick_time_s(tick) - time.monotonic()))
        handle.offer(clock.tick_time_s(tick), frames[tick % len(frames)])
    handle.leave()
    pool.stop(drain_s=5.0)
    first_s, late = [], []
    for tick in range(clock.ticks_in(warm_s), ticks):
        step = clock.step_of_tick(tick) + behind
        if step in came_s:
            due_s = clock.step_time_s(step) + clock.step_s
            arrived_s = came_s[step] - began_s
            first_s.append(max(arrived_s, due_s) - clock.tick_time_s(tick))
            late.append(arrived_s > due_s)
    p50_s, p95_s = np.percentile(first_s, [50, 95]).tolist()
    return {
        "delay_steps": delay,
        "planned_s": clock.step_time_s(behind) + clock.step_s,
        "first_sound_p50_s": p50_s,
        "first_sound_p95_s": p95_s,
        "late": float(np.mean(late)),
        "pictures": len(first_s),
        "dropped_frames": dropped,
    }


def save(folder: Path, speech: Sequence[Speech]) -> None:
    """Writes sounds, and texts.json, so that the folder can be `--data`."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {}
    for number, one in enumerate(speech):
        samples = np.clip(np.round(one.samples * 32768), -32768, 32767).astype(np.int16)
        name = f"{number:04}.wav"
        (folder / name).write_bytes(encode_audio(samples, AudioFormat("pcm", one.rate_hz)))
        texts[name] = " ".join(word.text for word in one.said)
    (folder / TEXTS).write_text(json.dumps(texts, indent=1) + "\n", encoding="utf-8")


def table(lines: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    rows = []
    for line in lines:
        low, high = line["intervals"]["word_error"] or (None, None)
        rate = lambda value: "-" if value is None else f"{value:.1%}"
        onsets = [cell(line[name], "+.2f", missing="-") for name in ("onset_p50_s", "onset_p95_s")]
        errors = f"{line['substitutions']} + {line['deletions']} + {line['insertions']}"
        error = f"{rate(line['word_error'])} ({rate(low)} to {rate(high)})"
        rows.append([line["row"], line["judge"], error, errors, str(line["words"]), str(line["clips"]), *onsets])
    head = [
        "speech",
        "judge",
        "word error (95 %)",
        "wrong + missing + more",
        "words",
        "clips",
        "onset p50, s",
        "p95, s",
    ]
    return markdown_table(head, rows)


def rows_of(args: argparse.Namespace, model: Commentator | None) -> dict[str, list[Speech]]:
    """What is judged, by row."""
    rows: dict[str, list[Speech]] = {}
    if args.data is not None:
        codec = load_codec(args.codec) if args.codec is not None else None
        rate_hz = codec.config.sample_rate_hz if codec is not None else args.rate_hz
        voice = read_speech(Path(args.data), rate_hz, args.clips)
        rows["voice"] = voice
        if codec is not None and {"codec", "unquantised"} & set(args.rows):
            most = codec.config.codebooks
            if args.codebooks is not None and args.codebooks > most:
                raise ValueError(f"--codebooks={args.codebooks}: the codec {args.codec} has {most}")
            rows["codec"], rows["unquantised"] = through(codec, voice, args.codebooks)
    if model is not None and "model" in args.rows:
        world = WorldConfig(look=args.look, frame_px=model.frame_px)
        clips = tqdm(range(args.clips), desc="model", unit="clip", leave=False, disable=None)
        rows["model"] = [
            watch(model, make_clip(world, args.seed, index).frames, f"{args.seed}/{index}", args.delay)
            for index in clips
        ]
    return {name: speech for name, speech in rows.items() if name in args.rows}


def work(args: argparse.Namespace) -> None:
    """Judges what is asked for, and shows it."""
    if args.data is None and args.checkpoint is None:
        raise ValueError("there is nothing to judge: give --data, --checkpoint or both")
    model = load(args.checkpoint, codec=args.codec) if args.checkpoint is not None else None
    if model is not None and model.sample_rate_hz is None:
        raise ValueError(f"{args.checkpoint} is not heard: it has no audio stream, or no codec (--codec)")
    if args.live_s and model is None:
        raise ValueError("--live_s is of a model: give --checkpoint")
    if args.codebooks is None and model is not None and model.live.config.audio is not None:
        args.codebooks = model.live.config.audio.depth.codebooks
    named = ("data", "codec", "codebooks", "checkpoint", "clips", "seed", "look", "delay", "vocabulary")
    settings = {name: getattr(args, name) for name in named}
    report: dict[str, Any] = {"machine": machine()} | settings
    text: list[str] = []
    if args.judges:
        rows = rows_of(args, model)
        spoken = [word.text for speech in rows.values() for one in speech for word in one.said]
        make: dict[str, Callable[[Sequence[str]], Recogniser]] = {name: RECOGNISERS[name] for name in args.judges}
        expected = spoken if args.vocabulary == "said" else [*lexicon(), *spoken]
        judges = [maker(expected) for maker in make.values()]
        report["judges"] = {judge.name: {"version": judge.version, "unknown": judge.unknown} for judge in judges}
        report["lines"] = [judged(name, judge, rows[name], args.seed) for name in rows for judge in judges]
        if args.save_sound is not None:
            for name, speech in rows.items():
                save(Path(args.save_sound) / name, speech)
        text.append(table(report["lines"]))
        text += [f"{judge.name} cannot hear: {', '.join(judge.unknown)}" for judge in judges if judge.unknown]
    if args.live_s and model is not None:
        report["live"] = found = live(model, args.live_s, args.delay)
        text.append(
            f"first sound after the picture: p50 {found['first_sound_p50_s'] * 1e3:.0f} ms, "
            f"p95 {found['first_sound_p95_s'] * 1e3:.0f} ms (planned {found['planned_s'] * 1e3:.0f} ms at a delay of "
            f"{found['delay_steps']} steps; {found['late']:.1%} of the pieces came late)"
        )
    show(args, report, "\n\n".join(text))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.speech", __doc__)
    add = flags.add_argument
    add("--data", metavar="DIR", help="spoken clips: prepared shards, or a folder of sounds with texts.json")
    add("--codec", metavar="DIR", help=CODEC_HELP)
    add(
        "--codebooks",
        type=at_least(1),
        metavar="N",
        help="codes of a step in row `codec` (default: the model's, or all)",
    )
    add("--checkpoint", metavar="NAME|DIR", help="a model that speaks")
    add("--clips", type=at_least(1), default=60, help="of each row, at most (default: %(default)s)")
    some = f"some of {','.join(ROWS)} (default: all that can be)"
    add("--rows", type=listed(among=ROWS), default=",".join(ROWS), help=some)
    add("--seed", type=int, default=UNSEEN_SEED, help="of the world's clips and of intervals (default: %(default)s)")
    add("--look", choices=("plain", "rich"), default="plain", help="of the world's clips (default: %(default)s)")
    add("--delay", type=at_least(0), metavar="STEPS", help="of the model's words (default: as it was trained)")
    judges = ",".join(RECOGNISERS)
    add("--judges", type=listed(among=RECOGNISERS, none=True), default=judges, help="some of %(default)s, or none")
    words = "words that a judge with a list expects (default: %(default)s)"
    add("--vocabulary", choices=("world", "said"), default="world", help=words)
    add("--rate_hz", type=at_least(1), default=16_000, help="of --data without a codec (default: %(default)s)")
    add("--live_s", type=float, default=0.0, help="play the model so long in real time (default: do not)")
    add("--save_sound", metavar="DIR", help="write what was judged, a folder a row")
    add_json_flag(flags)
    errors = {ValueError: 2, OSError: 2, ShardError: 2, VideoError: 2}
    return run_main(flags, argv, work, errors)


if __name__ == "__main__":
    sys.exit(main())
