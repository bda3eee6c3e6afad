"""Pictures of any shape in frames of any shape: all of it is there, nothing is stretched, and places map back."""

from pathlib import Path

import av
import msgpack
import numpy as np
import pytest

from data_pipelines.clip_reader import Window, read_clips
from data_pipelines.decode import VideoReader
from data_pipelines.geometry import (
    FrameFitter,
    Orientation,
    check_shrinks,
    fitter,
    frame_in_picture,
    shrink_frames,
)
from data_pipelines.images import FORMATS, decode_frames, encode_frames
from data_pipelines.manifest import Manifest, Shard
from data_pipelines.schema import Record, decode_record, encode_record
from data_pipelines.shards import open_dataset, write_shards
from data_pipelines.sources.world import WorldSource
from data_pipelines.world import WorldConfig
from data_pipelines.world.clip import make_clip
from mmduplex_jax.clock import Clock
from tests.data_pipelines.numbered_video import write_numbered

CLOCK = Clock()
FRAME_PX = (72, 128)
# Width and height: 16:9, 4:3, upright, and square.
SHAPES = [(320, 180), (240, 180), (90, 160), (128, 128)]


def marked(width_px: int, height_px: int) -> np.ndarray:
    """Grey, with a bright square at a quarter of the way and coloured corners."""
    image = np.full((height_px, width_px, 3), 90, np.uint8)
    side = min(width_px, height_px) // 3
    x, y = width_px // 2 - side // 2, height_px // 4
    image[y : y + side, x : x + side] = 255
    corner = side // 2
    image[:corner, :corner] = image[-corner:, -corner:] = (220, 40, 40)
    return image


def lit_box(frame: np.ndarray, colour: str = "white") -> tuple[int, int, int, int]:
    """First row, first column, height and width of the pixels of a colour."""
    frame = frame.astype(int)
    lit = frame.min(axis=2) > 170 if colour == "white" else frame[..., 0] - frame[..., 1] > 80
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize(("width_px", "height_px"), SHAPES)
def test_a_video_is_whole_between_bars_and_not_stretched(tmp_path: Path, width_px, height_px, rotation):
    image = marked(width_px, height_px)
    stored = np.rot90(image, -rotation // 90).copy()
    path = write_numbered(tmp_path / "a.mp4", images=[stored] * 5, rotation=rotation)
    with VideoReader(path, CLOCK, FRAME_PX, "pad") as reader:
        frame = next(iter(reader))[2]
    assert frame.shape == (*FRAME_PX, 3)
    scale = min(FRAME_PX[1] / width_px, FRAME_PX[0] / height_px)
    inside = frame.max(axis=2) > 40
    rows, columns = inside.any(axis=1).sum(), inside.any(axis=0).sum()
    assert (rows, columns) == (round(height_px * scale), round(width_px * scale))
    _, _, high, wide = lit_box(frame)
    assert abs(high - wide) <= 1
    assert wide == pytest.approx(min(width_px, height_px) // 3 * scale, abs=1.5)
    # Both red corners: nothing is cut off, on any side.
    _, _, high, wide = lit_box(frame, "red")
    assert (high, wide) == (pytest.approx(rows, abs=1), pytest.approx(columns, abs=1))
    (clip,) = read_clips(path, [Window(0, 0.0, 0.16, 0.0)], CLOCK, FRAME_PX, "pad")
    np.testing.assert_array_equal(clip.frames[0], frame)


@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize("frame_px", [(72, 128), (128, 72), (96, 96)])
@pytest.mark.parametrize(("width_px", "height_px"), SHAPES)
def test_a_place_in_the_frame_maps_back_to_the_picture(width_px, height_px, frame_px, fit):
    image = marked(width_px, height_px)
    frame = fitter(frame_px, fit)(image, 1.0)
    left, top, scale = frame_in_picture(width_px, height_px, frame_px, fit)
    shown = lit_box(frame)
    y, x, high, wide = lit_box(image)
    if fit == "crop":  # what is cut off is not looked for
        y0, x0 = max(y, round(top)), max(x, round(left))
        high, wide = min(y + high, round(top + scale * frame_px[0])) - y0, min(x + wide, width_px - round(left)) - x0
        y, x = y0, x0
    # To a pixel of the frame or of the picture, by which edges are rounded, and half a one for edges that are blurred.
    assert np.abs(np.array([top, left]) + scale * np.array(shown[:2]) - (y, x)).max() <= 1.6 * max(1.0, scale)
    assert np.abs(scale * np.array(shown[2:]) - (high, wide)).max() <= 1.6 * max(1.0, scale)


def test_a_crop_has_the_frames_shape_and_takes_all_of_one_direction():
    columns = np.tile(np.arange(240, dtype=np.uint8)[None, :, None], (100, 1, 3))
    frame = fitter((50, 60), "crop")(columns, 1.0)
    assert frame.shape == (50, 60, 3)
    assert (int(frame[0, 0, 0]), int(frame[0, -1, 0])) == (61, 179)  # columns 60 to 179, by twos
    # Pixels that are twice as wide as high: 240 of them are shown as 480, and the middle 120 px are 60 of them.
    frame = fitter((50, 60), "crop")(columns, 2.0)
    assert (int(frame[0, 0, 0]), int(frame[0, -1, 0])) == (90, 149)


def test_a_turned_picture_is_fitted_as_it_is_shown():
    frame = av.VideoFrame.from_ndarray(marked(160, 90), format="rgb24").reformat(format="yuv420p")
    turned = FrameFitter((128, 72), "pad")(frame, 1.0, Orientation(transpose=True))
    assert turned.shape == (128, 72, 3)
    assert (turned.max(axis=2) > 40).all()
    np.testing.assert_array_equal(turned, FrameFitter((72, 128), "pad")(frame, 1.0).swapaxes(0, 1))


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("frame_px", [(24, 40), (40, 24), (22, 36), (144, 256)])
def test_frames_of_any_shape_are_stored(image_format, frame_px):
    smooth = np.linspace(0, 250, frame_px[1]).astype(np.uint8)
    frames = np.tile(smooth[None, None, :, None], (3, frame_px[0], 1, 3))
    frames[1] = 255 - frames[1]
    sheets = encode_frames(frames, image_format)
    assert sheets.frame_px == frame_px
    again = decode_frames(sheets)
    assert again.shape == frames.shape
    assert np.abs(again.astype(int) - frames).max() <= (0 if image_format in ("png", "raw") else 8)


def test_a_record_of_a_square_is_written_as_ever_and_of_a_rectangle_read_back():
    body = lambda data: msgpack.unpackb(msgpack.unpackb(data)["body"])["frames"]["frame_px"]
    square = Record("a", np.zeros((2, 16, 16, 3), np.uint8), CLOCK)
    wide = Record("b", np.zeros((2, 16, 24, 3), np.uint8), CLOCK)
    assert body(encode_record(square)) == 16
    assert body(encode_record(wide)) == [16, 24]
    for record in (square, wide):
        again = decode_record(encode_record(record))
        assert again.frame_px == record.frame_px == record.frames.shape[1:3]


def test_shards_say_the_size_of_their_frames(tmp_path: Path):
    world = WorldConfig(clip_s=6.0, frame_px=(36, 64))
    config = {"frame_px": (36, 64), "motion": {"plane_px": (18, 32)}}
    write_shards(WorldSource(world, 0, 2), tmp_path / "wide", config=config, units_per_shard=2)
    data = open_dataset(tmp_path / "wide")
    assert data.frame_px == data[0].frame_px == (36, 64)
    assert Manifest.load(tmp_path / "wide").shards[0].frame_px == (36, 64)


def test_a_manifest_from_before_is_of_the_same_data():
    shard = dict(name="a", units=1, records=1, size_bytes=1, sha256="", ticks=1, words=0, longest_ticks=1)
    make = lambda config: Manifest(config, {}, CLOCK, 1, 1, (Shard(**shard, frame_px=64),))
    before = make({"frame_px": 64, "motion": {"plane_px": 32}, "fit": "crop"})
    now = make({"frame_px": (64, 64), "motion": {"plane_px": (32, 32)}, "fit": "crop"})
    assert before.frame_px == (64, 64)
    assert before.differences(now) == []
    assert before.to_json() == now.to_json()
    assert make({"frame_px": (96,), "motion": None}).differences(before)[0].startswith("config.fit")


def test_frames_are_shrunk_in_their_own_shape_only():
    frames = np.full((2, 72, 128, 3), 7, np.uint8)
    assert shrink_frames(frames, (36, 64)).shape == (2, 36, 64, 3)
    assert shrink_frames(frames, (72, 128)) is frames
    check_shrinks((144, 256), (81, 144))
    with pytest.raises(ValueError, match=r"128x72 px are of another shape than the 64x64 px .*frame_px=64"):
        shrink_frames(frames, 64)
    with pytest.raises(ValueError, match=r"smaller than the 256x144 px .*frame_px='\(144,256\)'"):
        shrink_frames(frames, (144, 256))


@pytest.mark.parametrize("look", ["plain", "rich"])
@pytest.mark.parametrize("frame_px", [(36, 64), (64, 36)])
def test_the_world_is_drawn_in_a_rectangle_and_uses_all_of_it(look, frame_px):
    config = WorldConfig(look=look, clip_s=6.0, frame_px=frame_px)
    clips = [make_clip(config, 1, index) for index in range(6)]
    sides = {event.detail for clip in clips for event in clip.events if event.kind in ("enters", "leaves", "bounces")}
    assert sides & {"left", "right"}
    moved = np.zeros(frame_px, bool)
    for clip in clips:
        assert clip.frames.shape[1:] == (*frame_px, 3)
        frames = clip.frames.astype(int)
        moved |= (np.ptp(frames, axis=0) > 90).any(axis=2)
    # Things reach every quarter of the picture.
    height, width = frame_px
    for rows in (slice(0, height // 2), slice(height // 2, None)):
        for columns in (slice(0, width // 2), slice(width // 2, None)):
            assert moved[rows, columns].any()
