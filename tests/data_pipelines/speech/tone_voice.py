"""A voice for tests: it says a text as a tone, for so long as the text has letters, and cannot say some."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.speech.voices import Said

RATE_HZ = 8_000
LETTER_S = 0.1
SILENCE_S = 0.05  # before and behind
# What behaves as `python -m piper` does: lines in, a file a line out; it stops at a text with "7".
PIPER = f"""#!{sys.executable}
import argparse, pathlib, struct, sys, wave
flags = argparse.ArgumentParser()
for name in ("model", "length_scale", "noise_scale", "noise_w", "output_dir"):
    flags.add_argument("--" + name, required=True)
args = flags.parse_args()
with open(pathlib.Path(args.model).with_name("runs.txt"), "a") as log:
    log.write(args.length_scale + "\\n")
for number, line in enumerate(sys.stdin):
    if "7" in line:
        sys.exit("I cannot say 7")
    count = round(len(line.strip()) * {LETTER_S} * {RATE_HZ} * float(args.length_scale))
    with wave.open(str(pathlib.Path(args.output_dir) / (str(number) + ".wav")), "wb") as wav:
        wav.setnchannels(1); wav.setsampwidth(2); wav.setframerate({RATE_HZ})
        wav.writeframes(struct.pack("<" + str(count) + "h", *([9000, -9000] * count)[:count]))
"""


class ToneVoice:
    """Counts in `asked` what it was asked for; says nothing of what has a "7" in it."""

    def __init__(self):
        self.asked: list[tuple[str, float]] = []

    def facts(self) -> dict[str, Any]:
        return {"program": "tones"}

    def say(self, texts: Sequence[str], speed: float) -> list[Said | None]:
        self.asked += [(text, speed) for text in texts]
        return [None if "7" in text else Said(self._tone(len(text) * LETTER_S / speed), RATE_HZ) for text in texts]

    def _tone(self, length_s: float) -> np.ndarray:
        times_s = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
        silence = np.zeros(round(SILENCE_S * RATE_HZ))
        return np.concatenate([silence, 9000 * np.sin(2 * np.pi * 440 * times_s), silence]).astype(np.int16)


def write_piper(folder: Path) -> tuple[str, str]:
    """A program like Piper and a voice for it; their paths."""
    program, model = folder / "piper", folder / "tone.onnx"
    program.write_text(PIPER)
    program.chmod(0o755)
    model.write_text("a model")
    (folder / "tone.onnx.json").write_text("{}")
    return str(program), str(model)
