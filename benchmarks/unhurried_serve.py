"""`launch.serve` that takes no tokens from streams when it is busy: what they say does not depend on its load.

And its streams go on through cuts: pictures of noise, of which each is another scene, are one stream.
"""

import functools
import sys
from collections.abc import Sequence

from launch import serve
from mmduplex_jax.serving import listen
from mmduplex_jax.streaming.deadlines import DeadlinePolicy, Level


def main(argv: Sequence[str] | None = None) -> int:
    """`launch.serve` with a ladder of one rung, through cuts; its exit code."""
    vars(serve)["DeadlinePolicy"] = functools.partial(DeadlinePolicy, ladder=(Level(),))
    vars(listen)["pool_of"] = functools.partial(listen.pool_of, anew_at_cuts=False)
    return serve.main(argv)


if __name__ == "__main__":
    sys.exit(main())
