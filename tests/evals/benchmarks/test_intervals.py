"""Bootstrap intervals: all draws at once say what each draw says by itself, for every benchmark's figure."""

import dataclasses

import numpy as np
import pytest

from mmduplex_jax.evals.benchmarks import protocol
from mmduplex_jax.evals.benchmarks.ovobench import TASKS
from mmduplex_jax.evals.benchmarks.protocol import ItemScore, interval, mean_of_draws, mean_score
from mmduplex_jax.evals.benchmarks.registry import BENCHMARKS, find_benchmark
from mmduplex_jax.evals.timing.trace import TraceSums

# Sums in another order: a few units in the last place.
CLOSE = {"rel": 1e-12, "abs": 1e-12}


def scores_of(seed: int, number: int, benchmark: str = "") -> list[ItemScore]:
    """Scores with what a benchmark's figure reads; a fifth of them are left out, and most tasks have none."""
    rng = np.random.default_rng(seed)
    tasks = [task for names in TASKS.values() for task in names][: 1 + number // 2]
    found = []
    for i in range(number):
        matched = int(rng.integers(0, 3))
        sums = TraceSums(matched + 1, matched + 2, matched, *(float(one) for one in rng.random(4) * matched))
        shown = dataclasses.asdict(sums) if benchmark == "timing" else {"entries": int(rng.integers(1, 3))}
        value = None if rng.random() < 0.2 else float(rng.random())
        groups = {"task": str(rng.choice(tasks)), "group": "", "part": "real"}
        found.append(ItemScore(str(i), value, groups, shown=shown))
    return found


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_draw_is_its_items_one_by_one(name: str):
    benchmark = find_benchmark(name)
    rng = np.random.default_rng(1)
    for number in (1, 4, 12):
        scores = scores_of(number, number, name)
        counts = rng.integers(0, 3, size=(20, number)).astype(float)
        counts[0] = 0  # nothing is drawn
        found = benchmark.aggregate_draws(scores, counts)
        assert found.shape == (20,)
        for of_draw, one in zip(counts, found.tolist()):
            drawn = [score for score, times in zip(scores, of_draw) for _ in range(int(times))]
            wanted = benchmark.aggregate(drawn, benchmark.RULES[0])
            assert one == (
                pytest.approx(float("nan"), nan_ok=True) if wanted is None else pytest.approx(wanted, **CLOSE)
            )


@pytest.mark.parametrize("at_once", [None, 1, 50])
def test_an_interval_is_that_of_a_loop_over_the_same_draws(at_once, monkeypatch):
    if at_once:
        monkeypatch.setattr(protocol, "_DRAWN_AT_ONCE", at_once)
    scores = scores_of(3, 9)
    draws = np.random.default_rng(5).integers(9, size=(200, 9))
    values = [mean_score([scores[i] for i in draw]) for draw in draws]
    wanted = np.quantile([value for value in values if value is not None], [0.025, 0.975])
    assert interval(scores, mean_of_draws, seed=5, resamples=200) == pytest.approx(tuple(wanted), **CLOSE)


def test_where_nothing_is_scored_there_is_no_interval():
    assert interval([ItemScore("a", None), ItemScore("b", None)], mean_of_draws) is None
    assert interval([ItemScore("a", 1.0)], mean_of_draws) is None


def test_thousands_of_items_take_no_time(monkeypatch):
    """The figure is asked for a few times, not once a draw."""
    asked = []

    def counted(scores, counts):
        asked.append(counts.shape)
        return mean_of_draws(scores, counts)

    scores = [ItemScore(str(i), float(i % 2)) for i in range(3000)]
    low, high = interval(scores, counted, resamples=1000)
    # A proportion of .5 among 3000: 1.96 standard errors are .018; the bootstrap's ends are within .003 of that.
    assert (low, high) == (pytest.approx(0.482, abs=0.003), pytest.approx(0.518, abs=0.003))
    assert len(asked) <= 2
