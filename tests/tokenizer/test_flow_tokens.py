"""What flow tokens are told of their crops."""

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.tokenizer.encoders import silhouette


def by_definition(crop):
    """In float64, as the docstring says it: the distance from the rim's mean, 2 where most; 0.1 keeps noise small."""
    crop = crop / 127.5 - 1
    rim = np.ones(crop.shape[:2], bool)
    rim[1:-1, 1:-1] = False
    contrast = np.abs(crop - crop[rim].mean(axis=0)).sum(axis=-1, keepdims=True)
    return 2 * contrast / (contrast.max() + 0.1)


def test_a_silhouette_stands_out_from_the_rim():
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    crops[1] = 40
    crops[1, 2:6, 2:6] = (43, 40, 41)  # hardly stands out
    got = silhouette(jnp.asarray(crops), jnp.float32)
    np.testing.assert_allclose(got, [by_definition(crop.astype(float)) for crop in crops], rtol=1e-5)


def test_a_crop_of_one_colour_has_none_however_it_is_compiled():
    """Rounding would be enlarged by the division, differently in every program: streams left their clips by 3e-5."""
    crops = np.broadcast_to(np.uint8([[77], [123], [254]])[:, None, None], (3, 32, 32, 3))
    for run in (silhouette, jax.jit(silhouette, static_argnums=1)):
        assert not np.asarray(run(jnp.asarray(crops), jnp.float32)).any()
