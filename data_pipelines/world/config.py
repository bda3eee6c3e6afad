"""What a world is like: every range that randomness draws from, for the two looks.

Lengths are pixels of a frame whose shorter side is 64 pixels, and scale with `frame_px`; times are seconds. A range is
`(low, high)`.
"""

import dataclasses
from typing import Any

from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, frame_size

Range = tuple[float, float]

# Lengths in this file are pixels of a frame whose shorter side is this large.
REFERENCE_PX = 64

LOOKS = ("plain", "rich")

PLAIN_KINDS = ("enters", "leaves", "stops", "starts", "bounces", "collides", "recolours")
RICH_KINDS = (*PLAIN_KINDS, "turns", "appears", "vanishes", "passes")
# What is told instead of "enters" where things that left come back (`Dynamics.returns`).
RETURNS = "returns"


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """What is there, how it moves and when something happens.

    Attributes:
      kinds: the kinds of event that may happen.
      shapes, colours: what a thing may be; no two things on screen are the same.
      max_things: things on screen at once.
      initial_things: how many there are at time 0 (both ends included).
      size_px: a thing's width and height.
      speed_px_s: how fast a thing moves when it moves.
      busy_gap_s, calm_gap_s: from one event to the next, in a busy and in a calm span.
      busy_span_s, calm_span_s: how long such a span lasts.
      first_s: when the first event may happen.
      tail_s: no event happens in a clip's last seconds, so that its phrase fits.
      variants: phrasings in use of each kind of event.
      lag_s: the longest time that a phrase may wait for the one before it.
      pan_px: how far the camera pans, at most, to either side.
      returns: share of the entries, where there is a choice, at which a thing that left comes back: it looks as it did,
        and the commentator says that it is back. If above 0, "enters" is said only of what the clip has never shown.
      quiet_s: for how long, once, in the middle of the clip, nothing happens; 0 for no such silence.
    """

    kinds: tuple[str, ...] = PLAIN_KINDS
    shapes: tuple[str, ...] = ("circle", "square", "triangle")
    colours: tuple[str, ...] = ("red", "green", "blue", "yellow")
    max_things: int = 3
    initial_things: tuple[int, int] = (1, 2)
    size_px: Range = (11.0, 16.0)
    speed_px_s: Range = (10.0, 26.0)
    busy_gap_s: Range = (1.4, 2.0)
    calm_gap_s: Range = (2.2, 4.0)
    busy_span_s: Range = (4.0, 9.0)
    calm_span_s: Range = (4.0, 8.0)
    first_s: Range = (0.5, 2.5)
    tail_s: float = 1.65
    variants: int = 1
    lag_s: float = 0.3
    pan_px: float = 0.0
    returns: float = 0.0
    quiet_s: Range = (0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Appearance:
    """How it looks. Probabilities end in `_p`.

    Attributes:
      backgrounds: kinds of background, one is drawn for a clip.
      contrast: standard deviation of the background's brightness, of 255.
      tint: how far the background's hue may stray from grey, of 255.
      styles: how a thing's surface is drawn.
      colour_jitter: how far a thing's colour strays from the pure one, of 255.
      shake_px, shake_hz: how far and how fast the camera trembles.
      light_gain, light_tint: how far brightness and colour of the light drift from 1.
      shadow_p: probability that things throw a soft shadow.
      blur_px: standard deviation of the lens's blur.
      noise: standard deviation of the sensor's noise, of 255.
      jpeg_p, jpeg_quality: probability that a clip is compressed, and how.
    """

    backgrounds: tuple[str, ...] = ("noise",)
    contrast: Range = (4.0, 22.0)
    tint: float = 18.0
    styles: tuple[str, ...] = ("filled",)
    colour_jitter: float = 12.0
    shake_px: Range = (0.0, 0.9)
    shake_hz: Range = (0.1, 0.5)
    light_gain: float = 0.0
    light_tint: float = 0.0
    shadow_p: float = 0.0
    blur_px: Range = (0.0, 0.0)
    noise: Range = (0.0, 0.0)
    jpeg_p: float = 0.0
    jpeg_quality: tuple[int, int] = (40, 90)


_DYNAMICS = {
    "plain": Dynamics(),
    "rich": Dynamics(
        kinds=RICH_KINDS,
        shapes=("circle", "square", "triangle", "person", "dog", "car"),
        colours=("red", "green", "blue", "yellow", "purple", "white"),
        max_things=5,
        initial_things=(1, 4),
        size_px=(12.0, 20.0),
        busy_gap_s=(1.6, 2.3),
        tail_s=2.1,
        variants=3,
        lag_s=1.1,
        pan_px=4.0,
    ),
}
_APPEARANCE = {
    "plain": Appearance(),
    "rich": Appearance(
        backgrounds=("noise", "layers", "gradient", "photograph", "photograph"),
        contrast=(3.0, 30.0),
        tint=20.0,
        styles=("filled", "filled", "textured", "outlined"),
        colour_jitter=22.0,
        shake_px=(0.0, 1.4),
        shake_hz=(0.1, 1.2),
        light_gain=0.18,
        light_tint=0.06,
        shadow_p=0.4,
        blur_px=(0.0, 0.8),
        noise=(0.0, 7.0),
        jpeg_p=0.5,
        jpeg_quality=(35, 92),
    ),
}

# A range that is not given; never seen once a WorldConfig is made.
_OF_THE_LOOK: Any = None


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """One kind of clip. A clip is a function of (config, seed, index).

    Attributes:
      look: "plain" or "rich"; it chooses the ranges below that are not given.
      clip_s: a clip's length.
      frame_px: height and width of the frames. One integer: squares.
      step_hz, video_stride: the clock; frames are taken at its ticks.
      dynamics, appearance: the ranges; None takes those of the look. (`dataclasses.replace` keeps them: make a
        new config for another look.)
    """

    look: str = "plain"
    clip_s: float = 12.0
    frame_px: FrameSize = (64, 64)
    step_hz: float = 12.5
    video_stride: int = 2
    dynamics: Dynamics = _OF_THE_LOOK
    appearance: Appearance = _OF_THE_LOOK

    def __post_init__(self):
        if self.look not in LOOKS:
            raise ValueError(f"world look {self.look!r} is unknown, choose one of {LOOKS}")
        object.__setattr__(self, "frame_px", frame_size(self.frame_px, "world frame_px"))
        if min(self.frame_px) < 16:
            raise ValueError(f"world frame_px must be at least 16 for shapes to be told apart, got {self.frame_px}")
        for name, of_look in (("dynamics", _DYNAMICS), ("appearance", _APPEARANCE)):
            if getattr(self, name) is _OF_THE_LOOK:
                object.__setattr__(self, name, of_look[self.look])
        if not 0 <= self.dynamics.returns <= 1:
            raise ValueError(f"world dynamics.returns is a share from 0 to 1, got {self.dynamics.returns}")
        shortest_s = self.dynamics.first_s[1] + self.dynamics.quiet_s[1] + self.dynamics.tail_s
        if self.clip_s < shortest_s:
            raise ValueError(f"world clip_s must be at least {shortest_s} s, or nothing can happen; got {self.clip_s}")

    @property
    def clock(self) -> Clock:
        return Clock(self.step_hz, self.video_stride)

    @property
    def scale(self) -> float:
        """Pixels of this frame for one pixel of the reference frame."""
        return min(self.frame_px) / REFERENCE_PX
