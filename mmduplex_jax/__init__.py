"""MM-Duplex: full-duplex video commentary in JAX.

    import mmduplex_jax as mm

    for word in mm.load().commentate("video.mp4"):
        print(word)

`docs/library.md` has more. Nothing is loaded before it is used: the import itself takes no time to speak of.
"""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmduplex_jax.commentator import CommentaryStream, Commentator, load
    from mmduplex_jax.word_decoder import TimedWord

__all__ = ["CommentaryStream", "Commentator", "TimedWord", "load"]
__version__ = "0.1.0"


_GOOGLE = "0x1ae0"  # as a vendor of PCI devices, by which JAX finds TPUs too


def _quiet_libtpu(devices: Path = Path("/sys/bus/pci/devices")) -> None:
    """Keeps libtpu from printing errors about this machine where it is installed and no TPU is; JAX then takes the CPU.

    It reads these variables when JAX starts; where there is a TPU they stay as they are.
    """
    if importlib.util.find_spec("libtpu") is None:
        return
    if any(vendor.read_text().strip() == _GOOGLE for vendor in devices.glob("*/vendor")):
        return
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_HOST_BOUNDS", "1,1,1")


_quiet_libtpu()


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
