"""Frames to JPEG, WebP, PNG or plain bytes and back, several small frames to a sheet.

A header and tables for each 64×64 frame cost more than its picture: 75 frames of 64×64 take 237 kB and 2.9 ms to decode
one by one, 191 kB and 1.8 ms as one sheet, sixteen to a row (OpenCV, one thread). So small frames share sheets. Sheets
change no pixel: at 4:4:4 a JPEG block is 8×8 pixels, and only frames whose sides are multiples of 8 are put together.
In a WebP each block is told from its neighbours, so its frames never share one.
"""

import dataclasses
import struct
from collections.abc import Sequence

import cv2
import numpy as np
import simplejpeg
from einops import rearrange

from data_pipelines.geometry import Orientation, check_shrinks, resize
from mmduplex_jax.frame_size import StoredSize, frame_size, size_text, stored_size

FORMATS = ("jpeg", "webp", "png", "raw")
_SHEET_FORMATS = ("jpeg", "png")
# Frames of at most as many pixels as a square of this side share sheets; of larger ones the header is a small part.
_SHEET_FRAME_PX = 128
_SHEET_COLUMNS = 16
_SHEET_ROWS = 16
# By the number in EXIF: 1 is upright, 2 to 4 are mirrored or turned, 5 to 8 also swap rows and columns.
_EXIF_ORIENTATIONS = {
    2: Orientation(flip_x=True),
    3: Orientation(flip_x=True, flip_y=True),
    4: Orientation(flip_y=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, flip_x=True),
    7: Orientation(transpose=True, flip_x=True, flip_y=True),
    8: Orientation(transpose=True, flip_y=True),
}


@dataclasses.dataclass(frozen=True)
class Sheets:
    """Encoded frames.

    Attributes:
      data: one picture a sheet, in order; frames fill a sheet row by row.
      columns: frames in a row.
      rows: rows of a full sheet (the last sheet has only as many as it needs).
      num_frames: T; what is left of the last row is black.
      frame_px: the size of a frame, as files hold it (`mmduplex_jax.frame_size.stored_size`).
      format: one of FORMATS.
    """

    data: list[bytes]
    columns: int
    rows: int
    num_frames: int
    frame_px: StoredSize
    format: str = "jpeg"


def check_format(image_format: str, quality: int) -> None:
    """ValueError where frames cannot be encoded so."""
    if image_format not in FORMATS:
        raise ValueError(f"image format {image_format!r} is unknown, choose one of {FORMATS}")
    if not 1 <= quality <= 100:
        raise ValueError(f"image quality must be 1..100, got {quality}")


def encode_frames(frames: np.ndarray, image_format: str = "jpeg", quality: int = 92) -> Sheets:
    """Encodes RGB frames.

    Args:
      frames: uint8 [T, H, W, 3].
      image_format: "jpeg" (with 4:4:4 chroma: colour is what a small shape is told by), "webp" (smaller and several
        times slower; its chroma has half the resolution), "png" (lossless), or "raw" (nothing to decode).
      quality: of JPEG and WebP, 1..100; the others ignore it.

    Raises:
      ValueError: the frames are not uint8 RGB, or the format or quality is unknown.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    check_format(image_format, quality)
    num_frames, height, width = frames.shape[:3]
    size = stored_size((height, width))
    if image_format == "raw":
        return Sheets([frame.tobytes() for frame in frames], 1, 1, num_frames, size, image_format)
    small = height * width <= _SHEET_FRAME_PX**2
    shared = image_format in _SHEET_FORMATS and small and height % 8 == width % 8 == 0
    columns, rows = (_SHEET_COLUMNS, _SHEET_ROWS) if shared else (1, 1)
    data = []
    for begin in range(0, num_frames, columns * rows):
        some = frames[begin : begin + columns * rows]
        rows_here = -(-len(some) // columns)
        tiles = np.zeros((rows_here * columns, height, width, 3), np.uint8)
        tiles[: len(some)] = some
        sheet = rearrange(tiles, "(rows columns) h w c -> (rows h) (columns w) c", columns=columns)
        data.append(_encode_picture(sheet, image_format, quality))
    return Sheets(data, columns, rows, num_frames, size, image_format)


def decode_frames(sheets: Sheets, wanted: range | None = None) -> np.ndarray:
    """The frames as uint8 [T, H, W, 3] RGB.

    Args:
      sheets: what `encode_frames` gave.
      wanted: ticks in a row; the frames of all others are black.

    Raises:
      ValueError: a sheet is no picture or not of the size it must have.
    """
    wanted = range(sheets.num_frames) if wanted is None else wanted
    # Untouched pages of zeros cost nothing: a minute of which a second is wanted takes the memory of that second.
    frames = np.zeros((sheets.num_frames, *frame_size(sheets.frame_px), 3), np.uint8)
    decode_into(frames[wanted.start : wanted.stop], sheets, wanted)
    return frames


def decode_into(out: np.ndarray, sheets: Sheets, ticks: Sequence[int], mirrored: bool = False) -> None:
    """Decodes frames where they are wanted.

    Args:
      out: uint8 [N, h, w, 3], contiguous; frames that are larger than it are shrunk as `geometry.shrink_frames` does.
      sheets: what `encode_frames` gave.
      ticks: N of their ticks; those of one sheet stand together.
      mirrored: left and right.

    Raises:
      ValueError: a sheet is no picture or not of the size it must have, or frames are smaller than `out`.
    """
    size, columns = frame_size(sheets.frame_px), sheets.columns
    a_sheet = columns * sheets.rows
    if len(sheets.data) != -(-sheets.num_frames // a_sheet):
        raise ValueError(f"{sheets.num_frames} frames at {a_sheet} a sheet do not fit {len(sheets.data)} sheets")
    as_stored = out.shape[1:3] == size
    if not as_stored:
        check_shrinks(size, (out.shape[1], out.shape[2]))
    alone = sheets.format == "jpeg" and a_sheet == 1
    # A frame that is shrunk is decoded into memory that the frame before it has just left in the processor's cache.
    whole = np.empty((0 if as_stored or not alone else 1, *size, 3), np.uint8)
    shown = -1
    for frame, tick in zip(out, ticks, strict=True):
        number, place = divmod(tick, a_sheet)
        if alone:
            stored = frame if as_stored else whole[0]
            _decode_jpeg_into(stored, sheets.data[number], number)
        else:
            if number != shown:
                tiles, shown = _tiles(sheets, number), number
            stored = tiles[place // columns, place % columns]
        if mirrored:
            # (In place, where it was decoded into its place.)
            stored = cv2.flip(np.ascontiguousarray(stored), 1, stored if alone else None)
        if not as_stored:
            stored = resize(stored, frame.shape[1], frame.shape[0])
        if stored is not frame:
            frame[...] = stored


def _tiles(sheets: Sheets, number: int) -> np.ndarray:
    """The frames of a sheet, uint8 [rows, columns, H, W, 3]; ValueError where it is not of the size it must have."""
    (height, width), columns = frame_size(sheets.frame_px), sheets.columns
    here = min(columns * sheets.rows, sheets.num_frames - number * columns * sheets.rows)
    picture = _decode_picture(sheets.data[number], sheets, number)
    expected = (-(-here // columns) * height, columns * width)
    if picture.shape != (*expected, 3):
        size = size_text((height, width))
        raise ValueError(f"sheet {number} is {picture.shape[:2]} pixels, {here} frames of {size} need {expected}")
    if columns == sheets.rows == 1:
        return picture[None, None]
    return rearrange(picture, "(rows h) (columns w) c -> rows columns h w c", h=height, w=width)


def decode_still(data: bytes) -> np.ndarray:
    """A JPEG, PNG, WebP or the like as uint8 [H, W, 3] RGB, upright by its EXIF orientation.

    Raises:
      ValueError: it is no picture.
    """
    # OpenCV turns all but WebP, which it turns in some versions and for some ways to write the orientation.
    how = cv2.IMREAD_COLOR_RGB | (cv2.IMREAD_IGNORE_ORIENTATION if data[8:12] == b"WEBP" else 0)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), how) if data else None
    if image is None:
        raise ValueError(f"{len(data)} bytes that are no picture of a known kind")
    return _webp_orientation(data).apply(image)


def _webp_orientation(data: bytes) -> Orientation:
    """How a WebP is to be turned by its EXIF chunk; upright for one without, and for anything that is no WebP."""
    at = 12
    while data[:4] == b"RIFF" and data[8:12] == b"WEBP" and at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            return _exif_orientation(data[at + 8 : at + 8 + size].removeprefix(b"Exif\0\0"))
        at += 8 + size + size % 2
    return Orientation()


def _exif_orientation(tiff: bytes) -> Orientation:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return Orientation()
    directory = struct.unpack_from(f"{order}I", tiff, 4)[0]
    entries = tiff[directory : directory + 2]
    count = struct.unpack(f"{order}H", entries)[0] if len(entries) == 2 else 0
    for at in range(directory + 2, min(directory + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, at)
        if (tag, kind) == (0x0112, 3):
            return _EXIF_ORIENTATIONS.get(value, Orientation())
    return Orientation()


def decode_animation(data: bytes) -> tuple[list[np.ndarray], list[float]]:
    """The pictures of an animated WebP, uint8 [H, W, 3] RGB each, and for how long each is shown, in seconds.

    Raises:
      ValueError: it does not decode.
    """
    try:
        decoded, animation = cv2.imdecodeanimation(np.frombuffer(data, np.uint8))
    except cv2.error as error:
        raise ValueError(f"OpenCV does not decode the animation: {error.err}") from error
    if not decoded or not len(animation.frames):
        raise ValueError(f"{len(data)} bytes that are no animation that OpenCV decodes")
    frames = [cv2.cvtColor(frame[..., :3], cv2.COLOR_BGR2RGB) for frame in animation.frames]
    # Browsers show a picture that says less than 11 ms for a tenth of a second.
    return frames, [length_ms / 1000 if length_ms > 10 else 0.1 for length_ms in animation.durations]


def _encode_picture(rgb: np.ndarray, image_format: str, quality: int) -> bytes:
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    if image_format == "png":
        written, data = cv2.imencode(".png", bgr)
    elif image_format == "webp":
        written, data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
    else:
        chroma = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
        written, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality, *chroma])
    if not written:
        raise ValueError(f"OpenCV could not write a {image_format} of {bgr.shape[1]}×{bgr.shape[0]} pixels")
    return data.tobytes()


def _decode_jpeg_into(frame: np.ndarray, data: bytes, number: int) -> None:
    """The same pixels as OpenCV's, where they are wanted instead of in a picture that is copied: a quarter faster."""
    try:
        height_px, width_px, _ = simplejpeg.decode_jpeg(data, "RGB", buffer=frame).shape
        if (height_px, width_px) != frame.shape[:2]:
            raise ValueError(f"it is {width_px}×{height_px} pixels, its frame {frame.shape[1]}×{frame.shape[0]}")
    except ValueError as error:
        raise ValueError(f"sheet {number} ({len(data)} bytes) is no JPEG of its frame: {error}") from error


def _decode_picture(data: bytes, sheets: Sheets, number: int) -> np.ndarray:
    if sheets.format == "raw":
        height, width = frame_size(sheets.frame_px)
        if len(data) != height * width * 3:
            raise ValueError(f"frame {number} has {len(data)} bytes, {width}×{height} pixels are {height * width * 3}")
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise ValueError(f"sheet {number} ({len(data)} bytes) is no {sheets.format} picture")
    return picture
