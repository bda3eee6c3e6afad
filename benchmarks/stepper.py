"""Something that takes steps, and the clocking of it, for JAX and PyTorch alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

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
