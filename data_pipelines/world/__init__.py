"""The built-in world: a seeded simulator of things that happen, and a commentator who names them."""

from data_pipelines.world.clip import Clip, World, make_clip, make_events
from data_pipelines.world.commentator import lexicon, parse_phrase, phrase, split_phrases
from data_pipelines.world.config import WorldConfig
from data_pipelines.world.real.config import RealAppearance, RealDynamics, RealWorldConfig

__all__ = [
    "Clip",
    "RealAppearance",
    "RealDynamics",
    "RealWorldConfig",
    "World",
    "WorldConfig",
    "lexicon",
    "make_clip",
    "make_events",
    "parse_phrase",
    "phrase",
    "split_phrases",
]
