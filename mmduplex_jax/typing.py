"""Shape letters and array types, agreed once.

Docstrings, jaxtyping annotations and einsums use the same letters:

    B   batch (samples in training, sessions when live)
    S   text steps (slots of the text stream, one every `1 / step_hz` seconds)
    T   video ticks (frames that are looked at, one every `video_stride` steps)
    M   token slots a tick offers (an anchor's tokens, then flow tokens)
    N   packed video tokens of a clip
    A   anchors gathered from a clip (a fixed capacity)
    U   tokens an anchor is read out into (nested queries)
    K   flow tokens a tick may carry
    Z   state slots carried across anchors
    R   ring entries (keys and values kept while streaming)
    H W C   frame height, width, channels in pixels
    Y X     cells of the motion grid
    P   patches of a picture or a crop
    D   model width;  F  hidden width of an MLP
    Q   query heads;  G  key-value heads;  E  head width
    V   vocabulary; entries of a codebook
    L   samples of sound, or frames of a codec
    J   codebooks of a codec: codes a step

The letters stand for themselves wherever an array is described, e.g.
`Float[Array, "B S D"]`.
"""

from typing import Any

from jax import Array
from jaxtyping import Bool, Float, Int, Int32, UInt8

PyTree = Any

__all__ = ["Array", "Bool", "Float", "Int", "Int32", "PyTree", "UInt8"]
