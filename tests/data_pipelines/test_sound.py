"""Sound alone: pieces of files and of records, in batches that depend on the seed and on nothing else."""

import dataclasses
import itertools
import wave

import numpy as np
import pytest

from data_pipelines.audio_track import AudioFormat, encode_audio
from data_pipelines.manifest import ShardError
from data_pipelines.samples import is_corrupt
from data_pipelines.shards import write_shards
from data_pipelines.sound import SoundFormat, make_sound_loader, open_sound, sound_clips, sounding_share
from data_pipelines.sources.world import WorldSource
from data_pipelines.video_source import VideoError
from data_pipelines.world import WorldConfig

RATE_HZ = 8000
FORM = SoundFormat(RATE_HZ, 800)


def ramp(samples: int, start: int = 0) -> np.ndarray:
    """Every sample tells its own place."""
    return np.arange(start, start + samples, dtype=np.int16)


def write_wav(path, samples, rate_hz=RATE_HZ):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voice")
    (folder / "more").mkdir()
    write_wav(folder / "long.wav", ramp(2500))
    write_wav(folder / "more" / "short.wav", ramp(300, start=5000))
    (folder / "more" / "words.txt").write_text("no sound")
    return folder


def test_a_file_has_as_many_pieces_as_fit(folder):
    sound = open_sound([folder], FORM)
    assert len(sound) == 3 + 1
    assert [sound.key(i) for i in range(4)] == [
        *(f"long.wav, piece {i} of 3" for i in range(3)),
        "more/short.wav, piece 0 of 1",
    ]
    # A third of the 1700 places where a piece can begin is each one's share.
    begins = [int(sound.read(index, place)[0]) for index in range(3) for place in (0.0, 1.0)]
    np.testing.assert_allclose(begins, [0, 1700 / 3, 1700 / 3, 3400 / 3, 3400 / 3, 1700], atol=1)
    for index in range(3):
        piece = sound.read(index)
        np.testing.assert_array_equal(np.diff(piece), 1)
    np.testing.assert_array_equal(sound.read(3), [*ramp(300, start=5000), *[0] * 500])


def test_another_rate_is_brought_to_the_one_asked_for(tmp_path):
    tone = (8000 * np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000)).astype(np.int16)
    write_wav(tmp_path / "tone.wav", tone, rate_hz=16_000)
    sound = open_sound([tmp_path], FORM)
    assert len(sound) == 10
    spectrum = np.abs(np.fft.rfft(sound.read(4).astype(float)))
    assert spectrum.argmax() == 200 * 800 / RATE_HZ


def batches(loader, count):
    try:
        return list(itertools.islice(loader, count))
    finally:
        loader.close()


def test_batches_are_the_seeds_whoever_reads_them(folder):
    sound = open_sound([folder], FORM)
    make = lambda **kw: make_sound_loader(sound, batch_size=4, seed=3, **kw)
    whole = batches(make(), 3)
    assert {name: (a.dtype, a.shape) for name, a in whole[0].items()} == {
        "samples": (np.int16, (4, 800)),
        "valid": (np.bool_, (4,)),
        "index": (np.int64, (4,)),
    }
    assert all(sorted(batch["index"]) == [0, 1, 2, 3] for batch in whole)  # an epoch each
    assert not np.array_equal(whole[0]["index"], whole[1]["index"])
    parts = [batches(make(process_index=i, process_count=2, threads=0), 3) for i in range(2)]
    for batch, *halves in zip(whole, *parts):
        for name, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), value)
    later = make()
    later.set_state({**later.get_state(), "next_batch": 2})
    np.testing.assert_array_equal(batches(later, 1)[0]["samples"], whole[2]["samples"])
    other = make_sound_loader(sound, batch_size=4, seed=4)
    assert any(not np.array_equal(a["samples"], b["samples"]) for a, b in zip(batches(other, 3), whole))
    with pytest.raises(ValueError, match="does not divide among 3 processes"):
        make(process_count=3)


@pytest.fixture
def spoken(tmp_path):
    """A second of silence with noise far below a voice, a tenth of a second of tone in it."""
    samples = np.where(np.arange(RATE_HZ) % 2, 20, -20).astype(np.int16)
    samples[3000:3800] = (8000 * np.sin(2 * np.pi * 200 * np.arange(800) / RATE_HZ)).astype(np.int16)
    write_wav(tmp_path / "said.wav", samples)
    return open_sound([tmp_path], dataclasses.replace(FORM, samples=RATE_HZ // 4))


def test_pieces_are_where_it_sounds(spoken):
    shares = lambda **kw: [
        sounding_share(row, RATE_HZ)
        for batch in batches(make_sound_loader(spoken, batch_size=4, seed=5, **kw), 12)
        for row in batch["samples"]
    ]
    anywhere, chosen = shares(), shares(sounding_min=0.3)
    assert np.mean(np.array(anywhere) == 0) > 0.4
    assert np.mean(np.array(chosen) >= 0.3) > np.mean(np.array(anywhere) >= 0.3) + 0.1
    assert shares(sounding_min=0.3) == chosen
    assert max(shares(sounding_min=0.99)) <= 0.5  # none sounds so much: the best there is
    with pytest.raises(ValueError, match=r"from 0 to below 1, got 1\.5"):
        shares(sounding_min=1.5)


def test_a_choice_of_pieces_is_a_part_of_the_order(spoken):
    make = lambda share: make_sound_loader(spoken, batch_size=2, sounding_min=share)
    state = make(0.3).get_state()
    with pytest.raises(ValueError, match="sounding_min"):
        make(0.4).set_state(state)


def test_a_file_that_breaks_is_marked_and_named(folder, tmp_path):
    write_wav(tmp_path / "good.wav", ramp(800))
    write_wav(tmp_path / "lost.wav", ramp(800))
    sound = open_sound([tmp_path], FORM)
    (tmp_path / "lost.wav").unlink()
    loader = make_sound_loader(sound, batch_size=2, threads=0)
    (batch,) = batches(loader, 1)
    (bad,) = np.flatnonzero(is_corrupt(batch["index"]))
    assert batch["valid"].tolist() == [row != bad for row in range(2)]
    assert not batch["samples"][bad].any()
    assert "lost.wav" in loader.trouble(1)


def test_folders_without_sound_are_refused(tmp_path):
    with pytest.raises(VideoError, match="there is no folder"):
        open_sound([tmp_path / "none"], FORM)
    with pytest.raises(VideoError, match="nor a file of sound"):
        open_sound([tmp_path], FORM)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(VideoError, match="empty.wav"):
        open_sound([tmp_path], FORM)


class WithSound:
    """The world with a ramp for a sound track, but for its last clip."""

    def __init__(self, source):
        self._source = source

    def __getattr__(self, name):
        return getattr(self._source, name)

    def __len__(self):
        return len(self._source)

    def items(self, begin, end):
        for item in self._source.items(begin, end):
            record = item.content
            audio = encode_audio(
                ramp(round(record.num_ticks * record.clock.tick_s * RATE_HZ), start=-20_000),
                AudioFormat("pcm", RATE_HZ),
            )
            yield item._replace(content=dataclasses.replace(record, audio=audio if begin < 1 else None))


def test_records_give_their_sound(tmp_path):
    source = WithSound(WorldSource(WorldConfig(clip_s=5.12, frame_px=32), 5, 2))
    write_shards(source, tmp_path, config={}, units_per_shard=1)
    sound = open_sound([tmp_path], FORM)
    assert len(sound) == 2
    np.testing.assert_array_equal(sound.read(0, 0.0), ramp(800, start=-20_000))
    assert sound.read(0, 1.0)[-1] == -20_000 + round(5.12 * RATE_HZ) - 1
    with pytest.raises(ShardError, match="has no sound: prepare with --config.audio.keep=True"):
        sound.read(1)


def test_held_out_pieces_are_the_same_each_time(folder):
    number, clips = sound_clips(folder, FORM, seed=0, clips=2)
    again = list(sound_clips(folder, FORM, seed=0, clips=2)[1])
    clips = list(clips)
    assert number == len(clips) == 2
    for one, other in zip(clips, again):
        assert one.key == other.key
        np.testing.assert_array_equal(one.samples, other.samples)
