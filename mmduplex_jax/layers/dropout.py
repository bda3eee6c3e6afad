"""Dropout, where a call has random numbers for it: trainings give them, evaluation and streams have none."""

import flax.linen as nn

from mmduplex_jax.typing import Array, Float

# The collection of random numbers (`rngs` of `Module.apply`) that switches it on.
DROPOUT = "dropout"


def check_dropout(share: float, what: str = "dropout") -> None:
    """ValueError, naming `what`, for a share that is none."""
    if not 0.0 <= share < 1.0:
        raise ValueError(f"{what} is a share from 0 to below 1, not {share}")


def dropout(module: nn.Module, x: Float[Array, "..."], share: float) -> Float[Array, "..."]:
    """Zeroes a share of the values and enlarges the others by as much (Srivastava et al., 2014), `[...] -> [...]`.

    To be called in a module's compact method. Without random numbers `DROPOUT`, `x` comes back as it is.
    """
    if not share or not module.has_rng(DROPOUT):
        return x
    return nn.Dropout(share, rng_collection=DROPOUT, deterministic=False)(x)
