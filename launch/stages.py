"""The table of stages: what `config.stage` names."""

from collections.abc import Callable
from typing import Any

from mmduplex_jax.interop.text_tokenizer import TextTokenizer
from mmduplex_jax.train.task import Task


def _duplex(config: Any, tokenizer: TextTokenizer) -> Task:
    from mmduplex_jax.models import duplex

    return duplex.build(
        config,
        vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
        word_id=tokenizer.word_id,
        start_id=tokenizer.start_id,
    )


STAGES: dict[str, Callable[[Any, TextTokenizer], Task]] = {"duplex": _duplex}


def build_task(config: Any, tokenizer: TextTokenizer) -> Task:
    """The task of a config.

    Raises:
      ValueError: for a stage that the table lacks.
    """
    if config.stage not in STAGES:
        raise ValueError(f"config.stage is {config.stage!r}; there are {sorted(STAGES)}")
    return STAGES[config.stage](config, tokenizer)


def load_tokenizer(config: Any) -> TextTokenizer:
    """The text tokenizer of a config: `world` (the built-in world's words, of both looks) or a tokenizer.json."""
    if config.text_tokenizer == "world":
        from data_pipelines.world.commentator import lexicon

        return TextTokenizer.word_level(lexicon("rich"))
    return TextTokenizer.from_file(config.text_tokenizer)
