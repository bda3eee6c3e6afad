import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmduplex_jax.serving.limits import Bucket, Limits


def test_a_limit_that_allows_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"--limit_idle_s must be more than 0, got 0"):
        Limits(idle_s=0)


@given(st.floats(0.5, 100), st.floats(1, 50), st.lists(st.floats(0, 2, allow_nan=False), min_size=1, max_size=60))
def test_a_bucket_lets_through_its_burst_and_its_rate_and_no_more(rate_hz: float, burst: float, gaps: list[float]):
    now_s = 0.0
    bucket = Bucket(rate_hz, burst, lambda: now_s)
    taken = 0
    for gap_s in gaps:
        now_s += gap_s
        taken += bucket.take()
        assert taken <= burst + rate_hz * now_s + 1e-6


def test_a_bucket_never_refuses_who_keeps_to_the_rate():
    now_s = 0.0
    bucket = Bucket(10.0, 1.0, lambda: now_s)
    for _ in range(100):
        assert bucket.take()
        now_s += 0.1 + 1e-9
