"""The kinds of places: what is there, how large, and from where the camera looks."""

import dataclasses
import math

from data_pipelines.world.real.config import Range, RealDynamics
from data_pipelines.world.real.ground import Ground
from data_pipelines.world.real.pack import Background, Cutout, Pack
from data_pipelines.world.real.traits import trait_of
from data_pipelines.world.scene import Dice

# The picture's row (share of its height) at which `Setting.size` holds.
_SIZE_ROW = 0.9


@dataclasses.dataclass(frozen=True)
class Setting:
    """A kind of place.

    Attributes:
      name: of `RealDynamics.settings`.
      roles: how often who comes.
      props: roles of what stands still.
      horizon: the row at which the ground ends.
      yardstick_m, size: something so tall is so large (share of the picture's height) near the bottom.
      place: where it is, "indoors" or "outdoors"; backgrounds that are known to be elsewhere are not taken.
      tallest_m: nobody taller comes.
      without: classes that do not come.
      from_above: whether things are seen from straight above.
    """

    name: str
    roles: dict[str, float]
    props: tuple[str, ...]
    horizon: Range
    yardstick_m: float
    size: Range
    place: str
    tallest_m: float = 100.0
    without: tuple[str, ...] = ()
    from_above: bool = False


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("road", {"vehicle": 0.93, "walker": 0.07}, ("prop",), (-0.2, 0.4), 1.5, (0.09, 0.4), "outdoors"),
        Setting("street", {"walker": 0.7, "vehicle": 0.27, "flyer": 0.03}, ("vehicle", "prop"),
                (-0.9, 0.35), 1.7, (0.16, 0.65), "outdoors"),
        Setting("room", {"walker": 0.9, "object": 0.1}, ("prop", "prop", "object"),
                (-0.9, 0.3), 1.7, (0.4, 1.15), "indoors", tallest_m=2.0),
        Setting("floor", {"object": 0.6, "walker": 0.4}, ("prop", "object"),
                (-0.9, 0.2), 1.7, (0.9, 2.2), "indoors", tallest_m=2.0),
        Setting("wild", {"walker": 1.0}, ("prop",),
                (-0.7, 0.35), 0.5, (0.14, 0.55), "outdoors", tallest_m=1.3, without=("person",)),
        Setting("table", {"hand": 0.85, "object": 0.15}, ("object",), (-3.0, -0.5), 0.19, (0.2, 0.55), "indoors"),
        Setting("top", {"vehicle": 0.6, "object": 0.4}, (), (-60.0, -50.0), 1.0, (0.035, 0.09), "", from_above=True),
    )
}  # fmt: skip
# On a conveyor belt seen from above things are small and the camera near.
TOP_OBJECT_SIZE: Range = (0.12, 0.3)


def usable_settings(pack: Pack, dynamics: RealDynamics) -> dict[str, float]:
    """The share of each setting for which the pack has someone to come.

    Raises:
      ValueError: a setting is unknown, or there is none for which the pack has anything.
    """
    shares = {}
    for name, share in dynamics.settings:
        if name not in SETTINGS:
            raise ValueError(f"world dynamics.settings: {name!r} is unknown, choose from {tuple(SETTINGS)}")
        if share > 0 and roles_of(pack, SETTINGS[name]):
            shares[name] = share
    if not shares:
        raise ValueError(
            f"{pack.root} has no cut-outs for any of {[name for name, _ in dynamics.settings]}: people, vehicles, "
            "animals, or hands and objects (`role` in data_pipelines/world/real/traits.py)"
        )
    return shares


def roles_of(pack: Pack, setting: Setting) -> dict[str, float]:
    """The roles of a setting that the pack has cut-outs for, with their shares."""
    return {role: share for role, share in setting.roles.items() if casting(pack, setting, role)}


def casting(pack: Pack, setting: Setting, role: str) -> dict[str, list[Cutout]]:
    """Who can play a role in a setting, by class. Vehicles from above are only those that were seen so."""
    classes = pack.by_class(role, from_above=setting.from_above and role == "vehicle")
    return {
        name: cutouts
        for name, cutouts in classes.items()
        if cutouts[0].height_m <= setting.tallest_m and name not in setting.without
    }


def backgrounds_for(pack: Pack, setting: Setting) -> list[Background]:
    """Those that may be the setting's place; all where none may."""
    fitting = [one for one in pack.backgrounds if not one.place or not setting.place or one.place == setting.place]
    return fitting or list(pack.backgrounds)


def draw_class(classes: dict[str, list[Cutout]], dice: Dice, animal_p: float | None = None) -> str:
    """A class: as often as its weight says; of walkers, people and animals in the shares that are wanted."""
    names = sorted(classes)
    weights = {name: trait_of(name).weight * min(len(classes[name]), 4) ** 0.5 for name in names}
    if animal_p is not None and "person" in names and len(names) > 1:
        animals = sum(weight for name, weight in weights.items() if name != "person")
        weights["person"] = animals * (1 - animal_p) / max(animal_p, 1e-6)
    return weighted(dice, weights)


def draw_ground(setting: Setting, dice: Dice, aspect: float) -> Ground:
    """A camera for a setting."""
    horizon = dice.between(setting.horizon)
    low, high = (math.log(size) for size in setting.size)
    size = math.exp(dice.between((low, high)))
    return Ground(horizon, setting.yardstick_m * (_SIZE_ROW - horizon) / size, dice.between((0.9, 1.8)), aspect)


def weighted(dice: Dice, weights: dict[str, float]) -> str:
    """One of the names, as often as its weight says."""
    lot = dice.unit() * sum(weights.values())
    for name, weight in weights.items():
        lot -= weight
        if lot < 0:
            return name
    return next(reversed(weights))
