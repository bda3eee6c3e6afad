"""Plans a clip of the look `real`: who comes and goes before a fixed camera, and what is told of it.

The planner of the drawn looks keeps all things apart and lets each do what has a word. Before a real camera things
cross, hide each other and come two at a time, and most of the time nothing happens; so this one lets things move as
they do and reads the events off their tracks (`actors.happenings`), as a person labels a recording. Things are added
one by one; one of which two people would tell different things, or of which the commentator could not speak in
time, is taken out again.
"""

import dataclasses
import math

import cv2
import numpy as np

from data_pipelines.schema import Event, Thing, Word
from data_pipelines.world.event_words import noun_of
from data_pipelines.world.real import settings as places
from data_pipelines.world.real.actors import BEFORE_S, SAMPLE_S, Actor
from data_pipelines.world.real.config import RealWorldConfig
from data_pipelines.world.real.foreground import MASK_PX, Piece, find_piece
from data_pipelines.world.real.ground import Ground
from data_pipelines.world.real.hands import Hands
from data_pipelines.world.real.pack import Background, load_background, read_pack
from data_pipelines.world.real.settings import SETTINGS
from data_pipelines.world.scene import Dice

# `liveliness` counts events in so much time.
_LIVELINESS_S = 16.0
# Stories that are thought of in so much time, at most.
_TRIES = 60
# Mean saturation, of 255, below which a background was filmed without colours.
_COLOURLESS = 6


@dataclasses.dataclass(frozen=True)
class RealScene:
    """What a clip shows and what happens in it.

    Attributes:
      setting: the kind of place.
      ground: the camera.
      background: the picture behind all.
      crop: (x, y, width, height) of what is seen of it, as shares of its width and height.
      flipped: whether it is seen in a mirror.
      grey: a camera without colours.
      props: things that stand still all the time; their tracks do not change.
      actors: all others.
      piece: what of the background is in front, None for nothing.
      events: what happens, in order of time.
      words: what is said of it.
    """

    setting: str
    ground: Ground
    background: Background
    crop: tuple[float, float, float, float]
    flipped: bool
    grey: bool
    props: tuple[Actor, ...]
    actors: tuple[Actor, ...]
    piece: Piece | None
    events: tuple[Event, ...]
    words: tuple[Word, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The pictures of the pack that are in it, of a thing with several its first."""
        return tuple(sorted({self.background.file, *(one.cutout.files[0] for one in (*self.props, *self.actors))}))

    @property
    def licences(self) -> tuple[str, ...]:
        """Those of all pictures in it of which the pack says one."""
        all_of_them = {self.background.licence, *(one.cutout.licence for one in (*self.props, *self.actors))}
        return tuple(sorted(all_of_them - {""}))

    def things(self, times_s: np.ndarray, aspect: float) -> tuple[Thing, ...]:
        """Where all actors are at times [T], within a picture of this width by height; those that are never in it are
        left out.
        """
        every = (Thing(noun_of(one.cutout.class_name), _boxes(one, times_s, aspect)) for one in self.actors)
        return tuple(thing for thing in every if thing.boxes.any())


def _boxes(actor: Actor, times_s: np.ndarray, aspect: float) -> np.ndarray:
    """Its boxes, float32 [T, 4] (`schema.Thing`)."""
    track = actor.track
    at = np.clip(np.round((times_s + BEFORE_S) / SAMPLE_S).astype(int), 0, len(track.x) - 1)
    x, y, height, half = track.x[at], track.y[at], track.height[at], actor.width[at] / 2
    edges = np.stack([y - height, (x - half) / aspect, y, (x + half) / aspect], axis=1)
    boxes = np.clip(edges, 0, 1)
    there = (height > 0) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return np.where(there[:, None], boxes, 0).astype(np.float32)


def plan_real_scene(config: RealWorldConfig, dice: Dice) -> RealScene:
    """Plans all that happens in a clip.

    Raises:
      PackError: see `pack.read_pack`.
      ValueError: the pack has nothing for the settings that are asked for.
    """
    pack = read_pack(config.pack, config.exclude_cameras)
    shares = places.usable_settings(pack, config.dynamics)
    return _Planner(config, dice, pack, SETTINGS[places.weighted(dice, shares)]).plan()


class _Planner(Hands):
    """Decides what kind of clip it is, and lets things in until enough happens."""

    def plan(self) -> RealScene:
        dice, d = self.dice, self.d
        background, crop, flipped, small = self._draw_background()
        if cv2.cvtColor(small, cv2.COLOR_RGB2HSV)[..., 1].mean() < _COLOURLESS:
            self.grey = True
        self.piece = find_piece(small, dice) if dice.unit() < d.occluder_p and not self.setting.from_above else None
        low, high = self._draw_liveliness()
        self._put_props()
        if dice.unit() < d.passer_p:
            self._put_passers()
        if high == 0:
            self._put_idlers()
        else:
            wanted = low + dice.index(high - low + 1)
            for _ in range(math.ceil(_TRIES * max(1.0, self.clip_s / _LIVELINESS_S))):
                if len(self.events) >= wanted:
                    break
                self._admit(self._draw_story(), high - len(self.events))
            if dice.unit() < 0.3:
                self._put_idlers()
        return RealScene(
            self.setting.name, self.ground, background, crop, flipped, self.grey, tuple(self.props),
            tuple(self.actors), self.piece, tuple(self.events), self.words,
        )  # fmt: skip

    def _draw_liveliness(self) -> tuple[int, int]:
        rows = {str(number): share for number, (share, _) in enumerate(self.d.liveliness)}
        low, high = self.d.liveliness[int(places.weighted(self.dice, rows))][1]
        more = self.clip_s / _LIVELINESS_S
        return (max(round(low * more), min(low, 1)), max(round(high * more), min(high, 1)))

    def _draw_background(self) -> tuple[Background, tuple[float, float, float, float], bool, np.ndarray]:
        dice, look = self.dice, self.config.appearance
        fitting = places.backgrounds_for(self.pack, self.setting)
        fixed = [one for one in fitting if one.camera]
        photographs = [one for one in fitting if not one.camera]
        chosen = fixed if fixed and (not photographs or dice.unit() < look.fixed_camera_p) else photographs
        background = dice.pick(chosen)
        picture = load_background(self.pack.root, background.file)
        rows, columns = picture.shape[:2]
        share = dice.between(look.crop)
        height = min(share * rows, columns / self.aspect)
        width = height * self.aspect
        x, y = dice.unit() * (columns - width), dice.unit() * (rows - height)
        flipped = not background.camera and dice.unit() < 0.5
        crop = (x / columns, y / rows, width / columns, height / rows)
        return (
            background,
            crop,
            flipped,
            cut_background(picture, crop, flipped, (MASK_PX, round(MASK_PX * self.aspect))),
        )

    def _put_props(self):
        dice = self.dice
        options = [role for role in self.setting.props if places.casting(self.pack, self.setting, role)]
        low, high = self.d.props
        for _ in range(low + dice.index(high - low + 1) if options else 0):
            role = dice.pick(options)
            cutout, mirrored = self._cast(role, dice.between((-1, 1)), dice.between((-0.5, 0.5)))
            self.props.append(self._still(cutout, mirrored, dice.unit() * self.aspect, dice.between((0.45, 1.1))))

    def _put_idlers(self):
        """Who is there all the time and hardly moves: no word is to be said of them."""
        dice = self.dice
        for role in [role for role in ("walker", "hand") if role in self.roles]:
            for _ in range(dice.index(3)):
                cutout, mirrored = self._cast(role, dice.between((-1, 1)), dice.between((-1, 1)))
                if role == "hand":
                    self._admit([self._fidgeting_hand()], 0)
                else:
                    x, y = dice.between((0.1, 0.9)) * self.aspect, dice.between((0.55, 1.05))
                    self._admit([self._still(cutout, mirrored, x, y, "idles")], 0)

    def _put_passers(self):
        """Who goes about in the picture all the time, or drives through most of it: seen, and not spoken of."""
        dice = self.dice
        for _ in range(1 + dice.index(2)):
            if "walker" in self.roles and (self.setting.name != "road" or dice.unit() < 0.3):
                self._admit(self._wandering(), 0)
            elif "vehicle" in self.roles:
                self._admit(self._lane_story(quietly=True), 0)

    def _draw_story(self) -> list[Actor]:
        role = places.weighted(self.dice, self.roles)
        if self.setting.name == "table":
            return self._hand_story() if role == "hand" else self._rolling_story()
        if role == "flyer":
            return self._flying_story()
        if role == "object" and not self.setting.from_above:
            return self._rolling_story()
        if role == "vehicle" and self.setting.name == "road":
            return self._lane_story()
        return self._way_story(role)


def cut_background(
    picture: np.ndarray, crop: tuple[float, float, float, float], flipped: bool, size_px: tuple[int, int]
) -> np.ndarray:
    """What is seen of a background, uint8 [height, width, 3] for `size_px` = (height, width)."""
    rows, columns = picture.shape[:2]
    x, y, width, height = crop
    x0, y0 = round(x * columns), round(y * rows)
    part = picture[y0 : y0 + max(round(height * rows), 1), x0 : x0 + max(round(width * columns), 1)]
    shrinks = part.shape[0] >= size_px[0]
    out = cv2.resize(part, size_px[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.ascontiguousarray(out[:, ::-1]) if flipped else out
