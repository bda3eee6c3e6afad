"""What others do with a video file: every way gives the frames at the tick times, 256 px short side, centre crop.

Each function is one arm of `benchmarks.data`: `(path, clock, frame_px) -> uint8 [T, px, px, 3]`.
"""

from pathlib import Path

import av
import numpy as np

from mmduplex_jax.clock import Clock


def _cover(width_px: int, height_px: int, frame_px: int) -> tuple[int, int]:
    """The size at which the shorter side is `frame_px`."""
    scale = frame_px / min(width_px, height_px)
    return max(frame_px, round(width_px * scale)), max(frame_px, round(height_px * scale))


def _centre(image: np.ndarray, frame_px: int) -> np.ndarray:
    top, left = (image.shape[-3] - frame_px) // 2, (image.shape[-2] - frame_px) // 2
    return image[..., top : top + frame_px, left : left + frame_px, :]


def pyav(path: Path, clock: Clock, frame_px: int, threads: str = "AUTO") -> np.ndarray:
    """The plain loop: decode every frame, scale and convert those that a tick shows, by libswscale."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = threads
        begin_s: float | None = None
        held: av.VideoFrame | None = None

        def show(until: int) -> None:
            if held is not None and len(frames) < until:
                width, height = _cover(held.width, held.height, frame_px)
                image = held.reformat(width=width, height=height, format="rgb24").to_ndarray()
                frames.extend([_centre(image, frame_px)] * (until - len(frames)))

        end_s = 0.0
        for frame in container.decode(stream):
            begin_s = frame.time if begin_s is None else begin_s
            time_s = frame.time - begin_s
            show(clock.ticks_in(time_s))
            held, end_s = frame, time_s + float(frame.duration * frame.time_base)
        show(clock.ticks_in(end_s))
    return np.stack(frames)


def torchcodec(path: Path, clock: Clock, frame_px: int) -> np.ndarray:
    """PyTorch's decoder, scaling inside it; one thread, as the other arms have in their workers."""
    import torch
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import CenterCrop, Resize

    torch.set_num_threads(1)
    seen = VideoDecoder(str(path), seek_mode="approximate").metadata
    width, height = _cover(seen.width, seen.height, frame_px)
    decoder = VideoDecoder(
        str(path),
        dimension_order="NHWC",
        seek_mode="approximate",
        transforms=[Resize((height, width)), CenterCrop((frame_px, frame_px))],
    )
    begin_s, end_s = seen.begin_stream_seconds, seen.end_stream_seconds
    times_s = [begin_s + clock.tick_time_s(tick) for tick in range(clock.ticks_in(end_s - begin_s))]
    return decoder.get_frames_played_at(times_s).data.numpy()


def decord(path: Path, clock: Clock, frame_px: int) -> np.ndarray:
    """Decord, scaling inside it; it takes frames by number, so their time stamps are asked for first."""
    import decord as library

    with av.open(str(path)) as container:
        width, height = _cover(container.streams.video[0].width, container.streams.video[0].height, frame_px)
    reader = library.VideoReader(str(path), width=width, height=height, num_threads=1)
    stamps_s = reader.get_frame_timestamp(np.arange(len(reader)))
    begin_s, end_s = stamps_s[0, 0], stamps_s[-1, 1]
    times_s = np.array([clock.tick_time_s(tick) for tick in range(clock.ticks_in(float(end_s - begin_s)))])
    numbers = np.searchsorted(stamps_s[:, 0] - begin_s, times_s + 1e-6, side="right") - 1
    return _centre(reader.get_batch(numbers).asnumpy(), frame_px)
