"""The cases of the parity table: a random model of another library, ours read from what it saved, the same inputs.

Both the tests and `python -m benchmarks.parity` go through these; what another library needs is imported when a case
is run.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# float32, on hidden states, pooled outputs, embeddings and logits of sizes up to 10. Other orders of sums give about
# 1e-6; a wrong epsilon, activation or position is at 1e-3 and more.
LIMIT = 1e-4
# What is compared, in the order of the table's columns. `pooled` stands for what is made of it too: a projection, and
# embeddings of length 1.
QUANTITIES = ("hidden", "pooled", "logits", "hidden (cached)", "logits (cached)")


class Comparison(NamedTuple):
    """What a case finds.

    Attributes:
      differences: max |Δ| by quantity, of QUANTITIES those that the architecture has.
      found: what was read: an `Architecture` or, of language models, a `Source`.
      params: our parameters.
    """

    differences: dict[str, float]
    found: Any
    params: Any


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
      architecture: for people.
      shape: what is particular about this one, for people.
      family: as whose it must be read.
      compare: given a folder that is not there yet, saves a model in it, reads it, runs both.
      needs: the packages that make the reference.
    """

    architecture: str
    shape: str
    family: str
    compare: Callable[[Path], Comparison]
    needs: tuple[str, ...] = ("torch", "transformers")

    def __str__(self) -> str:
        return f"{self.architecture}: {self.shape}"

    def run(self, folder: Path) -> Comparison:
        """Compares, and checks that the quantities are known and that the model was read as what it is."""
        comparison = self.compare(folder)
        assert comparison.found.family == self.family
        assert comparison.differences.keys() <= set(QUANTITIES)
        return comparison


def worst(values: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
    """Of several differences of a quantity the largest; quantities without any are left out."""
    return {name: max(several) for name, several in values.items() if several}


def all_cases() -> list[Case]:
    """Every row, in the order of the table."""
    from tests.weights.huggingface import clip_family_cases, perception_cases, text_cases

    return [*text_cases.CASES, *clip_family_cases.CASES, *perception_cases.CASES]
