import numpy as np

from data_pipelines.narrator.motion import Background, moving_mask

SHAPE = (60, 80)
CONTRAST = 18.0


def ground() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 120, SHAPE).astype(np.uint8)


def with_square(x: int) -> np.ndarray:
    picture = ground()
    picture[20:30, x : x + 10] = 220
    return picture


def test_what_passes_is_no_background():
    background = Background(4.0)
    assert background.median is None
    for step, x in enumerate((0, 14, 28, 42, 56)):
        background.add(step / 2, with_square(x))
    np.testing.assert_array_equal(background.median, ground())


def test_what_moves_differs_from_the_background():
    mask = moving_mask(with_square(28), ground(), CONTRAST)
    expected = np.zeros(SHAPE, bool)
    expected[20:30, 28:38] = True
    # The cleaning of the mask takes the corners, and no more than a pixel beside the edges.
    assert (mask & expected).sum() >= 96
    assert not (mask & ~expected).any()
    assert not moving_mask(with_square(28), None, CONTRAST).any()


def test_another_light_is_no_motion():
    lighter = np.clip(ground().astype(int) + 40, 0, 255).astype(np.uint8)
    assert not moving_mask(lighter, ground(), CONTRAST).any()


def test_what_has_come_to_stay_becomes_background():
    background = Background(4.0)
    for step in range(10):
        background.add(step / 2, ground() if step < 6 else with_square(28))
    assert moving_mask(with_square(28), background.median, CONTRAST).any()
    for step in range(10, 16):
        background.add(step / 2, with_square(28))
    assert not moving_mask(with_square(28), background.median, CONTRAST).any()
