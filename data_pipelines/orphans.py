"""Worker processes that end when the process that started them does, however it ends."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Makes this process end as soon as its parent has; call it in a process that `multiprocessing` started.

    A worker whose parent was killed would otherwise wait for work for ever, and hold its memory.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("this process was not started by multiprocessing: it has no parent to end with")

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
