"""Something that takes steps, the clocking of it, and a process that does it when asked, for JAX and PyTorch alike.

    python -m benchmarks.stepper '{"family": "ours", "config": "configs/duplex_300m.py"}'

Several such processes can take turns on one machine. A line on standard input is a request, `{"arm": {...}, "steps": N,
"warm_steps": N, "limit_s": S}`; the answer is a line on standard output, `{"shares": {kind: share}, "ms": {kind:
[...]}}`. What an `arm` holds are the arguments of the family's steppers. The process ends with its input.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TextIO

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
      stepper: what to time.
      steps: how many at least, every kind included.
      warm_steps: before those, not timed.
      limit_s: stop sooner than after `steps` once this long has passed and every kind has been seen.
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


def percentiles(times_s: Sequence[float], streams: int) -> dict[str, float]:
    """Milliseconds of a step, and of a stream's share of one."""
    p50, p99 = (float(np.percentile(times_s, p)) * 1e3 for p in (50, 99))
    return {"p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "per_stream_p50_ms": round(p50 / streams, 3)}


def step_cost_ms(times_ms: Mapping[str, Sequence[float]], shares: Mapping[str, float]) -> float:
    """What a step costs on average: every kind's median, by its share."""
    return sum(share * float(np.median(times_ms[kind])) for kind, share in shares.items())


def step_percentile_ms(times_ms: Mapping[str, Sequence[float]], shares: Mapping[str, float], percent: float) -> float:
    """A percentile of a stream's steps, in which every kind has its share, however often it was timed."""
    values = np.concatenate([times_ms[kind] for kind in shares])
    weights = np.concatenate([np.full(len(times_ms[kind]), shares[kind] / len(times_ms[kind])) for kind in shares])
    return float(np.quantile(values, percent / 100, weights=weights, method="inverted_cdf"))


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
