"""Pictures against Pillow and the image processors of transformers: both must agree to the bit on 8-bit values.

The largest difference allowed after normalising is 2e-6: one rounding of float32 at values up to 3.
"""

import dataclasses
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from mmduplex_jax.towers.preprocessing import (
    Preprocessing,
    PreprocessingError,
    center_crop,
    from_processor,
    from_timm,
    naflex_size,
    resize,
    to_processor,
)

ATOL = 2e-6


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise on stripes: what rounds and what overshoots."""
    rng = np.random.default_rng(seed)
    stripes = (np.add.outer(np.arange(height), np.arange(width)) // 5 % 2) * 200
    return np.clip(stripes[..., None] + rng.integers(-60, 120, (height, width, 3)), 0, 255).astype(np.uint8)


def pillow_goes_across_first() -> bool:
    import PIL

    return int(PIL.__version__.split(".")[0]) < 13


@hypothesis.given(st.tuples(*[st.integers(1, 200)] * 4), st.sampled_from(["bilinear", "bicubic"]))
def test_resizing_is_pillows_to_the_bit(sizes, method):
    image = pytest.importorskip("PIL.Image", reason="Pillow is the reference")
    height, width, new_height, new_width = sizes
    given = picture(height, width)
    number = {"bilinear": image.Resampling.BILINEAR, "bicubic": image.Resampling.BICUBIC}[method]
    wanted = np.asarray(image.fromarray(given).resize((new_width, new_height), number))
    got = resize(given, new_height, new_width, method, across_first=pillow_goes_across_first())
    np.testing.assert_array_equal(got, wanted)


SMALL_CROP, ODD_CROP = {"height": 28, "width": 28}, {"height": 29, "width": 31}
PROCESSORS = {
    "clip": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 28}, "crop_size": SMALL_CROP}),
    "clip larger crop": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 20}, "crop_size": ODD_CROP}),
    "clip plain": ("CLIPImageProcessorPil", {"do_resize": False, "do_center_crop": False, "do_normalize": False}),
    "siglip": ("SiglipImageProcessorPil", {"size": {"height": 32, "width": 24}}),
    "siglip bilinear": (
        "SiglipImageProcessorPil",
        {"size": {"height": 32, "width": 32}, "resample": 2, "image_std": [0.2, 0.3, 0.4]},
    ),
    "siglip2": ("Siglip2ImageProcessorPil", {"patch_size": 4, "max_num_patches": 30}),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(40, 60), (61, 33), (28, 28), (9, 100)])
def test_processors_agree(name, size, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    kind, arguments = PROCESSORS[name]
    reference = getattr(transformers, kind)(**arguments)
    reference.save_pretrained(tmp_path)
    ours = from_processor(json.loads((tmp_path / "preprocessor_config.json").read_text()))
    if pillow_goes_across_first():
        ours = Preprocessing(**{**vars(ours), "across_first": True})
    given = picture(*size)
    if name == "siglip2":
        wanted = reference([given, picture(*size[::-1])], return_tensors="np")
        got = ours.patches([given, picture(*size[::-1])])
        np.testing.assert_array_equal(got.grid, wanted["spatial_shapes"])
        np.testing.assert_array_equal(got.mask, wanted["pixel_attention_mask"].astype(bool))
        np.testing.assert_allclose(got.patches, wanted["pixel_values"], atol=ATOL, rtol=0)
    else:
        wanted = reference(given, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        np.testing.assert_allclose(ours.picture(given), wanted, atol=ATOL, rtol=0)


SIDES = st.tuples(st.integers(1, 99), st.integers(1, 99))
NUMBERS = st.floats(0.01, 2.0)
PREPARED = st.one_of(
    st.fixed_dictionaries({}, optional={"resize_to": SIDES, "crop_to": SIDES}),
    st.fixed_dictionaries({"shortest_px": st.integers(1, 99)}, optional={"crop_to": SIDES}),
    st.fixed_dictionaries({"max_patches": st.integers(1, 99), "patch_px": st.integers(1, 16)}),
)


@hypothesis.given(
    PREPARED, st.sampled_from(["bilinear", "bicubic"]), NUMBERS, st.tuples(*[NUMBERS] * 3), st.tuples(*[NUMBERS] * 3)
)
def test_what_is_written_is_read_as_the_same(sizes, method, scale, mean, std):
    given = Preprocessing(**sizes, method=method, scale=scale, mean=mean, std=std)
    assert from_processor(json.loads(json.dumps(to_processor(given)))) == given
    assert Preprocessing.from_dict(json.loads(json.dumps(dataclasses.asdict(given)))) == given


WRITTEN = {
    "squashed": Preprocessing(resize_to=(32, 24), method="bilinear", std=(0.3, 0.3, 0.3)),
    "shorter side": Preprocessing(shortest_px=28, mean=(0.1, 0.2, 0.3)),
    "shorter side, crop": Preprocessing(shortest_px=28, crop_to=(28, 28)),
    "size, crop": Preprocessing(resize_to=(40, 36), crop_to=(32, 30)),
    "patches": Preprocessing(max_patches=30, patch_px=4, method="bilinear"),
    "as it is": Preprocessing(scale=1 / 128),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("size", [(40, 60), (61, 33), (28, 28)])
def test_what_is_written_transformers_prepares_alike(name, size, tmp_path):
    """`AutoImageProcessor` takes its fast processors where it can, whose resizing rounds in other places than Pillow's.

    One step of 8 bits may be between, and no more. Which way is resized first is the library's and its version's.
    """
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(to_processor(WRITTEN[name])))
    given = picture(*size)
    wanted = transformers.AutoImageProcessor.from_pretrained(tmp_path)(given, return_tensors="np")
    steps = []
    for ours in (WRITTEN[name], dataclasses.replace(WRITTEN[name], across_first=True)):
        if name == "patches":
            patches = ours.patches([given])
            np.testing.assert_array_equal(patches.grid, wanted["spatial_shapes"])
            np.testing.assert_array_equal(patches.mask, np.asarray(wanted["pixel_attention_mask"], bool))
            got, theirs = patches.patches, np.asarray(wanted["pixel_values"])
        else:
            got, theirs = ours.picture(given), np.asarray(wanted["pixel_values"])[0].transpose(1, 2, 0)
        assert got.shape == theirs.shape
        steps.append(float((np.abs(got - theirs) * ours.std[0] / ours.scale).max()))
    assert min(steps) < 1.01


def test_what_no_processor_does_is_not_written():
    with pytest.raises(PreprocessingError, match="NaFlex"):
        to_processor(Preprocessing(max_patches=9, patch_px=4, crop_to=(8, 8)))


def test_what_old_files_do_not_say():
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224, "resample": 3}
    clip = from_processor(old)
    assert (clip.shortest_px, clip.crop_to, clip.method) == (224, (224, 224), "bicubic")
    assert clip.mean[0] == pytest.approx(0.481, abs=1e-3)
    siglip = from_processor({"image_processor_type": "SiglipImageProcessor"})
    assert (siglip.resize_to, siglip.crop_to, siglip.mean) == ((224, 224), None, (0.5, 0.5, 0.5))


def test_timm():
    config = {
        "input_size": [3, 384, 384],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    ours = from_timm(config)
    assert (ours.shortest_px, ours.crop_to, ours.method) == (384, (384, 384), "bicubic")
    assert ours.picture(picture(40, 60)).shape == (384, 384, 3)
    squashed = from_timm(config | {"crop_mode": "squash", "crop_pct": 0.9})
    assert squashed.resize_to == (426, 426)
    with pytest.raises(PreprocessingError, match="lanczos"):
        from_timm(config | {"interpolation": "lanczos"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"resample": 1}, "resample 1 is not done"),
        ({"size": {"longest_edge": 9}}, "longest_edge"),
        ({"image_mean": [0.5]}, "three numbers"),
        ({"image_processor_type": "OtherImageProcessor"}, r"OtherImageProcessor must say \['size'"),
    ],
)
def test_what_is_not_done_is_an_error(change, said):
    with pytest.raises(PreprocessingError, match=said):
        from_processor({"image_processor_type": "SiglipImageProcessor"} | change)


def test_no_picture_is_an_error():
    with pytest.raises(PreprocessingError, match=r"float32 \[3, 8, 8\]"):
        Preprocessing().picture(np.zeros((3, 8, 8), np.float32))
    with pytest.raises(PreprocessingError, match="max_patches"):
        Preprocessing(resize_to=(8, 8)).patches([picture(8, 8)])
    with pytest.raises(PreprocessingError, match="in one way"):
        Preprocessing(resize_to=(8, 8), shortest_px=8)


@hypothesis.given(st.integers(1, 3000), st.integers(1, 3000), st.integers(4, 300))
def test_naflex_keeps_within_its_patches(height, width, max_patches):
    high, wide = naflex_size(height, width, 16, max_patches)
    assert high % 16 == wide % 16 == 0
    assert (high // 16) * (wide // 16) <= max_patches or min(high, wide) == 16


def test_a_crop_larger_than_the_picture_is_padded():
    cropped = center_crop(np.ones((3, 4, 1), np.uint8), 6, 2)
    assert cropped[..., 0].tolist() == [[0, 0], [0, 0], [1, 1], [1, 1], [1, 1], [0, 0]]
