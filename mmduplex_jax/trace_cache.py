"""What tracing gives, kept beside the compiled programs: a second start neither traces a model nor lowers it.

JAX finds a compiled program by its lowered form, so that with its cache alone every start still traces, which takes
longer than everything else together. What is kept here lies in `traces/` of the folder of compiled programs, each in a
file of its own, named by all that decides it: what the caller says, every source file of this project, the versions of
the libraries that trace, JAX's settings and the kind of device. A change of any of them makes another name. Files are
written whole or not at all, and begin with a digest of what follows; what was used longest ago goes first.
"""

import functools
import hashlib
import importlib.metadata
import logging
import os
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import jax

from mmduplex_jax.compile_cache import kept_folder, stop_keeping

# A stream's step of the models that come along takes 1 MB.
MAX_BYTES = 100_000_000
_FOLDER = "traces"
_DIGEST_BYTES = 32
_PACKAGE = Path(__file__).resolve().parent
_LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "ml_dtypes")

_log = logging.getLogger(__name__)


def recall(what: str, facts: str, make: Callable[[], bytes]) -> bytes:
    """What `make` returns, or has returned when it was last asked for with the same facts.

    Args:
      what: what it is, as a part of a file's name.
      facts: all that decides it, but for this project's code, the libraries, JAX's settings and the device.
      make: makes it; called where it is not kept.
    """
    folder, code = kept_folder(), _code()
    if folder is None or code is None:
        return make()
    name = hashlib.sha256(f"{code}\n{_settings()}\n{facts}".encode()).hexdigest()
    path = folder / _FOLDER / f"{what}-{name}"
    try:
        kept = path.read_bytes()
        _mark_used(path)
    except FileNotFoundError:
        kept = b""
    except OSError as error:
        stop_keeping(folder, error)
        return make()
    if kept:
        try:
            content = zlib.decompress(kept[_DIGEST_BYTES:])
        except zlib.error:
            content = b""
        if content and hashlib.sha256(content).digest() == kept[:_DIGEST_BYTES]:
            return content
        _log.warning("what is kept of %s in %s is damaged: it is traced again", what, path.parent)
    content = make()
    try:
        _write(path, hashlib.sha256(content).digest() + zlib.compress(content, level=1))
    except OSError as error:
        stop_keeping(folder, error)
    return content


def _write(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, and removes others until all fit."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    number, part = tempfile.mkstemp(dir=path.parent, prefix=path.name[:8])
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
        _mark_used(part)
        os.replace(part, path)
    except OSError:
        Path(part).unlink(missing_ok=True)
        raise
    left = MAX_BYTES
    # (Another process may remove some at the same time.)
    for _, size, name in sorted(
        ((e.stat().st_mtime_ns, e.stat().st_size, e.path) for e in os.scandir(path.parent)), reverse=True
    ):
        left -= size
        if left < 0:
            Path(name).unlink(missing_ok=True)


def _mark_used(path: Path | str) -> None:
    """Gives a file this moment as its time; the file system's own clock stands still for several milliseconds."""
    now_ns = time.time_ns()
    os.utime(path, ns=(now_ns, now_ns))


@functools.cache
def _code() -> str | None:
    """A digest of this project's source files and of the versions of the libraries; None where there are no sources."""
    if not Path(__file__).is_file():
        return None
    digest = hashlib.sha256()
    for package in (_PACKAGE, _PACKAGE.parent / "data_pipelines"):
        for path in sorted(package.rglob("*.py")):
            digest.update(f"{path.relative_to(_PACKAGE.parent)}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES]
    return f"{digest.hexdigest()} {versions}"


def _settings() -> str:
    """JAX's settings, but for those of its cache, and the devices."""
    values = {name: value for name, value in jax.config.values.items() if "cache" not in name}
    return f"{sorted(values.items())} {[device.device_kind for device in jax.devices()]}"
