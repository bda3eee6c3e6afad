"""Flax compares every parameter's shape with that of what would begin it; tests have it do so once for each shape.

For that it traces the initialiser whenever a model is traced, which is a quarter of the time that tracing takes.
"""

import functools
import sys
from typing import Any


def begin() -> None:
    """From now on in this process, if it has Flax by now."""
    if "flax.core.scope" in sys.modules:
        _begin()


@functools.cache
def _begin() -> None:
    import jax
    import numpy as np
    from flax.core.meta import unbox as unboxed
    from flax.core.scope import Scope

    flax_param, compared = Scope.param, set()

    @functools.wraps(flax_param)
    def param(self: Scope, name: str, init_fn: Any, *init_args: Any, unbox: bool = True, **init_kwargs: Any) -> Any:
        # Where the arguments of the initialiser do not say the shape it is compared every time.
        if not init_args or init_kwargs or not self.has_variable("params", name):
            return flax_param(self, name, init_fn, *init_args, unbox=unbox, **init_kwargs)
        value = self.get_variable("params", name)
        key = (self.path, name, str(init_args), *(np.shape(leaf) for leaf in jax.tree.leaves(value)))
        if key not in compared:
            found = flax_param(self, name, init_fn, *init_args, unbox=unbox)
            compared.add(key)
            return found
        self.reserve(name, "params")
        return unboxed(value) if unbox else value

    Scope.param = param
