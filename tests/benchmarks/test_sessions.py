"""The search for the largest number of sessions finds it, and what is played is counted whole."""

from types import SimpleNamespace

import pytest

from benchmarks.pools import held, largest_held
from data_pipelines.world import WorldConfig
from data_pipelines.world.clip import write_clip_files
from tests.streaming.scripted_stream import CLOCK, FRAME_PX, TOKENIZER, ScriptedLive, script


@pytest.mark.parametrize(("limit", "most"), [(0, 100), (7, 100), (8, 100), (9, 100), (70, 512), (511, 512), (900, 512)])
def test_the_largest_number_is_found_to_a_tenth(limit, most):
    tried = []

    def is_held(sessions):
        tried.append(sessions)
        return sessions <= limit

    found = largest_held(is_held, most)
    assert found <= min(limit, most)
    if limit >= 8:
        assert found >= 0.9 * min(limit, most) - 1
    assert max(tried) <= most
    assert len(tried) == len(set(tried)) <= 12


def test_every_stream_is_played_and_answered(tmp_path):
    files = [write_clip_files(tmp_path, WorldConfig(clip_s=5.0), 0, 0, size_px=32).video]
    live = ScriptedLive(script({}, 200))
    speaker = SimpleNamespace(
        live=live, params={}, tokenizer=TOKENIZER, clock=CLOCK, frame_px=FRAME_PX, tokens_per_s_max=8,
        tokens_per_s_min=1,
        voice=None,
        delays=SimpleNamespace(usual=2),
        anew_at_cuts=False,
    )  # fmt: skip
    found = held(speaker, 3, 2.0, files, warm_s=0.3)
    assert found["sessions"] == 3
    assert 0 < found["lag_p50_ms"] <= found["lag_p99_ms"]
    assert found["round_share"] > 0
    # Not held where anything gave way; whether it was held is a matter of the machine.
    assert not (found["held"] and (found["dropped_frames"] or found["rungs"]))
