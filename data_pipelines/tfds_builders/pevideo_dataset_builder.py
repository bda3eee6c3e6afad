"""Clips of PE-Video with their captions as a dataset of tfds."""

from collections.abc import Mapping
from typing import Any

from data_pipelines.sources import Source
from data_pipelines.sources.pevideo import pevideo_source
from data_pipelines.tfds_builders.source_builder import SourceBuilder


class Builder(SourceBuilder):
    """The source of `configs/data/pevideo.py`, see SourceBuilder."""

    DESCRIPTION = "Clips of PE-Video with their captions."

    def source(self, values: Mapping[str, Any]) -> Source:
        return pevideo_source(values)
