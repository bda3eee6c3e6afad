"""What others do with a video file and with decoded clips: the peers of `benchmarks.data`.

A way to decode is `(path, clock, frame_px) -> uint8 [T, px, px, 3]`: the frames at the tick times, 256 px short side,
centre crop. A way to read stores the same frames as others are used to, and yields shuffled batches of uint8
`[B, T, px, px, 3]`, as many samples as there are clips for each epoch.
"""

import io
import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
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


def write_arrays(clips: Iterator[np.ndarray], directory: Path) -> None:
    """One `.npy` a clip: decoded and not compressed."""
    directory.mkdir(parents=True)
    for number, frames in enumerate(clips):
        np.save(directory / f"{number:06d}.npy", frames)


def write_pictures(clips: Iterator[np.ndarray], directory: Path, quality: int) -> None:
    """A folder a clip, a JPEG a frame."""
    for number, frames in enumerate(clips):
        folder = directory / f"{number:06d}"
        folder.mkdir(parents=True)
        for tick, frame in enumerate(frames):
            (folder / f"{tick:04d}.jpg").write_bytes(jpeg(frame, quality))


def write_tars(clips: Iterator[np.ndarray], directory: Path, quality: int, clips_a_tar: int = 16) -> None:
    """WebDataset: tars of samples, each frame a JPEG member of its sample."""
    directory.mkdir(parents=True)
    numbered = enumerate(clips)
    while some := list(itertools.islice(numbered, clips_a_tar)):
        with tarfile.open(directory / f"{some[0][0]:06d}.tar", "w") as tar:
            for number, frames in some:
                for tick, frame in enumerate(frames):
                    data = jpeg(frame, quality)
                    member = tarfile.TarInfo(f"{number:06d}.{tick:04d}.jpg")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def jpeg(frame: np.ndarray, quality: int) -> bytes:
    """As the shards have it: chroma at full resolution."""
    chroma = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    written, data = cv2.imencode(
        ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality, *chroma]
    )
    if not written:
        raise ValueError(f"OpenCV could not write a JPEG of {frame.shape}")
    return data.tobytes()


class ArrayClips:
    """A torch dataset over `write_arrays`."""

    def __init__(self, directory: Path):
        self.paths = sorted(directory.glob("*.npy"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        import torch

        return torch.from_numpy(np.load(self.paths[index]))


class PictureClips:
    """A torch dataset over `write_pictures`, decoding with OpenCV or, as torchvision's datasets do, with Pillow."""

    def __init__(self, directory: Path, pillow: bool = False):
        self.folders = sorted(directory.iterdir())
        self.decode = _by_pillow if pillow else _by_opencv

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int):
        import torch

        cv2.setNumThreads(1)
        return torch.from_numpy(np.stack([self.decode(path) for path in sorted(self.folders[index].iterdir())]))


def _by_opencv(path: Path) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)


def _by_pillow(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def torch_loader(dataset, batch_size: int, workers: int, epochs: int) -> Iterator:
    """A torch DataLoader that shuffles, its workers kept from epoch to epoch."""
    import torch

    loader = torch.utils.data.DataLoader(
        dataset, batch_size, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True
    )
    for _ in range(epochs):
        yield from loader


def _frames_of(sample: dict) -> tuple[np.ndarray]:
    """A tuple of one field, as WebDataset's batches want samples."""
    cv2.setNumThreads(1)
    names = sorted(name for name in sample if name.endswith("jpg"))
    pictures = [cv2.imdecode(np.frombuffer(sample[name], np.uint8), cv2.IMREAD_COLOR_RGB) for name in names]
    return (np.stack(pictures),)


def webdataset_loader(directory: Path, batch_size: int, workers: int, epochs: int, clips: int) -> Iterator:
    """WebDataset with a shuffle buffer, without end, cut off after as many batches as the others give."""
    import webdataset

    urls = [str(path) for path in sorted(directory.glob("*.tar"))]
    dataset = webdataset.WebDataset(urls, resampled=True, shardshuffle=False, nodesplitter=webdataset.split_by_node)
    dataset = dataset.shuffle(100).map(_frames_of).batched(batch_size, partial=False)
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=workers)
    batches = iter(loader)
    for _ in range(epochs * (clips // batch_size)):
        yield next(batches)[0]
