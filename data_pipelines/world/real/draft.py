"""A scene of the look `real` in the making: who is cast, what happens so far, and who is let in."""

import dataclasses
import math

import numpy as np

from data_pipelines.schema import Event, Word
from data_pipelines.world import event_words
from data_pipelines.world.commentator import comment
from data_pipelines.world.real import settings as places
from data_pipelines.world.real.actors import (
    Actor,
    Happening,
    Track,
    UnclearError,
    happenings,
    heading,
    sample_times_s,
)
from data_pipelines.world.real.config import RealWorldConfig
from data_pipelines.world.real.foreground import Piece
from data_pipelines.world.real.pack import Cutout, Pack, load_cutout
from data_pipelines.world.real.settings import Setting
from data_pipelines.world.real.traits import UNMIRRORED
from data_pipelines.world.scene import Dice

# A thing that stands is at most so high, in picture heights: what is nearer is not in anybody's picture.
_HIGHEST = 1.2


class RealDraft:
    """What is planned so far. Actors that belong together are let in together, by `_admit`.

    Attributes:
      actors, props: those that move, and what stands still.
      events, words: all events so far, and what is said of them.
      roles: who may come, and how often.
      piece: what of the background is in front, None for nothing.
    """

    def __init__(self, config: RealWorldConfig, dice: Dice, pack: Pack, setting: Setting):
        self.config, self.d, self.dice, self.pack, self.setting = config, config.dynamics, dice, pack, setting
        self.aspect, self.clip_s = config.aspect, config.clip_s
        self.times_s = sample_times_s(config.clip_s)
        self.ground = places.draw_ground(setting, dice, self.aspect)
        self.grey = dice.unit() < config.appearance.grey_p
        self.actors: list[Actor] = []
        self.props: list[Actor] = []
        self.events: list[Event] = []
        self.words: tuple[Word, ...] = ()
        self.piece: Piece | None = None
        self.roles = places.roles_of(pack, setting)
        if setting.from_above:  # either a street or a belt
            role = places.weighted(dice, self.roles)
            self.roles = {role: 1.0}
            if role == "object":
                scale = dice.between(places.TOP_OBJECT_SIZE) / 0.15
                self.ground = dataclasses.replace(self.ground, camera_m=(0.9 - self.ground.horizon) / scale)

    def _cast(self, role: str, dx: float, dy: float, class_name: str = "") -> tuple[Cutout, bool]:
        """Someone for a role who looks the way he moves, and whether he is seen in a mirror."""
        dice = self.dice
        classes = places.casting(self.pack, self.setting, role)
        name = class_name or places.draw_class(classes, dice, self.d.animal_p if role == "walker" else None)
        cutouts = classes[name]
        way = heading(dx, dy)
        may_mirror = name not in UNMIRRORED
        if way in ("left", "right"):
            fitting = [(one, one.facing != way) for one in cutouts if one.facing == way]
            if may_mirror:
                other = {"left": "right", "right": "left"}[way]
                fitting += [(one, True) for one in cutouts if one.facing == other]
        else:
            # Of those whose side nobody was sure of most are seen from behind.
            wanted = ("front", "none") if way == "front" else ("none", "front")
            fitting = [(one, may_mirror and dice.unit() < 0.5) for one in cutouts if one.facing == wanted[0]]
            fitting = fitting or [(one, False) for one in cutouts if one.facing == wanted[1]]
        if not fitting:
            fitting = [(one, may_mirror and dice.unit() < 0.5) for one in cutouts]
        return dice.pick(fitting)

    def _subject(self, cutout: Cutout) -> str:
        plain = cutout.class_name in self.d.coloured and not self.grey
        return event_words.subject_of(cutout.class_name, cutout.colour if plain else None)

    def _shape(self, cutout: Cutout, angle: float = 0.0) -> float:
        """Width by height of a cut-out's picture, turned by an angle."""
        height, width = load_cutout(self.pack.root, cutout.files[0]).shape[:2]
        c, s = abs(math.cos(angle)), abs(math.sin(angle))
        return (c * width + s * height) / (s * width + c * height)

    def _seed(self) -> int:
        return self.dice.index(2**31)

    def _still(self, cutout: Cutout, mirrored: bool, x: float, y: float, motion: str = "") -> Actor:
        y = max(y, self.ground.row_of_scale(0.5 * self.d.smallest / cutout.height_m))
        height = cutout.height_m * self.dice.between((0.85, 1.15)) * float(self.ground.scale_at(y))
        ones = np.ones(len(self.times_s))
        track = Track(x * ones, y * ones, min(height, _HIGHEST) * ones, 0 * ones, 0 * ones, y * ones)
        return Actor(
            cutout, mirrored, self._shape(cutout), track, self._subject(cutout), frozenset(), motion=motion,
            seed=self._seed(),
        )  # fmt: skip

    def _admit(self, actors: list[Actor], most: int) -> bool:
        """Lets actors in, with all that happens, unless something speaks against it.

        Args:
          actors: those that belong together.
          most: how many events they may bring, at least one then; 0 for such as are not to be spoken of.
        """
        found: list[Event] = []
        for actor in actors:
            if self._runs_into(actor):
                return False
            try:
                found += [self._event(actor, one) for one in self._happenings(actor)]
            except UnclearError:
                return False
        if (most > 0 and not found) or len(found) > most:
            return False
        events = sorted([*self.events, *found], key=lambda event: event.t_s)
        if events and events[-1].t_s > self.clip_s - self.d.tail_s:
            return False
        d = self.d
        words = comment(
            events, [0.0] * len(events), 1, d.lag_s, self.clip_s, word_gap_s=d.word_gap_s,
            say=lambda event, _: event_words.phrase(event),
        )  # fmt: skip
        if words is None:
            return False
        self.actors += actors
        self.events, self.words = events, words
        return True

    def _happenings(self, actor: Actor) -> list[Happening]:
        track, cover = actor.track, np.zeros(len(self.times_s))
        if self.piece is not None:
            cover = self.piece.cover(track.x, track.y, actor.width, track.height)
        d = self.d
        return happenings(actor, self.times_s, self.aspect, cover, smallest=d.smallest, visible_s=d.visible_s)

    def _event(self, actor: Actor, one: Happening) -> Event:
        return Event(one.t_s, one.kind, actor.subject, one.side if one.kind in event_words.SIDED else "")

    def _runs_into(self, actor: Actor) -> bool:
        """Whether it would drive through another one of its lane."""
        for other in self.actors:
            if actor.lane < 0 or other.lane != actor.lane:
                continue
            a, b = actor.track, other.track
            near = np.abs(a.y - b.y) < 0.7 * np.minimum(a.height, b.height)
            near &= np.abs(a.x - b.x) < 0.6 * np.minimum(actor.width, other.width)
            if np.any(near & (a.height > 0) & (b.height > 0)):
                return True
        return False
