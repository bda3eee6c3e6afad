"""Compilers for machines that are not here, which a test may lack."""

import importlib.util

import pytest


def needs(module: str) -> None:
    """Skips the test where a compiler is not installed."""
    folder, _, _ = module.partition(".")
    if importlib.util.find_spec(folder) is None or importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install 'mmduplex-jax[ahead]'")
