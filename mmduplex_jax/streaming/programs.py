"""How a stream's programs come to be: traced, lowered and compiled, or from a trace that is kept (`trace_cache.py`)."""

import logging
import pickle
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.export

from mmduplex_jax.compile_cache import kept_folder
from mmduplex_jax.trace_cache import recall

_log = logging.getLogger(__name__)


class Compile(Protocol):
    """Makes a program of a function."""

    def __call__(
        self, function: Callable[..., Any], *args: Any, facts: tuple[Any, ...], donate: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        """The program, which is called as the function is.

        Args:
          function: pure; its name is the program's.
          args: arrays, or trees of arrays, of the shapes that it is called with.
          facts: what decides the function beside its code, each with a `repr` that says all of it.
          donate: numbers of the arguments whose memory the program may take.
        """


def compiled(
    function: Callable[..., Any], *args: Any, facts: tuple[Any, ...] = (), donate: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """A `Compile` that traces."""
    return jax.jit(function, donate_argnums=donate).lower(*args).compile()


def recalled(
    function: Callable[..., Any], *args: Any, facts: tuple[Any, ...], donate: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """A `Compile` that traces once: where programs are kept, the next process has the trace from there.

    What is compiled is the kept program also where it was just traced, so that both are the same.
    """
    described = repr(facts)
    if kept_folder() is None or " at 0x" in described:  # a default `repr` says nothing
        return compiled(function, *args, donate=donate)
    name = function.__name__
    leaves, tree = jax.tree.flatten(args)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    try:
        kept = recall(name, f"{name} {described} {tree} {shapes} {donate}", lambda: _exported(function, tree, shapes))
    except (NotImplementedError, ValueError) as error:
        # `jax.export` refuses kernels that another version of the compiler may lack. (An error of the function itself
        # is raised again below.)
        _log.warning("the trace of %s cannot be kept, so that every start traces it: %s", name, error)
        return compiled(function, *args, donate=donate)
    # As trustworthy as the compiled programs in the same folder.
    out_tree, program = pickle.loads(kept)
    exported = jax.export.deserialize(bytearray(program))

    def again(*args: Any) -> Any:
        return jax.tree.unflatten(out_tree, exported.call(*jax.tree.leaves(args)))

    again.__name__ = again.__qualname__ = name
    return compiled(again, *args, donate=donate)


def _exported(function: Callable[..., Any], tree: Any, shapes: list[jax.ShapeDtypeStruct]) -> bytes:
    """The function over flat arguments as StableHLO, and the structure of its results."""
    structures = []

    def flat(*leaves: Any) -> list[Any]:
        results, structure = jax.tree.flatten(function(*jax.tree.unflatten(tree, leaves)))
        structures.append(structure)
        return results

    exported = jax.export.export(jax.jit(flat))(*shapes)
    return pickle.dumps((structures[-1], bytes(exported.serialize())))
