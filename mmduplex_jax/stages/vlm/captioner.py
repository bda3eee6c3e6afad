"""Something that captions: a trained model of stage `vlm`, compiled for one size of batch."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.pairs import end_of_text
from mmduplex_jax.models.language import gather_cache
from mmduplex_jax.stages.vlm.caption_decoding import HOW, Decoding, decode
from mmduplex_jax.stages.vlm.task import VlmTask
from mmduplex_jax.weights.trained import Trained

# Of launch.evaluate and launch.caption.
DECODING_FLAGS = ("decode", "temperature", "top_p", "beam_width", "length_penalty")


class Caption(NamedTuple):
    """What is said about a clip.

    Attributes:
      text: words.
      log_prob: of the text and its end by the model, in nats.
    """

    text: str
    log_prob: float


def add_decoding_flags(flags: argparse.ArgumentParser) -> None:
    """The flags that `decoding_of` reads."""
    default, add = Decoding(), flags.add_argument
    add(
        "--decode",
        choices=HOW,
        default=default.how,
        help="how captions are written: the likeliest word after word, by chance, or by a beam (default: %(default)s)",
    )
    add("--temperature", type=float, default=default.temperature, help="of --decode=sample (default: %(default)s)")
    add(
        "--top_p",
        type=float,
        default=default.top_p,
        help="of --decode=sample: only the likeliest tokens that reach this probability (default: %(default)s)",
    )
    add("--beam_width", type=int, default=default.width, help="of --decode=beam (default: %(default)s)")
    add(
        "--length_penalty",
        type=float,
        default=default.length_penalty,
        help="of --decode=beam: 0 favours short captions, 1 compares means of a token (default: %(default)s)",
    )


def decoding_of(args: argparse.Namespace) -> Decoding:
    """What the flags say; ValueError for values that cannot be, or that mean nothing to this `--decode`."""
    default = Decoding()
    values = {"temperature": args.temperature, "top_p": args.top_p}
    beam = {"width": args.beam_width, "length_penalty": args.length_penalty}
    for how, group in (("sample", values), ("beam", beam)):
        changed = [name for name, value in group.items() if value != getattr(default, name)]
        if changed and args.decode != how:
            flag = "beam_width" if changed[0] == "width" else changed[0]
            raise ValueError(f"--{flag} is of --decode={how}, and this is --decode={args.decode}")
    return Decoding(args.decode, **values, **beam)


class Captioner:
    """Writes captions of clips.

    Attributes:
      frames: T, of a clip.
      frame_px: H = W.
      num_ticks: of the piece of video that the frames are spread over.
    """

    def __init__(self, trained: Trained, decoding: Decoding, batch_size: int, seed: int = 0):
        """Takes a model.

        Args:
          trained: of stage `vlm`.
          decoding: how.
          batch_size: clips looked at at a time; what is said of a clip does not depend on it.
          seed: of "sample".

        Raises:
          ValueError: the model is of another stage.
        """
        if not isinstance(trained.task, VlmTask):
            raise ValueError(f"{trained.folder} is of stage {trained.config.stage!r}; only `vlm` models caption")
        task, tokenizer = trained.task, trained.tokenizer
        self.frames, self.frame_px = task.config.frames, trained.config.frame_px
        self.num_ticks = trained.clock.ticks_in(trained.config.data.clip_s)
        self._tokenizer, self._batch, self._seed = tokenizer, batch_size, seed
        self._params = trained.params
        # Rows beyond the tokenizer's own ids are marks, and room for other tokenizers.
        allowed = jnp.arange(task.config.language.vocab_size) < tokenizer.base_vocab_size
        model, length = task.model, task.config.length

        def write(params, frames, keys):
            memory, logits = model.apply({"params": params}, task.normalised(frames), length, method="begin")
            return decode(
                decoding,
                lambda memory, token: model.apply({"params": params}, memory, token, method="write"),
                lambda memory, rows: gather_cache(task.config.language, memory, rows),
                memory,
                logits,
                allowed=allowed,
                end_id=end_of_text(tokenizer),
                length=length,
                keys=keys,
            )

        self._write = jax.jit(write)

    def captions(self, clips: Sequence[np.ndarray], first: int = 0) -> list[Caption]:
        """What is said of each clip; it depends on the clip, its number and the seed only.

        Args:
          clips: uint8 `[T, H, W, 3]` each, of `frames` frames of `frame_px` pixels.
          first: the number of the first; those of the others follow.

        Raises:
          ValueError: a clip has another shape.
        """
        wanted = (self.frames, self.frame_px, self.frame_px, 3)
        wrong = [number for number, clip in enumerate(clips) if clip.shape != wanted]
        if wrong:
            raise ValueError(
                f"clip {wrong[0]} is {list(clips[wrong[0]].shape)}, the model was trained on {list(wanted)}"
            )
        said: list[Caption] = []
        for begin in range(0, len(clips), self._batch):
            rows = list(clips[begin : begin + self._batch])
            filled = np.stack([*rows, *[rows[-1]] * (self._batch - len(rows))])
            numbers = first + begin + jnp.arange(self._batch)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self._seed), numbers)
            written = jax.tree.map(np.asarray, self._write(self._params, filled, keys))
            # The last of `length` tokens is the end mark.
            said += [
                Caption(self._tokenizer.decode_word(written.ids[row, : written.length[row] - 1].tolist()), log_prob)
                for row, log_prob in enumerate(written.log_prob[: len(rows)].tolist())
            ]
        return said
