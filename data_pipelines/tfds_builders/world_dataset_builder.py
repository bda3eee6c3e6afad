"""Clips of the built-in world with its commentary as a dataset of tfds."""

from collections.abc import Mapping
from typing import Any

from data_pipelines.sources import Source
from data_pipelines.sources.world import world_source
from data_pipelines.tfds_builders.source_builder import SourceBuilder


class Builder(SourceBuilder):
    """The source of `configs/data/world.py`, see SourceBuilder."""

    DESCRIPTION = "Clips of the built-in world with its commentary."

    def source(self, values: Mapping[str, Any]) -> Source:
        return world_source(values)
