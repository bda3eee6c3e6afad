import pytest

from mmduplex_jax.train import loop
from tests import compiled_once


@pytest.fixture(autouse=True, scope="package")
def programs_are_compiled_once():
    """The toy is trained a hundred times, nearly always by one program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_program", compiled_once.make_program)
        yield
