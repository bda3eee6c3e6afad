"""What things of a class do and how large they are in reality: the facts behind perspective and behaviour.

Heights are typical ones, upright, in metres; a pack's row may say `height_m` and `role` of its own.
"""

from typing import NamedTuple

# vehicle  drives along routes, faces the way it drives
# walker   walks anywhere, turns, stops
# flyer    crosses the picture without touching the ground
# hand     reaches into the picture, with an arm behind it
# object   stands on a table or the floor, is taken and put, held or rolled
# prop     stands still all the time
ROLES = ("vehicle", "walker", "flyer", "hand", "object", "prop")


class Trait(NamedTuple):
    """One class: what it does, how tall it is, and how often it is drawn beside others of its role."""

    role: str
    height_m: float
    weight: float = 1.0


TRAITS: dict[str, Trait] = {
    "person": Trait("walker", 1.7, 7.0),
    "dog": Trait("walker", 0.55, 1.8),
    "cat": Trait("walker", 0.32, 1.8),
    "bird": Trait("walker", 0.3, 0.9),
    "horse": Trait("walker", 1.8, 0.5),
    "sheep": Trait("walker", 0.9, 0.3),
    "cow": Trait("walker", 1.5, 0.3),
    "elephant": Trait("walker", 2.8, 0.2),
    "bear": Trait("walker", 1.1, 0.2),
    "zebra": Trait("walker", 1.5, 0.15),
    "giraffe": Trait("walker", 4.0, 0.1),
    "tiger": Trait("walker", 1.0, 0.1),
    "lion": Trait("walker", 1.1, 0.1),
    "camel": Trait("walker", 2.1, 0.1),
    "chimpanzee": Trait("walker", 1.0, 0.2),
    "car": Trait("vehicle", 1.5, 7.0),
    "truck": Trait("vehicle", 3.0, 2.2),
    "bus": Trait("vehicle", 3.1, 1.8),
    "motorcycle": Trait("vehicle", 1.6, 1.4),
    "bicycle": Trait("vehicle", 1.7, 1.4),
    "train": Trait("vehicle", 3.6, 0.1),
    "airplane": Trait("flyer", 3.0, 0.5),
    "kite": Trait("flyer", 1.0, 0.5),
    "hand": Trait("hand", 0.19),
    "sports ball": Trait("object", 0.15, 3.0),
    "cup": Trait("object", 0.1, 3.0),
    "bottle": Trait("object", 0.24, 3.0),
    "wine glass": Trait("object", 0.2),
    "laptop": Trait("object", 0.25, 1.5),
    "cell phone": Trait("object", 0.14, 1.5),
    "bowl": Trait("object", 0.09),
    "banana": Trait("object", 0.12),
    "apple": Trait("object", 0.08),
    "orange": Trait("object", 0.08),
    "donut": Trait("object", 0.08),
    "pizza": Trait("object", 0.2, 0.5),
    "hot dog": Trait("object", 0.08, 0.5),
    "sandwich": Trait("object", 0.08, 0.5),
    "cake": Trait("object", 0.12, 0.5),
    "knife": Trait("object", 0.16, 0.5),
    "spoon": Trait("object", 0.14, 0.5),
    "fork": Trait("object", 0.14, 0.5),
    "scissors": Trait("object", 0.15, 0.5),
    "book": Trait("object", 0.2),
    "keyboard": Trait("object", 0.1, 0.5),
    "mouse": Trait("object", 0.05, 0.5),
    "remote": Trait("object", 0.12, 0.5),
    "teddy bear": Trait("object", 0.3),
    "vase": Trait("object", 0.25, 0.5),
    "clock": Trait("object", 0.2, 0.3),
    "box": Trait("object", 0.25),
    "basket": Trait("object", 0.3),
    "handbag": Trait("object", 0.3, 0.7),
    "backpack": Trait("object", 0.45, 0.7),
    "suitcase": Trait("object", 0.6, 0.7),
    "umbrella": Trait("object", 0.8, 0.4),
    "chair": Trait("prop", 0.9, 3.0),
    "couch": Trait("prop", 0.85),
    "potted plant": Trait("prop", 0.8, 2.0),
    "dining table": Trait("prop", 0.75),
    "bench": Trait("prop", 0.85),
    "tv": Trait("prop", 0.6),
    "bed": Trait("prop", 0.7, 0.3),
    "toilet": Trait("prop", 0.75, 0.3),
    "oven": Trait("prop", 0.9, 0.3),
    "refrigerator": Trait("prop", 1.7, 0.5),
    "fire hydrant": Trait("prop", 0.75),
    "stop sign": Trait("prop", 2.2),
    "parking meter": Trait("prop", 1.3),
    "traffic light": Trait("prop", 2.5),
    "boat": Trait("prop", 2.0, 0.3),
    "surfboard": Trait("prop", 1.9, 0.2),
    "skateboard": Trait("object", 0.12, 0.3),
    "tennis racket": Trait("object", 0.68, 0.3),
}
# Of a class that this table does not have.
OTHER = Trait("object", 0.2, 0.5)

# Seen in a mirror these are wrong: writing, hands of a clock.
UNMIRRORED = frozenset({"clock", "stop sign", "book", "keyboard", "parking meter"})
# These roll.
ROUND = frozenset({"sports ball", "apple", "orange"})


def trait_of(class_name: str) -> Trait:
    """The trait of any class: `OTHER` of one that nobody knows."""
    return TRAITS.get(class_name, OTHER)
