"""The parity table: every comparison with another library's model is checked at one bound, and noted."""

import os
from collections.abc import Callable

import pytest

# float32, on hidden states, pooled outputs, embeddings and logits of sizes up to 10. Other orders of sums give about
# 1e-6; a wrong epsilon, activation or position is at 1e-3 and more.
LIMIT = 1e-4


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Called with an architecture, a shape and max |Δ|, it fails above the limit, and adds a row to the table.

    Rows are added to the file that MMDUPLEX_PARITY_TABLE names, where it is set.
    """

    def note(architecture: str, shape: str, difference: float) -> None:
        assert difference <= LIMIT, f"{architecture}, {shape}: max |Δ| {difference:.2e} is above {LIMIT}"
        table = os.environ.get("MMDUPLEX_PARITY_TABLE")
        if table:
            with open(table, "a", encoding="utf-8") as file:
                file.write(f"| {architecture} | {shape} | {difference:.1e} |\n")

    return note
