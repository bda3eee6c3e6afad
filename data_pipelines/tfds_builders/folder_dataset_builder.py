"""Videos of a folder with the transcripts beside them as a dataset of tfds."""

from collections.abc import Mapping
from typing import Any

from data_pipelines.sources import Source
from data_pipelines.sources.folder import folder_source
from data_pipelines.tfds_builders.source_builder import SourceBuilder


class Builder(SourceBuilder):
    """The source of `configs/data/folder.py`, see SourceBuilder."""

    DESCRIPTION = "Videos of a folder with the transcripts beside them."

    def source(self, values: Mapping[str, Any]) -> Source:
        return folder_source(values)
