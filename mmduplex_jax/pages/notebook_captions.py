"""Pictures and pieces of videos with their captions: what the notebook does with a model of stage `vlm`."""

import base64
import dataclasses
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from data_pipelines.schema import Event
from data_pipelines.source_info import VideoError, camera_index
from launch.caption import Captioned, caption_source, line_of, pieces_of
from mmduplex_jax.clock import Clock
from mmduplex_jax.pages.notebook_files import Video
from mmduplex_jax.pages.notebook_page import Page, named, page
from mmduplex_jax.stages.vlm.captioner import Captioner

_PICTURE_PX = 224
# Pieces captioned at a time.
CAPTION_BATCH = 8


@dataclasses.dataclass(frozen=True)
class CaptionedVideo:
    """A video, or a picture, with its captions.

    Attributes:
      name: of the video.
      captions: one a piece.
      moments: JPEG, of each piece the pictures that the model saw; one of a picture, whose moments are all the same.
      events: what happened, in the order of time; None where nobody knows.
      error: what broke the source on the way; "" where it was whole.
    """

    name: str
    captions: tuple[Captioned, ...]
    moments: tuple[tuple[bytes, ...], ...]
    events: tuple[Event, ...] | None = None
    error: str = ""


def caption_video(captioner: Captioner, clock: Clock, video: Video, *, fit: str, max_s: float) -> CaptionedVideo:
    """Captions a video piece by piece, printing each caption as it comes.

    Args:
      captioner: the model.
      clock: of the model.
      video: whose.
      fit: how a wide picture becomes the model's square.
      max_s: of it no more is seen.

    Raises:
      VideoError: it is no video; what breaks on the way keeps what was captioned before, with its error.
      ValueError: it is a camera, which cannot be looked at again for the page.
    """
    if camera_index(video.source) is not None:
        raise ValueError(f"{video.source} is a camera: captions are shown under pictures of a file or an address")
    said: list[Captioned] = []
    error = ""
    try:
        for caption in caption_source(captioner, clock, video.source, batch=CAPTION_BATCH, fit=fit, max_s=max_s):
            said.append(caption)
            print(line_of(caption), flush=True)
    except VideoError as broken:
        if not said:
            raise
        error = str(broken)
        print(f"  {error}")
    # The same moments again, as large as a page shows them; the model's own frames may be very small.
    pieces = pieces_of(
        video.source,
        clock,
        frames=captioner.frames,
        num_ticks=captioner.num_ticks,
        frame_px=_PICTURE_PX,
        fit=fit,
        max_s=max_s,
    )
    moments = tuple(_jpegs(piece.frames) for _, piece in zip(said, pieces))
    return CaptionedVideo(video.name, tuple(said), moments, video.events, error)


def _jpegs(frames: np.ndarray) -> tuple[bytes, ...]:
    """Of uint8 `[T, H, W, 3]`, or of the first where all are the same."""
    jpegs = []
    for frame in frames[:1] if (frames == frames[0]).all() else frames:
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        written, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 85])
        if not written:
            raise ValueError(f"OpenCV could not write a JPEG of {bgr.shape[1]}×{bgr.shape[0]} pixels")
        jpegs.append(jpeg.tobytes())
    return tuple(jpegs)


def captions_page(captioned: Sequence[CaptionedVideo]) -> Page:
    """Pictures with their captions under them, and what happened where somebody knows."""
    title = "What the model says of each piece"
    legend = "The pictures are the moments that the model saw of each piece; under them is what it says."
    body = [f'<h1 class="heard">{title}</h1><p class="legend">{legend}</p>']
    return page(title, body + [_card(number, one) for number, one in enumerate(captioned)])


def _card(number: int, one: CaptionedVideo) -> str:
    error = f'<p class="error">{escape(one.error)}</p>' if one.error else ""
    figures = "".join(_figure(one, caption, jpegs) for caption, jpegs in zip(one.captions, one.moments))
    return (
        f'<article aria-labelledby="video-{number}"><h2 id="video-{number}">{escape(one.name)}</h2>{error}'
        f'<div class="pieces">{figures}</div></article>'
    )


def _figure(one: CaptionedVideo, caption: Captioned, jpegs: Sequence[bytes]) -> str:
    when = f"{caption.start_s:.2f} s to {caption.end_s:.2f} s" if caption.end_s else ""
    happened = [event for event in one.events or () if caption.start_s <= event.t_s < caption.end_s]
    known = "; ".join(f"{event.t_s:.2f} s {named(event)}" for event in happened) or "nothing"
    truth = "" if one.events is None else f'<br><span class="truth">What happened: {escape(known)}</span>'
    label = f"{one.name}, {when}" if when else one.name
    pictures = "".join(f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">' for jpeg in jpegs)
    return (
        f'<figure><div class="moments" role="img" aria-label="{escape(label)}">{pictures}</div>'
        f"<figcaption><b>{escape(caption.text) or 'nothing is said'}</b>"
        f"{f'<br>{when}' if when else ''}{truth}</figcaption></figure>"
    )
