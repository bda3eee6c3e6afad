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
    assert background.at(0.0) is None
    for step, x in enumerate((0, 14, 28, 42, 56)):
        background.add(step / 2, with_square(x))
    np.testing.assert_array_equal(background.at(2.0), ground())


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


def test_background_of_before_and_of_before_and_after():
    """What has come to stay: looking back it is new, looking around it has long been there."""
    past, around = Background(4.0), Background(4.0)
    pictures = [(t / 2, ground() if t < 10 else with_square(28)) for t in range(20)]
    for t_s, picture in pictures:
        around.add(t_s, picture)
        if t_s <= 6.0:
            past.add(t_s, picture)
    assert moving_mask(with_square(28), past.at(6.0), CONTRAST).any()
    assert not moving_mask(with_square(28), around.at(7.5), CONTRAST).any()
