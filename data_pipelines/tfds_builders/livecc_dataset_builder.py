"""Clips of Live-CC-5M or Live-WhisperX-526K with timed words as a dataset of tfds."""

from collections.abc import Mapping
from typing import Any

from data_pipelines.sources import Source
from data_pipelines.sources.livecc import livecc_source
from data_pipelines.tfds_builders.source_builder import SourceBuilder


class Builder(SourceBuilder):
    """The source of `configs/data/livecc.py`, see SourceBuilder."""

    DESCRIPTION = "Clips of Live-CC-5M or Live-WhisperX-526K with timed words."

    def source(self, values: Mapping[str, Any]) -> Source:
        return livecc_source(values)
