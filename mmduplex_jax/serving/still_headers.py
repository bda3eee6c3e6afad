"""The size that an encoded still claims, read from its header, so that nothing large is decoded unseen."""

import struct

import simplejpeg

# A progressive JPEG repeats the whole picture in every scan; real ones have about ten.
_SCANS_MAX = 64
_SCAN = b"\xff\xda"
_VP8_START = b"\x9d\x01\x2a"
_ANIMATED = 0x02


class PictureRefused(ValueError):
    """An encoded picture that is none, or is larger than it may be."""


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG; PictureRefused where it is none or would take long to decode for its size."""
    try:
        height_px, width_px, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise PictureRefused(f"is no JPEG: {error}") from error
    if data.count(_SCAN) > _SCANS_MAX:
        raise PictureRefused(f"is a JPEG of more than {_SCANS_MAX} scans")
    return width_px, height_px


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a still WebP, the larger of its canvas and its picture; PictureRefused where it is none.

    The format is that of RFC 9649.
    """
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise PictureRefused("is no WebP")
    width_px = height_px = 0
    at, found = 12, False
    while at + 8 <= len(data) and not found:
        name, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        chunk = data[at + 8 : at + 8 + min(length, 16)]
        if name == b"VP8X" and len(chunk) >= 10:
            if chunk[0] & _ANIMATED:
                raise PictureRefused("is an animated WebP; send stills")
            width_px = 1 + int.from_bytes(chunk[4:7], "little")
            height_px = 1 + int.from_bytes(chunk[7:10], "little")
        elif name == b"VP8 " and len(chunk) >= 10 and chunk[3:6] == _VP8_START:
            wide, high = struct.unpack_from("<HH", chunk, 6)
            width_px, height_px, found = max(width_px, wide & 0x3FFF), max(height_px, high & 0x3FFF), True
        elif name == b"VP8L" and len(chunk) >= 5 and chunk[0] == 0x2F:
            bits = int.from_bytes(chunk[1:5], "little")
            wide, high = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
            width_px, height_px, found = max(width_px, wide), max(height_px, high), True
        at += 8 + length + length % 2
    if not found or not width_px or not height_px:
        raise PictureRefused("is a WebP without a picture")
    return width_px, height_px
