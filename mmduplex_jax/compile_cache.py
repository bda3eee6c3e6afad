"""Compiled programs are kept for the next start: where, how many, and what happens where that cannot be.

JAX keeps them, in its persistent compilation cache; by itself it does so nowhere. Here it is told to, in the user's
folder of caches, within a bound (it drops what was used longest ago), and safely when several processes start at once
(it holds a lock on the folder). What is added is what JAX (0.10 to 0.12, `jax/_src/lru_cache.py` and
`jax/_src/compiler.py`) leaves to others:

- It warns at every program where the folder cannot be read or written. Here that is said once, and nothing is kept.
- It never replaces an entry that is damaged, so that its program is compiled at every start. Here it is removed.
- A process that is killed while it writes leaves an entry without a time, after which JAX 0.10 writes no other one
  (jax issue 39880). Here it gets one at the next start, and if it is damaged it is removed when it is read.

Whoever can write to the folder can have programs of theirs run, so it is the user's own.
"""

import builtins
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

OFF = "off"
# The step of a stream of the models that come along takes 2 MB, a training's tens; of this project's own tests the
# largest take 160.
MAX_BYTES = 2 << 30
# Programs that compile faster are not kept: JAX looks through the whole folder at each one that it writes.
MIN_COMPILE_S = 0.1
_BOUNDS = {"jax_compilation_cache_max_size": MAX_BYTES, "jax_persistent_cache_min_compile_time_secs": MIN_COMPILE_S}
# How long to wait for other processes that write.
_LOCK_S = 5.0
# Of JAX's cache: what it holds on to while it works there (and what is raised where others do for too long), and the
# ends of an entry's two files, in the order in which they are written: the program, and when it was last used.
_TIMEOUT, _LOCK, _PROGRAM, _USED = "Timeout", ".lockfile", "-cache", "-atime"
_FAILURE = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(.*)': (\w+): (.*)", re.DOTALL)

_log = logging.getLogger(__name__)
_watched = False


class CacheUnusable(ValueError):
    """A folder that was asked for cannot hold compiled programs."""


def default_folder() -> Path:
    """Where compiled programs lie unless another place is named: `mmduplex-jax/compiled` among the user's caches.

    That is in `$XDG_CACHE_HOME` or `~/.cache` on Linux, in `~/Library/Caches` on macOS.
    """
    import platformdirs

    return platformdirs.user_cache_path("mmduplex-jax", appauthor=False) / "compiled"


def keep_compiled(where: str | None = None, *, for_children: bool = False) -> str | None:
    """Has the programs kept that are compiled from now on. A second call changes nothing.

    Args:
      where: a folder, or `OFF` to keep nothing. None: where JAX's own settings say (`JAX_COMPILATION_CACHE_DIR`,
        `JAX_ENABLE_COMPILATION_CACHE=false`), with JAX's own bound, which is none; else in `default_folder()`.
      for_children: processes that this one starts keep theirs in the same way.

    Returns:
      Where they lie; None where they are not kept.

    Raises:
      CacheUnusable: `where` names a folder that cannot be used. (Of the default one it is only said, once.)
    """
    if where == OFF or (where is None and not _enabled()):
        _set("jax_enable_compilation_cache", False, for_children)
        return None
    given = _given_folder()
    if where is None and given:
        if "://" not in given:
            _watch(Path(given), ours=False)
        return given
    folder = Path(where).absolute() if where else default_folder()
    try:
        if not folder.is_absolute():
            raise FileNotFoundError("there is no home folder")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _give_times(folder)
    except OSError as error:
        if where is not None:
            raise CacheUnusable(f"{folder}: compiled programs cannot be kept there ({_reason(error)})") from error
        _stop_keeping(folder, _reason(error), for_children)
        return None
    for name, value in _BOUNDS.items():
        if name.upper() not in os.environ:
            _set(name, value, for_children)
    _set("jax_enable_compilation_cache", True, for_children)
    _set("jax_compilation_cache_dir", str(folder), for_children)
    _watch(folder, ours=True)
    return str(folder)


def kept_folder() -> Path | None:
    """The folder where compiled programs are kept; None where there is none, or it is an address."""
    given = _given_folder() if _enabled() else None
    return None if not given or "://" in given else Path(given)


def stop_keeping(folder: Path, error: OSError) -> None:
    """Says that nothing is kept from now on, since the folder failed, and keeps nothing."""
    _stop_keeping(folder, _reason(error))


def _enabled() -> bool:
    """Whether JAX's own settings let programs be kept."""
    if "jax" in sys.modules:
        return sys.modules["jax"].config.jax_enable_compilation_cache
    # (As JAX reads it.)
    return os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "true").lower() not in ("n", "no", "f", "false", "off", "0")


def _given_folder() -> str | None:
    """The folder or address that JAX's own settings name."""
    if "jax" in sys.modules:
        return sys.modules["jax"].config.jax_compilation_cache_dir
    return os.environ.get("JAX_COMPILATION_CACHE_DIR")


def _set(name: str, value: str | float | bool, for_children: bool) -> None:
    """Makes a setting of JAX, whether it is imported yet or not."""
    if "jax" in sys.modules:
        sys.modules["jax"].config.update(name, value)
    if for_children or "jax" not in sys.modules:
        os.environ[name.upper()] = str(value)


def _reason(error: OSError) -> str:
    if type(error).__name__ == _TIMEOUT:
        return f"another process has held its lock for {_LOCK_S:g} s"
    return error.strerror or str(error)


def _lock(folder: Path) -> Any:
    """Keeps JAX, in this process and others, from the folder's entries; raises OSError where that cannot be."""
    import filelock  # it takes a while, and JAX imports it too

    return filelock.FileLock(folder / _LOCK, timeout=_LOCK_S)


def _without_a_time(folder: Path) -> list[str]:
    """Keys of entries that have a program and no time."""
    names = {entry.name for entry in os.scandir(folder)}
    keys = {name.removesuffix(_PROGRAM) for name in names if name.endswith(_PROGRAM)}
    return [key for key in keys if key + _USED not in names]


def _give_times(folder: Path) -> None:
    """Gives a time to entries that have none, from a writer that was killed or a cache without a bound: they go first.

    Raises:
      OSError: the folder cannot be written, or others hold its lock.
    """
    with _lock(folder):
        for key in _without_a_time(folder):
            (folder / (key + _USED)).write_bytes(bytes(8))


def _remove_halves(folder: Path) -> None:
    """Removes entries that a full disk has left without a time; errors as of `_give_times`."""
    with _lock(folder):
        for key in _without_a_time(folder):
            (folder / (key + _PROGRAM)).unlink(missing_ok=True)


def _stop_keeping(folder: Path, reason: str, for_children: bool = False) -> None:
    """Says that nothing is kept from now on, and has JAX keep nothing."""
    _log.warning(
        "compiled programs cannot be kept in %s (%s): going on without, so that the next start compiles them again; "
        "JAX_COMPILATION_CACHE_DIR names another folder",
        folder,
        reason,
    )
    _set("jax_enable_compilation_cache", False, for_children)
    if "jax" in sys.modules:
        from jax.experimental.compilation_cache import compilation_cache

        compilation_cache.reset_cache()


def _watch(folder: Path, *, ours: bool) -> None:
    """Takes JAX's warnings about its cache, which come at every program, and does something about each.

    Args:
      folder: of the cache.
      ours: it is bounded, so that an entry without a time is not whole.
    """
    global _watched
    if _watched:
        return
    _watched, shown = True, warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        failure = _FAILURE.fullmatch(str(message))
        if failure is None:
            shown(message, category, *where, **more)
            return
        doing, program, error, text = failure.groups()
        kind = getattr(builtins, error, None)
        if error == _TIMEOUT or (isinstance(kind, type) and issubclass(kind, OSError)):
            _stop_keeping(folder, text)
            if doing == "writing" and ours:
                _tidy(lambda: _remove_halves(folder))
        elif doing == "reading":
            _log.warning("what is kept of %s in %s is damaged (%s): it is compiled again", program, folder, text)
            _tidy(lambda: _remove_entries(folder, program))
        else:
            shown(message, category, *where, **more)

    warnings.showwarning = show


def _tidy(remove: Callable[[], None]) -> None:
    """Removes something; where that fails it is said, and the next start tries again."""
    try:
        remove()
    except OSError as error:
        _log.warning("it cannot be removed (%s)", _reason(error))


def _remove_entries(folder: Path, program: str) -> None:
    """Removes what is kept of a program; which of its entries it was JAX does not say."""
    with _lock(folder):
        for entry in list(os.scandir(folder)):
            if entry.name.startswith(f"{program}-") and entry.name.endswith((_PROGRAM, _USED)):
                Path(entry.path).unlink(missing_ok=True)
