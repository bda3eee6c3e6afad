"""Sound as a stream hands it out: pieces of one step each, without a gap between them."""

from typing import NamedTuple

import numpy as np


class SoundPiece(NamedTuple):
    """Sound of one step.

    Attributes:
      t_s: when its first sample is to be heard, in the stream's time: the end of the step that said it.
      step: the model's step, from 0 at the last reset.
      samples: float32 `[L]` from -1 to 1, a step long, at the model's `sample_rate_hz`.
    """

    t_s: float
    step: int
    samples: np.ndarray
