"""The sound of stretches of a file, as small encoded tracks of their own that keep step with the pictures."""

import dataclasses
import io
import itertools
import math
import wave
from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import av
import numpy as np

from data_pipelines.video_source import LIBAV_ERRORS, Video, VideoError, may_restart, open_container, why

FORMATS = ("opus", "flac", "pcm")
_OPUS_RATES_HZ = (8000, 12000, 16000, 24000, 48000)
# Decoders of sound need what comes before; files interleave sound and picture by up to a second or so.
_WARM_UP_S = 0.5
_SEEK_BACK_S = (2.0, 10.0, 60.0)
# Time stamps in whole milliseconds jitter by less than this; packets then follow each other without a gap.
_JITTER_S = 0.005
# The longest packet of any codec lasts less.
_LONGEST_PACKET_S = 0.5


@dataclasses.dataclass(frozen=True)
class AudioFormat:
    """How sound is kept: mono.

    Attributes:
      format: "opus" (in Ogg), "flac" (loses nothing, and silence costs nothing) or "pcm" (16 bits, in WAV).
      rate_hz: samples a second; Opus knows 8000, 12000, 16000, 24000 and 48000.
      bitrate_kbps: of Opus.
    """

    format: str = "opus"
    rate_hz: int = 24000
    bitrate_kbps: int = 32

    def __post_init__(self):
        if self.format not in FORMATS:
            raise ValueError(f"audio.format {self.format!r} is unknown, choose one of {FORMATS}")
        if self.format == "opus" and self.rate_hz not in _OPUS_RATES_HZ:
            raise ValueError(f"Opus has rates of {_OPUS_RATES_HZ} Hz, audio.rate_hz is {self.rate_hz}")
        if self.rate_hz < 1 or self.bitrate_kbps < 1:
            raise ValueError(f"audio.rate_hz and audio.bitrate_kbps must be positive, got {self}")


class AudioTrack:
    """The sound stream of a file that has one; what is missing in it is silence."""

    def __init__(self, video: Video, name: str, origin_s: float, audio: AudioFormat):
        """Opens the file.

        Args:
          video: path, the file's bytes, or a binary file that can seek.
          name: what messages call it.
          origin_s: where the file's time begins, by the container's clock.
          audio: how the stretches are encoded.

        Raises:
          VideoError: it cannot be opened, or has no sound.
        """
        self._video, self._name, self._origin_s, self._audio = video, name, origin_s, audio
        self._restarts = False
        self._open()
        if may_restart(self._container):
            for _ in self._timed_packets():
                if self._restarts:
                    break
            self._container.close()
            self._open()

    def close(self) -> None:
        self._container.close()

    def read(self, start_s: float, end_s: float) -> bytes:
        """The sound of `[start_s, end_s)` in the file's time, encoded; VideoError where it does not decode."""
        return encode_audio(self.samples(start_s, end_s), self._audio)

    def samples(self, start_s: float, end_s: float) -> np.ndarray:
        """The same as int16 [N] mono, at the rate of the format."""
        samples, rate_hz = self._samples(start_s, end_s)
        count = round((end_s - start_s) * self._audio.rate_hz)
        return _at_rate(samples, rate_hz, self._audio.rate_hz, count)

    def _open(self) -> None:
        self._container = open_container(self._video, self._name)
        stream = self._container.streams.best("audio")
        if not isinstance(stream, av.AudioStream):
            self._container.close()
            raise VideoError(f"{self._name}: has no sound")
        context: av.CodecContext | None = stream.codec_context  # PyAV does not declare that there may be none
        if context is None:
            self._container.close()
            raise VideoError(f"{self._name}: the sound's codec is one that libav has no decoder for")
        self._stream = stream
        self._unread = True

    def _samples(self, start_s: float, end_s: float) -> tuple[np.ndarray, int]:
        """int16 [N] mono in the stream's own rate, and that rate."""
        rate_hz, samples, filled = 0, np.zeros(0, np.int16), 0
        for begin_s, mono, frame_hz in self._decoded(start_s, end_s):
            if not rate_hz:
                rate_hz = frame_hz
                samples = np.zeros(math.ceil((end_s - start_s) * rate_hz), np.int16)
                filled = -samples.size
            elif frame_hz != rate_hz:
                raise VideoError(f"{self._name}: the sound changes from {rate_hz} to {frame_hz} Hz at {begin_s:.2f} s")
            at = round((begin_s - start_s) * rate_hz)
            if abs(at - filled) <= _JITTER_S * rate_hz:
                at = filled
            filled = at + mono.size
            skip, stop = max(0, -at), min(mono.size, samples.size - at)
            if skip < stop:
                samples[at + skip : at + stop] = mono[skip:stop]
        return (samples, rate_hz) if rate_hz else (np.zeros(0, np.int16), self._audio.rate_hz)

    def _decoded(self, start_s: float, end_s: float) -> Iterator[tuple[float, np.ndarray, int]]:
        """`(begin_s, int16 [N] mono, rate_hz)` of the packets that touch the stretch, and of some before it."""
        to_mono: av.AudioResampler | None = None
        to_mono_of: tuple[str, str, int] | None = None
        shift_s = 0.0  # since times started anew
        for packet, packet_s in self._packets(start_s):
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None:
                shift_s = packet_s - (float(stamp * packet.time_base) - self._origin_s)
            if packet_s >= end_s + _WARM_UP_S:  # a decoder may hold a frame back
                return
            try:
                frames = packet.decode()
            except LIBAV_ERRORS as error:
                if packet_s + _LONGEST_PACKET_S < start_s:
                    continue  # warming up: what it lacks lies before
                raise VideoError(f"{self._name}: the sound breaks near {packet_s:.2f} s: {why(error)}") from error
            for frame in cast(list[av.AudioFrame], frames):
                frame_s = packet_s
                if frame.pts is not None and frame.time_base is not None:
                    frame_s = float(frame.pts * frame.time_base) - self._origin_s + shift_s
                kind = frame.format.name, frame.layout.name, frame.sample_rate
                if kind != to_mono_of:
                    to_mono, to_mono_of = av.AudioResampler("s16", "mono", frame.sample_rate), kind
                assert to_mono is not None
                frame.pts = None  # times are kept here; the resampler would take a jump for an error
                for mono in to_mono.resample(frame):
                    yield frame_s, mono.to_ndarray()[0], frame.sample_rate
                    frame_s += mono.samples / frame.sample_rate

    def _packets(self, start_s: float) -> Iterator[tuple[av.Packet, float]]:
        """The stream's packets from some before `start_s` on, each with its time in the file."""
        warm_s = start_s - _WARM_UP_S
        for packet, packet_s in self._packets_before(warm_s):
            if packet_s + _LONGEST_PACKET_S >= warm_s:
                yield packet, packet_s

    def _packets_before(self, warm_s: float) -> Iterator[tuple[av.Packet, float]]:
        """The packets from one at or before `warm_s` on, or all."""
        for back_s in _SEEK_BACK_S:
            if warm_s - back_s <= 0 or self._restarts:
                break
            self._unread = False
            try:
                self._container.seek(int((warm_s - back_s + self._origin_s) * av.time_base))
            except LIBAV_ERRORS:
                break  # it cannot seek, so it is read from its start
            packets = self._timed_packets()
            first = next(packets, None)
            if first is not None and first[1] <= warm_s:
                return itertools.chain([first], packets)
        if not self._unread:
            self._container.close()
            self._open()
        self._unread = False
        return self._timed_packets()

    def _timed_packets(self) -> Iterator[tuple[av.Packet, float]]:
        """The packets with their times, which go on where those of joined recordings start anew."""
        packets, packet_s, shift_s, end_s = self._container.demux(self._stream), 0.0, 0.0, -math.inf
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except LIBAV_ERRORS as error:
                raise VideoError(f"{self._name}: reading the sound fails at {packet_s:.2f} s: {why(error)}") from error
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None and packet.time_base is not None:
                packet_s = float(stamp * packet.time_base) - self._origin_s + shift_s
                if may_restart(self._container) and packet_s < end_s - _LONGEST_PACKET_S:
                    self._restarts = True
                    shift_s, packet_s = shift_s + end_s - packet_s, end_s
                end_s = packet_s + float((packet.duration or 0) * packet.time_base)
            yield packet, packet_s


def encode_audio(samples: np.ndarray, audio: AudioFormat) -> bytes:
    """int16 [N] mono at `audio.rate_hz` as a file in memory; the same samples give the same bytes."""
    file = io.BytesIO()
    if audio.format == "pcm":
        with wave.open(file, "wb") as wav:
            wav.setnchannels(1)
            wav.setsampwidth(2)
            wav.setframerate(audio.rate_hz)
            wav.writeframes(samples.astype("<i2").tobytes())
        return file.getvalue()
    container_format, codec = ("ogg", "libopus") if audio.format == "opus" else ("flac", "flac")
    # Without "bitexact" each Ogg stream gets a number by chance.
    with av.open(file, "w", format=container_format, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=audio.rate_hz, layout="mono")
        assert isinstance(stream, av.AudioStream)
        if audio.format == "opus":
            stream.bit_rate = audio.bitrate_kbps * 1000
        for packet in (*stream.encode(_frame(samples, audio.rate_hz)), *stream.encode(None)):
            container.mux(packet)
    return file.getvalue()


def _at_rate(samples: np.ndarray, rate_hz: int, wanted_hz: int, count: int) -> np.ndarray:
    """int16 [count]: the samples at another rate, filled up with silence."""
    if rate_hz != wanted_hz and samples.size:
        resampler = av.AudioResampler("s16", "mono", wanted_hz)
        parts = [*resampler.resample(_frame(samples, rate_hz)), *resampler.resample(None)]
        samples = np.concatenate([part.to_ndarray()[0] for part in parts])
    out = np.zeros(count, np.int16)
    out[: samples.size] = samples[:count]
    return out


def _frame(samples: np.ndarray, rate_hz: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
    return frame
