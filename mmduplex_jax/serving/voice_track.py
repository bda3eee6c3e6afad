"""The audio track on which a WebRTC peer hears the model. It needs aiortc, which is loaded with it."""

import asyncio
import time
from collections.abc import Callable

import av
import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from mmduplex_jax.serving.sound import Joined, SoundQueue, audio_frame, pcm16

# aiortc sends Opus packets of this length.
_FRAME_S = 0.02
# Sound waits so many frames before it begins, so that pieces may be a little late without a gap.
_JITTER_FRAMES = 3
# A loop that stood still for longer does not make up for it.
_BEHIND_MAX_S = 0.2


class VoiceTrack(MediaStreamTrack):
    """Plays what is in a queue in real time, silence where nothing is; a gap fades out and in.

    aiortc brings it to Opus's 48 kHz, with PyAV.
    """

    kind = "audio"

    def __init__(self, queue: SoundQueue, sample_rate_hz: int, now: Callable[[], float] = time.monotonic):
        super().__init__()
        self._queue, self._rate_hz, self._now = queue, sample_rate_hz, now
        self._frame = round(_FRAME_S * sample_rate_hz)
        self._joined = Joined(sample_rate_hz)
        self._buffered = np.zeros(0, np.float32)
        self._sent = 0
        self._due_s: float | None = None
        # Frames for which the first piece after a gap has waited; None while there is sound.
        self._waited: int | None = 0

    async def recv(self) -> av.AudioFrame:
        """The next 20 ms, when it is their time."""
        if self.readyState != "live":
            raise MediaStreamError
        now_s = self._now()
        if self._due_s is None or now_s - self._due_s > _BEHIND_MAX_S:
            self._due_s = now_s
        await asyncio.sleep(max(0.0, self._due_s - now_s))
        self._due_s += self._frame / self._rate_hz
        frame = audio_frame(pcm16(self.next_samples()), self._rate_hz, pts=self._sent)
        self._sent += self._frame
        return frame

    def next_samples(self) -> np.ndarray:
        """The samples of the next frame, float32."""
        wanted = self._frame
        if self._waited is not None:
            self._waited += self._queue.waiting > 0
            if self._waited <= _JITTER_FRAMES:
                return np.zeros(wanted, np.float32)
            self._waited = None
        while len(self._buffered) < wanted and (queued := self._queue.take()) is not None:
            self._buffered = np.concatenate([self._buffered, self._joined.add(queued)])
        if len(self._buffered) < wanted:
            rest = np.concatenate([self._buffered, self._joined.end()])
            self._buffered = np.concatenate([rest, np.zeros(max(0, wanted - len(rest)), np.float32)])
            self._waited = 0
        samples, self._buffered = self._buffered[:wanted], self._buffered[wanted:]
        return samples
