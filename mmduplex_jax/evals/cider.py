"""CIDEr-D (Vedantam et al., 2015): how much a caption says what people say of this picture, and not of any.

Words in a row, one to four, are weighed by how rare they are among the pictures (TF-IDF) and compared by their cosine.
No kept library has it without Java, so it stands here; the numbers are those of the COCO caption server, which calls
CIDEr-D just CIDEr: counts clipped to the reference's, a penalty for another length (sigma 6), and a factor of 10.
"""

import math
from collections import Counter
from collections.abc import Sequence

Words = Sequence[str]
Row = tuple[str, ...]

LONGEST = 4
SIGMA = 6.0
FACTOR = 10.0


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
