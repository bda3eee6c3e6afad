"""Frames made from planes of brightness and colour are those made from RGB, and have libav's colours."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from data_pipelines.geometry import FrameFitter, fitter, resize
from data_pipelines.video_source import VideoError


def smooth_frame(width: int, height: int, pix_fmt: str, seed: int = 0) -> av.VideoFrame:
    """A picture without sharp edges, on which any way to shrink agrees."""
    coarse = np.random.default_rng(seed).integers(30, 226, (4, 5, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "yuv420p10le", "rgb24", "gray"]
)
@pytest.mark.parametrize(
    ("width", "height", "aspect"), [(640, 360, 1.0), (321, 241, 1.0), (360, 640, 1.0), (720, 480, 0.9)]
)
def test_the_frame_is_that_of_the_whole_picture_in_rgb(fit, pix_fmt, width, height, aspect):
    frame = smooth_frame(width, height, pix_fmt)
    for frame_px in ((64, 64), (256, 256), (90, 160)):
        ours = FrameFitter(frame_px, fit)(frame, aspect).astype(int)
        theirs = fitter(frame_px, fit)(frame.to_ndarray(format="rgb24"), aspect).astype(int)
        assert ours.shape == (*frame_px, 3)
        # libav rounds down, by up to 2; a plane of odd size ends within a pixel of where the picture does.
        inside = (theirs.sum(axis=2) > 0)[..., None] & (ours.sum(axis=2) > 0)[..., None]
        assert (np.abs(ours - theirs) * inside).max() <= 6
        assert np.abs(ours - theirs).mean() < 1.6


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize("color_range", [0, 1, 2])
@pytest.mark.parametrize("colorspace", [1, 2, 4, 5, 6, 7, 9])
def test_colours_are_libavs(pix_fmt, colorspace, color_range):
    fitted = FrameFitter(16, "crop")
    for stored in [(120, 90, 200), (16, 128, 128), (235, 128, 128), (81, 90, 240), (145, 54, 34), (41, 240, 110)]:
        frame = av.VideoFrame(64, 64, pix_fmt)
        frame.colorspace, frame.color_range = colorspace, color_range
        for plane, value in zip(frame.planes, stored):
            plane.update(bytes([value]) * plane.buffer_size)
        ours, theirs = fitted(frame, 1.0), frame.to_ndarray(format="rgb24")[:16, :16]
        assert (ours == ours[0, 0]).all()
        assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_white_is_white_and_black_is_black():
    for pix_fmt, white, black in (("yuv420p", 235, 16), ("yuvj420p", 255, 0)):
        for value, expected in ((white, 255), (black, 0)):
            frame = av.VideoFrame(32, 32, pix_fmt)
            for plane, byte in zip(frame.planes, (value, 128, 128)):
                plane.update(bytes([byte]) * plane.buffer_size)
            assert (FrameFitter(16, "crop")(frame, 1.0) == expected).all()


def test_colours_that_libav_does_not_know_are_an_error():
    frame = av.VideoFrame(32, 32, "yuv420p")
    frame.colorspace = 8  # YCgCo
    with pytest.raises(VideoError, match="yuv420p in colour space 8. does not turn into RGB"):
        FrameFitter(16, "crop")(frame, 1.0)


def test_real_pictures_differ_by_rounding(media_dir: Path):
    for name in ("sam2__01_dog.mp4", "sample-videos__car-detection.mp4", "learning-area__frog.webm"):
        with av.open(str(media_dir / name)) as container:
            frame = next(container.decode(video=0))
        for fit in ("crop", "pad"):
            theirs = fitter(128, fit)(frame.to_ndarray(format="rgb24"), 1.0).astype(int)
            assert np.abs(FrameFitter(128, fit)(frame, 1.0) - theirs).mean() < 1.5


@pytest.mark.parametrize("planes", [(), (3,)])
@pytest.mark.parametrize(
    ("stored_px", "frame_px"),
    [
        ((256, 256), (224, 224)),
        ((144, 256), (126, 224)),
        ((64, 48), (48, 36)),
        ((48, 48), (32, 32)),
        ((90, 48), (50, 48)),
    ],
)
def test_any_way_to_average_areas_is_opencvs_but_for_rounding(planes, stored_px, frame_px):
    """Of noise, in which every pixel counts: those that are averages of two pixels, and others."""
    noise = np.random.default_rng(0).integers(0, 256, (*stored_px, *planes), np.uint8)
    ours = resize(noise, frame_px[1], frame_px[0]).astype(int)
    areas = cv2.resize(noise, (frame_px[1], frame_px[0]), interpolation=cv2.INTER_AREA)
    assert np.abs(ours - areas).max() <= 1
    assert np.abs(ours - areas).mean() < 0.1
