"""How alike two texts are in meaning: by their words, or by a sentence encoder."""

import importlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from mmduplex_jax.evals.captions import words_of
from mmduplex_jax.typing import Float

# Of N and M texts, float `[N, M]` from -1 (nothing in common) to 1 (the same), as cosines are.
Similarity = Callable[[Sequence[str], Sequence[str]], Float[np.ndarray, "N M"]]

# The sentence encoder that TRACE is defined with.
ENCODER = "all-mpnet-base-v2"


class EncoderMissing(ValueError):
    """The package of sentence encoders is not installed; the message names it."""


def lexical_similarity(said: Sequence[str], reference: Sequence[str]) -> Float[np.ndarray, "N M"]:
    """F1 of the words that two texts share, taken from [0, 1] to [-1, 1]; case and punctuation do not matter.

    Deterministic, and needs no weights. It knows no synonyms, so that a good paraphrase counts as little; and it gives
    texts without a common word -1, to which a sentence encoder gives about 0.
    """
    rows, columns = [_counted(text) for text in said], [_counted(text) for text in reference]
    # The second "the" of a text is a feature of its own, so that the smaller count of two is a product of 0s and 1s.
    place: dict[tuple[str, int], int] = {}
    for features in (*rows, *columns):
        for feature in features:
            place.setdefault(feature, len(place))
    left, right = _indicators(rows, place), _indicators(columns, place)
    shared = left @ right.T
    total = left.sum(axis=1)[:, None] + right.sum(axis=1)[None, :]
    return 2 * np.divide(2 * shared, total, out=np.zeros_like(shared), where=total > 0) - 1


def encoder_similarity(name: str = ENCODER) -> Similarity:
    """The cosine of a sentence encoder's embeddings; its weights are loaded once, here.

    Args:
      name: what `sentence_transformers.SentenceTransformer` takes, a folder or a name on the Hugging Face hub.

    Raises:
      EncoderMissing: the package is not installed.
    """
    try:
        module = importlib.import_module("sentence_transformers")
    except ModuleNotFoundError as error:
        raise EncoderMissing(
            "TRACE with its sentence encoder needs the package sentence-transformers: "
            "pip install 'mmduplex-jax[timing]', or take the rule `lexical`"
        ) from error
    encoder = module.SentenceTransformer(name)

    def similarity(said: Sequence[str], reference: Sequence[str]) -> Float[np.ndarray, "N M"]:
        if not said or not reference:
            return np.zeros((len(said), len(reference)))
        vectors = np.asarray(encoder.encode([*said, *reference], normalize_embeddings=True), np.float64)
        return vectors[: len(said)] @ vectors[len(said) :].T

    return similarity


def _counted(text: str) -> list[tuple[str, int]]:
    """Each word with how often it stood before."""
    return [(word, times) for word, count in Counter(words_of(text)).items() for times in range(count)]


def _indicators(texts: Sequence[list[tuple[str, int]]], place: dict[tuple[str, int], int]) -> np.ndarray:
    found = np.zeros((len(texts), len(place)))
    for row, features in enumerate(texts):
        found[row, [place[feature] for feature in features]] = 1
    return found
