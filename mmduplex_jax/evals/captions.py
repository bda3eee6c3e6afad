"""How good are captions? CIDEr, BLEU-4, ROUGE-L and METEOR against what people said of the same pictures.

CIDEr is below; the others are of kept libraries (extra `captions`): BLEU of sacreBLEU (NLTK's miscounts captions
of fewer than four words), ROUGE-L of Google's `rouge-score`, METEOR of NLTK. The first three are, given the same words,
those of the COCO caption server (Chen et al., 2015): on 50 random captions they differed by less than 1e-11. METEOR
matches equal words and words of one English stem; its third stage, synonyms, would need WordNet from the net, so it is
called `meteor_exact_stem` and stands a little under the Java program's.

All are given the same words: lower case, without punctuation.
"""

import functools
import importlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType

Words = Sequence[str]
Row = tuple[str, ...]

LONGEST = 4  # words in a row
SIGMA = 6.0
FACTOR = 10.0
METRICS = ("cider", "bleu_4", "rouge_l", "meteor_exact_stem")
# As the COCO caption server weighs recall.
_ROUGE_BETA = 1.2
_WORD = re.compile(r"\w+(?:['’]\w+)*")


class MetricsMissing(ValueError):
    """A package that the scores need is not installed; the message names it."""


def words_of(text: str) -> list[str]:
    """The words of a caption as the metrics compare them (a script without spaces is one word a run of it)."""
    return _WORD.findall(text.lower())


def check_installed() -> None:
    """Raises MetricsMissing where scores could not be computed; before captions are written, not after."""
    for name in ("sacrebleu.metrics", "nltk.translate.meteor_score", "rouge_score.rouge_scorer"):
        _module(name)


def caption_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Scores of captions, by METRICS; and `exact`, the share that says word for word what a reference says.

    Args:
      candidates: of each picture, the caption.
      references: of each picture, what people say; at least one each.

    Returns:
      CIDEr from 0 to 10, the others from 0 to 1. BLEU-4 is of the whole corpus, the others means over pictures.

    Raises:
      MetricsMissing: a package is not installed.
      ValueError: see `cider`.
    """
    said = [words_of(text) for text in candidates]
    right = [[words_of(text) for text in texts] for texts in references]
    each = cider(said, right)
    mean = lambda values: float(sum(values) / len(values))
    return {
        "cider": mean(each),
        "bleu_4": bleu_4(said, right),
        "rouge_l": mean([rouge_l(words, texts) for words, texts in zip(said, right)]),
        "meteor_exact_stem": mean([meteor(words, texts) for words, texts in zip(said, right)]),
        "exact": mean([words in texts for words, texts in zip(said, right)]),
    }


def bleu_4(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """BLEU of rows of up to four words, over all pictures, not smoothed (Papineni et al., 2002)."""
    scorer = _module("sacrebleu.metrics").BLEU(tokenize="none", smooth_method="none", force=True)
    said = [" ".join(words) for words in candidates]
    # It wants the first reference of every picture, then the second, None where there is none.
    right = itertools.zip_longest(*([" ".join(words) for words in texts] for texts in references))
    return min(float(scorer.corpus_score(said, list(right)).score) / 100, 1.0)  # rounding brings it over


def rouge_l(words: Words, references: Sequence[Words]) -> float:
    """The longest common subsequence: the best precision and the best recall of any reference (Lin, 2004)."""
    compare = _rouge()
    found = [compare(" ".join(other), " ".join(words)) for other in references]
    precision, recall = max(score.precision for score in found), max(score.recall for score in found)
    if not precision or not recall:
        return 0.0
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def meteor(words: Words, references: Sequence[Words]) -> float:
    """METEOR (Lavie and Agarwal, 2007) by equal words and equal stems, of the best reference."""
    return float(_module("nltk.translate.meteor_score").meteor_score(references, words, wordnet=_NoSynonyms()))


class _NoSynonyms:
    """A WordNet that knows no word."""

    def synsets(self, word: str) -> list[str]:
        return []


class _Spaces:
    """Words are told apart already."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


@functools.cache
def _rouge() -> Callable:
    scorer = _module("rouge_score.rouge_scorer").RougeScorer(["rougeL"], tokenizer=_Spaces())
    return lambda target, prediction: scorer.score(target, prediction)["rougeL"]


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MetricsMissing(
            f"caption scores need the package {name.split('.')[0]}: pip install 'mmduplex-jax[captions]'"
        ) from error


# CIDEr-D (Vedantam et al., 2015): how much a caption says what people say of this picture, and not of any.
#
# Words in a row, one to four, are weighed by how rare they are among the pictures (TF-IDF) and compared by their
# cosine. No kept library has it without Java, so it stands here; the numbers are those of the COCO caption server,
# which calls CIDEr-D just CIDEr: counts clipped to the reference's, a penalty for another length (sigma 6), and a
# factor of 10.


def cider(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """The score of each caption, from 0 to 10; a corpus' score is their mean.

    A reference shorter than four words has no rows of four, so that even its own words cannot reach 10.

    Args:
      candidates: of each picture, the caption, in words.
      references: of each picture, what people say; at least one each.

    Raises:
      ValueError: there are fewer than two pictures (what is rare is then not known), or one without a reference.
    """
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} captions and the references of {len(references)} pictures")
    if len(references) < 2:
        raise ValueError("CIDEr weighs words by how rare they are among pictures, so it needs at least two")
    if not all(references):
        raise ValueError(f"picture {[bool(said) for said in references].index(False)} has no reference")
    counted = [[_rows(words) for words in said] for said in references]
    pictures = Counter(row for said in counted for row in set().union(*said))
    rarity = {row: math.log(len(references) / number) for row, number in pictures.items()}
    # What nobody says of any picture counts as if it were said of one.
    unheard = math.log(len(references))
    scores = []
    for words, said, rows in zip(candidates, references, counted):
        mine = _weighed(_rows(words), rarity, unheard)
        found = [
            _similarity(mine, _weighed(row, rarity, unheard), len(words) - len(other)) for other, row in zip(said, rows)
        ]
        scores.append(FACTOR * sum(found) / len(found))
    return scores


def _rows(words: Words) -> Counter[Row]:
    """How often each row of one to four words comes."""
    return Counter(
        tuple(words[begin : begin + length])
        for length in range(1, LONGEST + 1)
        for begin in range(len(words) - length + 1)
    )


def _weighed(rows: Counter[Row], rarity: dict[Row, float], unheard: float) -> list[dict[Row, float]]:
    """The weight of each row, by length."""
    weights: list[dict[Row, float]] = [{} for _ in range(LONGEST)]
    for row, count in rows.items():
        weights[len(row) - 1][row] = count * rarity.get(row, unheard)
    return weights


def _similarity(mine: list[dict[Row, float]], other: list[dict[Row, float]], longer: int) -> float:
    total = 0.0
    for here, there in zip(mine, other):
        size = math.hypot(*here.values()) * math.hypot(*there.values())
        if size:
            total += sum(min(weight, there.get(row, 0.0)) * there.get(row, 0.0) for row, weight in here.items()) / size
    return total / LONGEST * math.exp(-(longer**2) / (2 * SIGMA**2))
