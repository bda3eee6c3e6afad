"""A process that times steps when it is told to, so that several of them can take turns on one machine.

    python -m benchmarks.step_worker '{"family": "ours", "config": "configs/duplex_300m.py"}'

A line on standard input is a request, `{"arm": {...}, "steps": N, "warm_steps": N, "limit_s": S}`; the answer is a line
on standard output, `{"shares": {kind: share}, "ms": {kind: [...]}}`. What an `arm` holds are the arguments of the
family's steppers. It ends with its input.
"""

import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from benchmarks.stepper import Stepper, timed

Arms = Callable[..., Stepper]


def ours(config: str) -> Arms:
    """Arms `part` ("text" or "whole"), `batch`, and for text `watched_s`, of a config with random parameters."""
    from benchmarks.step_times import text_stepper, whole_stepper, with_every_row
    from mmduplex_jax.commentator import random_commentator

    model = with_every_row(random_commentator(config, seed=0))

    def arm(part: str, batch: int, watched_s: float = 0.0) -> Stepper:
        return whole_stepper(model, batch) if part == "whole" else text_stepper(model, batch, watched_s)

    return arm


def peer(stepper: str, shape: Sequence[Any], threads: int) -> Arms:
    """Arms of a function of `benchmarks.torch_peers`, all of one shape."""
    import torch

    from benchmarks import torch_peers

    torch.set_num_threads(threads)
    return functools.partial(getattr(torch_peers, stepper), torch_peers.TextShape(*shape))


FAMILIES: dict[str, Callable[..., Arms]] = {
    "ours": ours,
    "moshi": functools.partial(peer, "moshi_stepper"),
    "interleaved": functools.partial(peer, "interleaved_stepper"),
}


def answer(arms: Arms, requests: TextIO, answers: TextIO) -> None:
    """Answers every request until there are no more; an arm is made at its first."""
    made = functools.cache(lambda key: arms(**dict(key)))
    for line in requests:
        request = json.loads(line)
        stepper = made(tuple(sorted(request.pop("arm").items())))
        times_s = timed(stepper, **request)
        milliseconds = {kind: [round(t * 1e3, 3) for t in times] for kind, times in times_s.items()}
        answers.write(json.dumps({"shares": dict(stepper.shares), "ms": milliseconds}) + "\n")
        answers.flush()


def main() -> None:
    """Serves the family that the first argument names, with the rest of it as arguments."""
    options = json.loads(sys.argv[1])
    # What libraries print goes where errors go; standard output is for answers alone.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answer(FAMILIES[options.pop("family")](**options), sys.stdin, answers)


if __name__ == "__main__":
    main()
