"""How the video stream and the text stream meet: one file a fusion, one line of `FUSIONS`, one protocol.

A fusion is a subclass of `Fusion` (protocol.py) that takes video vectors in and runs the language model over text, over
whole clips and step by step, to the same result.
"""

from mmduplex_jax.models.fusion.cross import Cross
from mmduplex_jax.models.fusion.interleave import Interleave
from mmduplex_jax.models.fusion.protocol import Fusion
from mmduplex_jax.models.fusion.sum import Sum

# What `config.fusion` names.
FUSIONS: dict[str, type[Fusion]] = {"cross": Cross, "sum": Sum, "interleave": Interleave}


def fusion_of(name: str) -> type[Fusion]:
    """The fusion of a name (ValueError: there is none)."""
    if name not in FUSIONS:
        raise ValueError(f"fusion is one of {', '.join(FUSIONS)}, not {name!r}")
    return FUSIONS[name]
