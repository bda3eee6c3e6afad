"""The one table of sources: what `config.source` names.

A source is a file beside this one, and a line in `SOURCES`. `CONTRIBUTING.md`, "Add a data source", has the steps.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from data_pipelines.sources import Source
from data_pipelines.speech.spoken import spoken

# Names of modules and of what makes the source of a configuration in them, so that who reads one kind of data needs the
# packages of no other. The first line of a module's docstring is its help.
SOURCES: dict[str, str] = {
    "folder": "data_pipelines.sources.folder:folder_source",
    "labelled": "data_pipelines.sources.labelled:labelled_source",
    "livecc": "data_pipelines.sources.livecc:livecc_source",
    "narrated": "data_pipelines.sources.narrated:narrated_source",
    "pevideo": "data_pipelines.sources.pevideo:pevideo_source",
    "world": "data_pipelines.sources.world:world_source",
}


def source_of(config: Mapping[str, Any]) -> Source:
    """The source that `config["source"]` names, spoken by the voice that `config["speech"]` names, if it names one.

    Args:
      config: the configuration as plain values.

    Raises:
      ValueError: there is none of that name, or a value does not fit it; says which.
      OSError: what it is about cannot be read.
    """
    module, name = _place_of(config["source"])
    make: Callable[[Mapping[str, Any]], Source] = getattr(importlib.import_module(module), name)
    return spoken(make(config), config)


def description_of(name: str) -> str:
    """A line on a source; ValueError where there is none of that name."""
    doc = importlib.import_module(_place_of(name)[0]).__doc__ or ""
    return doc.strip().partition("\n")[0]


def describe_sources() -> str:
    """A line on each source, for the help of commands."""
    return "\n".join(f"  {name:<8} {description_of(name)}" for name in SOURCES)


def _place_of(name: str) -> tuple[str, str]:
    if name not in SOURCES:
        raise ValueError(f"config.source {name!r} is unknown, choose one of {sorted(SOURCES)}")
    module, _, function = SOURCES[name].partition(":")
    return module, function
