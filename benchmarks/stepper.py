"""Something that takes steps, the clocking of it, and a process that does it when asked, for JAX and PyTorch alike.

    python -m benchmarks.stepper '{"family": "ours", "config": "configs/duplex_300m.py"}'

Several such processes can take turns on one machine. A line on standard input is a request, `{"arm": {...}, "steps": N,
"warm_steps": N, "limit_s": S}`; the answer is a line on standard output, `{"shares": {kind: share}, "ms": {kind:
[...]}, "compile_s": S}`. What an `arm` holds are the arguments of the family's steppers. The process ends with its
input.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np


class Stepper(NamedTuple):
    """A stream, or a batch of them, that takes steps.

    Attributes:
      shares: the kinds of steps, and what share of all steps each is.
      open: a context that gives a function which does the next step, waits for it, and returns its kind.
      compile_s: what preparing it took.
    """

    shares: Mapping[str, float]
    open: Callable[[], AbstractContextManager[Callable[[], str]]]
    compile_s: float = 0.0


def timed(stepper: Stepper, steps: int, *, warm_steps: int = 0, limit_s: float = np.inf) -> dict[str, list[float]]:
    """Seconds of every step, by its kind.

    Args:
      steps: how many at least, every kind included.
      warm_steps: before those, not timed.
      limit_s: stop sooner than after `steps` once this long has passed and every kind has been timed.
    """
    times_s: dict[str, list[float]] = {kind: [] for kind in stepper.shares}
    with stepper.open() as step:
        for _ in range(warm_steps):
            step()
        done, began_s = 0, time.perf_counter()
        ended_s = began_s
        while not all(times_s.values()) or (done < steps and ended_s - began_s < limit_s):
            started_s = time.perf_counter()
            kind = step()
            ended_s = time.perf_counter()
            times_s[kind].append(ended_s - started_s)
            done += 1
    return times_s


def step_cost_ms(times_ms: Mapping[str, Sequence[float]], shares: Mapping[str, float]) -> float:
    """What a step costs on average: every kind's median, by its share."""
    return sum(share * float(np.median(times_ms[kind])) for kind, share in shares.items())


def step_percentile_ms(times_ms: Mapping[str, Sequence[float]], shares: Mapping[str, float], percent: float) -> float:
    """A percentile of a stream's steps, in which every kind has its share, however often it was timed."""
    values = np.concatenate([times_ms[kind] for kind in shares])
    weights = np.concatenate([np.full(len(times_ms[kind]), shares[kind] / len(times_ms[kind])) for kind in shares])
    return float(np.quantile(values, percent / 100, weights=weights, method="inverted_cdf"))


class Arms:
    """Steppers of a family, each made when it is first asked for."""

    def __init__(self, make: Callable[..., Stepper]):
        self._made = functools.cache(lambda key: make(**dict(key)))

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request, as the module's docstring has both."""
        arguments = dict(request)
        stepper = self._made(tuple(sorted(arguments.pop("arm").items())))
        milliseconds = {kind: [round(t * 1e3, 3) for t in times] for kind, times in timed(stepper, **arguments).items()}
        return {"shares": dict(stepper.shares), "ms": milliseconds, "compile_s": round(stepper.compile_s, 1)}


def ours(config: str) -> Arms:
    """Arms `part` ("text" or "whole"), `batch`, and for text `watched_s`, of a config with random parameters."""
    from benchmarks.step_times import arms_of, with_every_row
    from mmduplex_jax.commentator import random_commentator

    return arms_of(with_every_row(random_commentator(config, seed=0)))


def peer(stepper: str, shape: Sequence[Any], threads: int) -> Arms:
    """Arms of a function of `benchmarks.torch_peers`, all of one shape."""
    import torch

    from benchmarks import torch_peers

    torch.set_num_threads(threads)
    return Arms(functools.partial(getattr(torch_peers, stepper), torch_peers.TextShape(*shape)))


FAMILIES: dict[str, Callable[..., Arms]] = {
    "ours": ours,
    "moshi": functools.partial(peer, "moshi_stepper"),
    "interleaved": functools.partial(peer, "interleaved_stepper"),
}


def main() -> None:
    """Serves the family that the first argument names, with the rest of it as arguments."""
    options = json.loads(sys.argv[1])
    # What libraries print goes where errors go; standard output is for answers alone.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    arms = FAMILIES[options.pop("family")](**options)
    for line in sys.stdin:
        answers.write(json.dumps(arms.ask(json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
