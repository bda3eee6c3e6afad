"""Memory that is freed is kept for the next batch, where the C library lets itself be told so."""

import ctypes
import functools
import sys

# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_BLOCK_BYTES, _KEPT_BYTES = 256 << 20, 1 << 30


@functools.cache
def keep_freed_blocks() -> bool:
    """Has blocks of megabytes come from memory that this process has already, for the rest of its life.

    By default glibc gives each large block back to the system when it is freed, and the pages of the next one fault in
    anew: a seventh of the time of reading JPEG frames, a third of that of raw ones (`benchmarks.data`). Up to 1 GiB of
    what was freed stays with the process.

    Returns:
      Whether it could be said; other C libraries are left as they are.
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
