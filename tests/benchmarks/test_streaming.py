"""The streaming benchmark runs, and its numbers are of what it says it ran."""

import json
from types import SimpleNamespace

import av
import numpy as np
import pytest

from benchmarks import streaming
from benchmarks.pools import Watcher, simulated_hours, there_and_back
from benchmarks.streaming import arms_of
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.text_tokenizer import TextTokenizer
from tests import tiny
from tests.streaming.scripted_stream import CLOCK, FRAME_PX, TOKENIZER, ScriptedLive, script


def speaker(live, params, tokenizer, frame_px):
    config = SimpleNamespace(frame_px=frame_px, delay=SimpleNamespace(eval=2))
    return SimpleNamespace(
        name="scripted", live=live, params=params, tokenizer=tokenizer, clock=CLOCK, config=config, frame_px=frame_px,
        fit="pad", tokens_per_s_max=8, tokens_per_s_min=1, voice=None, sample_rate_hz=None,
    )  # fmt: skip


def test_hours_are_cut_into_parts_that_hold_every_word(capsys):
    seconds, said = 50.0, dict.fromkeys(range(0, 690, 10), "red")
    scripted = speaker(ScriptedLive(script(said, 700)), {}, TOKENIZER, FRAME_PX)
    found = simulated_hours(scripted, seconds / 3600.0, part_s=20.0, compared_s=0.0)
    assert found["compared"] is None
    assert [part["until_s"] for part in found["parts"]] == pytest.approx([20.0, 40.0, 50.0], abs=CLOCK.tick_s)
    words = [part["words"] for part in found["parts"]]
    assert sum(words) == len(range(0, CLOCK.steps_in(seconds) - 2, 10))
    assert max(words[:2]) - min(words[:2]) <= 1
    assert found["recompilations"] == 0
    first, last = found["parts"][0], found["parts"][-1]
    assert found["memory_drift"] == pytest.approx(last["resident_mb"] / first["resident_mb"] - 1, abs=1e-4)
    assert found["p99_ratio"] == pytest.approx(last["p99_ms"] / first["p99_ms"], abs=1e-3)
    assert all(0 < part["p50_ms"] <= part["p99_ms"] for part in found["parts"])


def test_a_video_is_watched_there_and_back(tmp_path):
    for number in range(40):  # 25 pictures a second
        av.VideoFrame.from_ndarray(np.full((8, 8, 3), number, np.uint8), format="rgb24").save(
            tmp_path / f"{number:02}.png"
        )
    model = SimpleNamespace(clock=CLOCK, frame_px=FRAME_PX, fit="pad")
    (frames,) = there_and_back(model, str(tmp_path))  # type: ignore[arg-type]
    shown = frames[:, 0, 0, 0]
    assert shown[:10].tolist() == [4 * tick for tick in range(10)]
    assert shown[10:].tolist() == shown[8:0:-1].tolist()
    watcher = Watcher(speaker(ScriptedLive(script({}, 8)), {}, TOKENIZER, FRAME_PX), clips=frames[None])
    watcher.watch(len(frames) + 3)
    # The model spends as many tokens as its frame's first pixel says, at most 8.
    assert watcher.tokens == sum(min(8, number) for number in [*shown, *shown[:3]])
    watcher.loop.close()


def test_an_old_stream_runs_in_turns_with_two_fresh_ones(monkeypatch):
    watched = []
    watch = Watcher.watch

    def watching(watcher, ticks):
        watched.append((watcher, watcher.loop.ticks, ticks))
        watch(watcher, ticks)

    monkeypatch.setattr(Watcher, "watch", watching)
    found = simulated_hours(speaker(ScriptedLive(script({}, 8)), {}, TOKENIZER, FRAME_PX), 10 / 3600.0, compared_s=40.0)
    compared, turns = found["compared"], watched[-12:]
    assert compared["turns"] == 4
    # Everybody's turn comes as often and with the same frames; who is first changes.
    assert [ticks for *_, ticks in turns] == [CLOCK.ticks_in(10.0)] * 12
    cycle = turns[0][0].loop.cycle
    for begin in range(0, 12, 3):
        assert len({watcher for watcher, *_ in turns[begin : begin + 3]}) == 3
        assert len({at % cycle for _, at, _ in turns[begin : begin + 3]}) == 1
    assert [turns[i][0] for i in (3, 4, 5)] == [turns[i][0] for i in (1, 2, 0)]
    for percent in (50, 99):
        for name in ("old", "again"):
            ratio = compared[f"{name}_p{percent}_ms"] / compared[f"fresh_p{percent}_ms"]
            assert compared[f"{name}_to_fresh_p{percent}"] == pytest.approx(ratio, rel=2e-2)  # of rounded times


def test_steps_of_a_whole_model_and_of_its_text():
    config = tiny.dual_stream()
    tokenizer = TextTokenizer.word_level([f"w{i}" for i in range(tiny.PAD)])
    small = speaker(LiveModel(config), tiny.init(config), tokenizer, config.tokenizer.frame_px)
    # The whole step of one stream is compiled for other tests too.
    arms = streaming.plan(["whole"], [1]) + streaming.plan(["text"], [2])
    found = streaming.compare(arms, {"ours": arms_of(small)}, rounds=2, steps=10, limit_s=60.0)
    whole, text = found["arms"]
    assert set(whole["kinds_p50_ms"]) == {"tick", "between"}
    for row, streams in ((whole, 1), (text, 2)):
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["per_stream_ms"] == pytest.approx(row["mean_ms"] / streams, abs=1e-3)
        assert (row["steps"], len(row["rounds_ms"])) == (10, 2)
    assert found["ratios"] == []


def test_fewer_bits_take_turns_with_float32():
    arms = streaming.plan(["text", "whole"], [1, 8], weights=["float32", "int8"])
    assert [arm.request["weights"] for arm in arms] == ["float32", "int8"] * 4
    found = streaming.pairs(arms)
    assert len(found) == 4
    for one, other in found:
        assert (arms[one].request["weights"], arms[other].request["weights"]) == ("int8", "float32")
        assert arms[one].request["part"] == arms[other].request["part"]
        assert arms[one].batch == arms[other].batch


def test_the_command_writes_its_report(tmp_path, monkeypatch, capsys):
    scripted = speaker(ScriptedLive(script({}, 8)), {}, TOKENIZER, FRAME_PX)
    monkeypatch.setattr(streaming, "load", lambda _, codec, weights: scripted)
    path = tmp_path / "report.json"
    assert streaming.main(["--checkpoint=x", "--batches=2", "--parts=whole", "--steps=6", f"--json={path}"]) == 0
    report = json.loads(path.read_text())
    assert (report["model"], [row["batch"] for row in report["steps"]["arms"]]) == ("scripted", [2])
    assert report["machine"]["cores"] > 0
    assert "batch  2" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        streaming.main(["--checkpoint=x", "--parts=sound"])
    assert streaming.main(["--checkpoint=x", "--batches=", "--speaking", "--simulated_hours=1"]) == 2
    assert "scripted has no audio stream, or no codec" in capsys.readouterr().err
    assert streaming.main(["--checkpoint=x", "--batches=", "--simulated_hours=1", f"--watch={path}"]) == 2
    assert str(path) in capsys.readouterr().err
