"""Single pictures of a video at given times, without decoding what lies between where the file has an index."""

from collections.abc import Sequence

from data_pipelines.pictures import DecodedPicture, PictureList, PictureStream, open_pictures
from data_pipelines.video_source import Video, VideoError

# Nearer pictures are read through: a jump lands some seconds early anyway (as in `clip_reader.py`).
_JUMP_OVER_S = 10.0


def pictures_at(video: Video, name: str, times_s: Sequence[float]) -> tuple[list[DecodedPicture], float]:
    """The pictures that are on the screen at these times; after the end of the video its last one.

    Args:
      video: a file.
      name: what messages call it.
      times_s: from the first picture on, in order.

    Returns:
      The pictures, with their times from the first picture on, and the width of a pixel over its height.

    Raises:
      VideoError: it is no video, or broken at one of these times.
    """
    stream = open_pictures(video, name)
    try:
        return _found(stream, times_s), stream.pixel_aspect
    finally:
        stream.close()


def _found(stream: PictureStream | PictureList, times_s: Sequence[float]) -> list[DecodedPicture]:
    found: list[DecodedPicture] = []
    shown = stream.shown()
    now = after = next(shown, None)
    if now is None or after is None:
        raise VideoError(f"{stream.info.source}: has no picture")
    for t_s in times_s:
        wanted_s = stream.first_s + t_s + 1e-6
        if wanted_s - after.t_s > _JUMP_OVER_S and stream.can_seek:
            stream.seek(wanted_s)
            shown = stream.shown()
            now = after = next(shown, now)
        while after.t_s <= wanted_s:
            now = after
            following = next(shown, None)
            if following is None:
                break
            after = following
        found.append(now._replace(t_s=now.t_s - stream.first_s))
    return found
