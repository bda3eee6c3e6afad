"""The table of stages: what `config.stage` names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipelines.pairs import PairFormat, end_of_text
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.train.task import Task


def _duplex(config: Any, tokenizer: TextTokenizer) -> Task:
    from mmduplex_jax.stages.duplex import task

    return task.build(
        config,
        vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
        word_id=tokenizer.word_id,
        start_id=tokenizer.start_id,
    )


def _clip(config: Any, tokenizer: TextTokenizer) -> Task:
    from mmduplex_jax.stages.clip import task

    return task.build(config, vocab_size=tokenizer.vocab_size, end_id=end_of_text(tokenizer))


def _bflow(config: Any, tokenizer: TextTokenizer) -> Task:
    from mmduplex_jax.stages.bflow import task

    return task.build(
        config,
        vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
        word_id=tokenizer.word_id,
        start_id=tokenizer.start_id,
    )


def _vlm(config: Any, tokenizer: TextTokenizer) -> Task:
    from mmduplex_jax.stages.vlm import task

    return task.build(config, vocab_size=tokenizer.vocab_size)


STAGES: dict[str, Callable[[Any, TextTokenizer], Task]] = {
    "bflow": _bflow,
    "clip": _clip,
    "duplex": _duplex,
    "vlm": _vlm,
}


def pair_format(config: Any) -> PairFormat | None:
    """What a sample is where the stage has a text for a picture; None where it is a clip with timed words."""
    if config.stage not in ("clip", "vlm"):
        return None
    data, length = config.data, config.text.length if config.stage == "clip" else config.caption.length
    return PairFormat(config.time.frames, length, data.text, data.pause_s, data.shift_s)


def build_task(config: Any, tokenizer: TextTokenizer) -> Task:
    """The task of a config.

    Raises:
      ValueError: for a stage that the table lacks.
    """
    if config.stage not in STAGES:
        raise ValueError(f"config.stage is {config.stage!r}; there are {sorted(STAGES)}")
    return STAGES[config.stage](config, tokenizer)


def load_tokenizer(config: Any) -> TextTokenizer:
    """The text tokenizer of a config.

    It is `world` (the built-in world's words, of both looks), a tokenizer.json, or a folder of imported weights.

    Raises:
      FileNotFoundError: there is no such file, or no such folder with a tokenizer.
      ValueError: the file is no tokenizer.
    """
    if config.text_tokenizer == "world":
        from data_pipelines.world.commentator import lexicon

        return TextTokenizer.word_level(lexicon("rich"))
    if not Path(config.text_tokenizer).is_dir():
        return TextTokenizer.from_file(config.text_tokenizer)
    # Orbax takes seconds to import.
    from mmduplex_jax.train.checkpoint import read_weights_metadata

    text = read_weights_metadata(config.text_tokenizer)["tokenizer_json"]
    if text is None:
        raise FileNotFoundError(f"{config.text_tokenizer}: these weights came without a tokenizer.json: name its path")
    return TextTokenizer.from_json(text)
