"""Weights of others, written as a checkpoint of ours."""

import math
from pathlib import Path
from typing import Any

import jax

from mmduplex_jax.models.language import LanguageConfig
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.weights import verify
from mmduplex_jax.weights.huggingface.layout import iterate_params
from mmduplex_jax.weights.huggingface.source import Source, config_from_metadata
from mmduplex_jax.weights.notice import NOTICE_FILE

# By which a language model goes on with a text.
CONTINUED_TOKENS = 20


def import_weights(source: Source, to: str | Path) -> dict[str, Any]:
    """Writes the weights of a source and a NOTICE; returns a report: kind, family, parameters, bytes read.

    Raises:
      WeightsError: a tensor could not be read; nothing is left of `to`.
      FileExistsError: `to` has something in it.
    """
    # Orbax takes seconds to import, and mistakes should be told at once.
    from mmduplex_jax.weights.checkpoint import write_weights

    metadata = source.metadata()
    write_weights(to, iterate_params(source.files, source.layout, source.shapes), metadata)
    (Path(to) / NOTICE_FILE).write_text(metadata["notice"], encoding="utf-8")
    return {
        "from": str(source.files.path),
        "to": str(to),
        "kind": source.kind,
        "family": source.family,
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(source.shapes)),
        "bytes_read": source.files.num_bytes,
        "tokenizer": source.tokenizer is not None,
        "preprocessing": source.preprocessing is not None,
        "renamed": source.files.renamed,
        "ignored": [name for name in source.files.names if source.layout.ignores(name)],
    }


def check_can_continue(source: Source) -> None:
    """ValueError where what is imported does not talk."""
    config = source.config
    if not isinstance(config, LanguageConfig) or config.head == "none" or source.tokenizer is None:
        raise ValueError(f"{source.files.path}: --continue needs a language model with a head and a tokenizer")


def continued(weights: str, text: str) -> str:
    """A text and how the language model of imported weights goes on with it."""
    from mmduplex_jax.weights.checkpoint import read_weights

    params, metadata = read_weights(weights)
    config, tokenizer = config_from_metadata(metadata), TextTokenizer.from_json(metadata["tokenizer_json"])
    assert isinstance(config, LanguageConfig)  # as it was before it was written
    return text + verify.continuation(config, params, tokenizer, text, CONTINUED_TOKENS)
