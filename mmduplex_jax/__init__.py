"""MM-Duplex: full-duplex video commentary in JAX.

    import mmduplex_jax as mm

    for word in mm.load().commentate("video.mp4"):
        print(word)

`docs/library.md` has more. Nothing is loaded before it is used: the import itself takes no time to speak of.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmduplex_jax.commentator import CommentaryStream, Commentator, load
    from mmduplex_jax.word_decoder import TimedWord

__all__ = ["CommentaryStream", "Commentator", "TimedWord", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "TimedWord":
        from mmduplex_jax import word_decoder as module
    else:
        from mmduplex_jax import commentator as module  # type: ignore[no-redef]
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
