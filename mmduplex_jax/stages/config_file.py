"""A config from its file, for commands that take it otherwise than by `ml_collections`' flags."""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict


def load_config(name: str | Path) -> ConfigDict:
    """What `get_config()` of a file returns; behind a colon its argument, as in `configs/chain_quickstart.py:clip`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no config.
    """
    file, colon, argument = str(name).partition(":")
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no such config file")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{name}: a Python file with get_config() is expected")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{name}: has no get_config()")
    return module.get_config(argument) if colon else module.get_config()
