"""`launch.serve` that takes no tokens from streams when it is busy: what they say does not depend on its load."""

import functools
import sys
from collections.abc import Sequence

from launch import serve
from mmduplex_jax.streaming.deadlines import DeadlinePolicy, Level


def main(argv: Sequence[str] | None = None) -> int:
    """`launch.serve` with a ladder of one rung; its exit code."""
    vars(serve)["DeadlinePolicy"] = functools.partial(DeadlinePolicy, ladder=(Level(),))
    return serve.main(argv)


if __name__ == "__main__":
    sys.exit(main())
