"""What the look `real` is like: every range that randomness draws from.

Lengths are shares of the picture's height, so that frames of any size show the same; times are seconds. A range is
`(low, high)`. Probabilities end in `_p`. The defaults were chosen after 44 labelled clips of real fixed cameras (the
checked ones of a `clips.jsonl`), of which 18 have no event; 48 % of their time is in silences of eight seconds and
more, and where something happens a new event comes every 1.5 s in the median.
"""

import dataclasses

from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, frame_size

Range = tuple[float, float]

LOOK = "real"
# Pictures are no narrower and no wider than this (width by height).
_ASPECT_MIN, _ASPECT_MAX = 0.4, 2.5


@dataclasses.dataclass(frozen=True)
class RealDynamics:
    """What is there, how it moves and when something happens.

    Attributes:
      settings: how often each kind of place is drawn; those for which the pack has nothing are left out.
        road: vehicles along lanes. street: people, animals and vehicles. room: people and pets nearer by, furniture.
        floor: a room near the ground, where balls roll and legs pass. table: hands and objects. wild: animals near by.
        top: a camera that looks straight down.
      liveliness: how often a clip has how many events (a range for 16 s; (0, 0) is a clip in which nothing happens).
      coloured: classes of which the colour is said, where the pack knows it and the picture shows it.
      smallest: a thing that comes or goes smaller than this is not spoken of, as nobody can make it out.
      stop_p: probability that a walker stops on its way; a vehicle does half as often.
      hold_s: how long it then stands.
      visible_s: for how long, at least, something that comes or goes must be seen.
      animal_p: share of walkers that are no person.
      passer_p: probability that someone moves about in the picture all the time, of whom no word is to be said; also
        in clips in which nothing happens.
      props: things that stand still all the time (both ends included).
      occluder_p: probability of a piece of the background behind which things pass.
      hidden_p: of those that come, share that comes out from behind it (or goes behind it for good).
      word_gap_s, lag_s, tail_s: the commentator: from word to word, the longest wait of a phrase, and what is left of
        the clip after the last event.
    """

    settings: tuple[tuple[str, float], ...] = (
        ("road", 0.28), ("street", 0.22), ("room", 0.19), ("table", 0.17), ("wild", 0.09), ("top", 0.05),
    )  # fmt: skip
    liveliness: tuple[tuple[float, tuple[int, int]], ...] = (
        (0.33, (0, 0)), (0.3, (1, 3)), (0.24, (3, 7)), (0.13, (7, 16)),
    )  # fmt: skip
    coloured: tuple[str, ...] = ("car", "truck", "bus", "sports ball", "cup", "bottle")
    smallest: float = 0.05
    stop_p: float = 0.3
    hold_s: Range = (1.6, 9.0)
    visible_s: float = 0.8
    animal_p: float = 0.3
    passer_p: float = 0.3
    props: tuple[int, int] = (0, 4)
    occluder_p: float = 0.25
    hidden_p: float = 0.1
    word_gap_s: float = 0.24
    lag_s: float = 1.0
    tail_s: float = 1.2


@dataclasses.dataclass(frozen=True)
class RealAppearance:
    """How it looks.

    Attributes:
      fixed_camera_p: share of clips before the view of a fixed camera, where the pack has both kinds.
      crop: how much of a background's height is seen.
      blend: how far a thing takes on the background's light.
      haze: how far things outdoors fade into the background's mean colour; those that come near fade less.
      grey_p: probability of a camera without colours; one whose background has none always is.
      shadow_p: probability that things cast shadows; without, they only darken where they stand.
      light_gain, light_tint: how far brightness and colour drift from 1, slowly.
      light_step_p: probability that the light changes at once (a lamp, a cloud).
      sway_p: probability that a piece of the background sways or flickers (leaves, water, a screen).
      shake_p, shake: probability that the camera trembles, and how far.
      blur: standard deviation of the lens's blur.
      noise: standard deviation of the sensor's noise, of 255.
      aspects: how often a picture has which width by height, 0 for the frame's. Another one stands between black bars,
        as `fit="pad"` puts it there.
      overlay_p: probability of a clock, a name or a logo burnt into the picture.
      codecs: how often which compression: "h264" and "jpeg" are really encoded and decoded.
      h264_crf, jpeg_quality: how hard.
    """

    fixed_camera_p: float = 0.5
    crop: Range = (0.65, 1.0)
    blend: Range = (0.1, 0.6)
    haze: Range = (0.0, 0.3)
    grey_p: float = 0.08
    shadow_p: float = 0.45
    light_gain: float = 0.12
    light_tint: float = 0.02
    light_step_p: float = 0.1
    sway_p: float = 0.4
    shake_p: float = 0.2
    shake: Range = (0.002, 0.012)
    blur: Range = (0.0, 0.005)
    noise: Range = (0.0, 5.0)
    aspects: tuple[tuple[float, float], ...] = ((1.0, 0.0),)
    overlay_p: float = 0.35
    codecs: tuple[tuple[str, float], ...] = (("h264", 0.55), ("jpeg", 0.25), ("none", 0.2))
    h264_crf: tuple[int, int] = (19, 33)
    jpeg_quality: tuple[int, int] = (35, 92)


def picture_size(frame_px: FrameSize, aspect: float) -> FrameSize:
    """Height and width of a picture of so much width by height (0: the frame's) that a frame holds, even."""
    if not aspect:
        return frame_px
    height, width = frame_px
    size = (min(height, width / aspect), min(width, height * aspect))
    return int(round(size[0])) // 2 * 2, int(round(size[1])) // 2 * 2


@dataclasses.dataclass(frozen=True)
class RealWorldConfig:
    """One kind of clip. A clip is a function of (config, the pack's content, seed, index).

    Attributes:
      pack: the folder of the pack (`pack.py`).
      exclude_cameras: a regular expression of whole names of cameras from which nothing is used; "" for none.
      clip_s: a clip's length.
      frame_px: height and width of the frames. One integer: squares.
      step_hz, video_stride: the clock; frames are taken at its ticks.
      dynamics, appearance: the ranges.
    """

    pack: str
    exclude_cameras: str = ""
    clip_s: float = 16.0
    frame_px: FrameSize = (144, 256)
    step_hz: float = 12.5
    video_stride: int = 2
    dynamics: RealDynamics = RealDynamics()
    appearance: RealAppearance = RealAppearance()

    def __post_init__(self):
        object.__setattr__(self, "frame_px", frame_size(self.frame_px, "world frame_px"))
        if min(self.frame_px) < 32:
            raise ValueError(
                f"world frame_px must be at least 32 for real things to be told apart, got {self.frame_px}"
            )
        # (A picture may be a little narrower or wider than was asked for: its sides are whole, and even.)
        if not 0.9 * _ASPECT_MIN <= self.aspect <= 1.1 * _ASPECT_MAX:
            raise ValueError(
                f"world frame_px {self.frame_px}: width by height must be {_ASPECT_MIN} to {_ASPECT_MAX}, "
                f"got {self.aspect:.2f}"
            )
        if self.clip_s < 6:
            raise ValueError(f"world clip_s must be at least 6 s, or nothing can happen; got {self.clip_s}")
        for name in ("settings", "liveliness"):
            table = getattr(self.dynamics, name)
            weights = [row[1] if name == "settings" else row[0] for row in table]
            if not weights or min(weights) < 0 or sum(weights) <= 0:
                raise ValueError(f"world dynamics.{name}: shares must not be negative, nor all 0; got {table}")
        weights = [share for share, _ in self.appearance.aspects]
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(
                f"world appearance.aspects: shares must not be negative, nor all 0; got {self.appearance.aspects}"
            )
        for _, aspect in self.appearance.aspects:
            if aspect and not _ASPECT_MIN <= aspect <= _ASPECT_MAX:
                raise ValueError(
                    f"world appearance.aspects: width by height must be {_ASPECT_MIN} to {_ASPECT_MAX}, or 0 for the "
                    f"frame's, got {aspect}"
                )
            if min(picture_size(self.frame_px, aspect)) < 32:
                raise ValueError(
                    f"world appearance.aspects: a picture of {aspect} in frames of {self.frame_px} is "
                    f"{picture_size(self.frame_px, aspect)}, less than 32 px: make the frames larger"
                )
        weights = [share for _, share in self.appearance.codecs]
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"world appearance.codecs: shares must not be negative, nor all 0; got {weights}")

    @property
    def look(self) -> str:
        return LOOK

    @property
    def aspect(self) -> float:
        height, width = self.frame_px
        return width / height

    @property
    def clock(self) -> Clock:
        return Clock(self.step_hz, self.video_stride)
