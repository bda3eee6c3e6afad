"""What a process that loads or writes data sets for itself: malloc, an end with its parent, one thread of OpenCV."""

import ctypes
import functools
import multiprocessing
import os
import sys
import threading

import cv2

# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_BLOCK_BYTES, _KEPT_BYTES = 256 << 20, 1 << 30


@functools.cache
def tune_malloc() -> bool:
    """Has blocks of megabytes come from memory that this process has already, for the rest of its life.

    By default glibc gives each large block back to the system when it is freed, and the pages of the next one fault in
    anew: a seventh of the time of reading JPEG frames, a third of that of raw ones (`benchmarks.data`). Up to 1 GiB of
    what was freed stays with the process.

    Returns:
      Whether it was set; other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    return all(
        library.mallopt(name, value) == 1
        for name, value in ((_M_MMAP_THRESHOLD, _BLOCK_BYTES), (_M_TRIM_THRESHOLD, _KEPT_BYTES))
    )


def start_worker() -> None:
    """Prepares a process that `multiprocessing` started for its work."""
    exit_on_parent_death()
    cv2.setNumThreads(1)  # the workers already use the cores that there are


def exit_on_parent_death() -> None:
    """Makes this process end as soon as its parent has; call it in a process that `multiprocessing` started.

    A worker whose parent was killed would otherwise wait for work for ever, and hold its memory.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("this process was not started by multiprocessing: it has no parent to end with")

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="exit_on_parent_death", daemon=True).start()
