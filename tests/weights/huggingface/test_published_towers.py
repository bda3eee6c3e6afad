"""Published shapes by their full tables: every tensor that the reference has, by name and shape, without numbers."""

import json

import pytest

from mmduplex_jax.towers.vision import VisionConfig
from mmduplex_jax.weights.huggingface import clip_family, perception_encoder, vision
from mmduplex_jax.weights.huggingface.layout import theirs_expected
from tests.weights.huggingface.random_towers import shapes_of, timm_or_skip

torch = pytest.importorskip("torch", reason="the tables are those of PyTorch modules")

# What their config.json say, which is little where it is the default of transformers.
SO400M = dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16)
CLIP_L = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14)
CLIP_L_TEXT = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)
PUBLISHED = {
    "CLIP-B/16": ("CLIP", dict(vision_config=dict(patch_size=16), text_config=dict(eos_token_id=2)), 149_620_737),
    "CLIP-B/32": ("CLIP", dict(vision_config={}, text_config=dict(eos_token_id=2)), 151_277_313),
    "CLIP-L/14": (
        "CLIP",
        dict(vision_config=CLIP_L | dict(projection_dim=768), text_config=CLIP_L_TEXT, projection_dim=768),
        427_616_513,
    ),
    "SigLIP-B/16": ("Siglip", dict(vision_config={}, text_config={}), 203_155_970),
    "SigLIP-so400m/14-384": (
        "Siglip",
        dict(vision_config=SO400M | dict(image_size=384, patch_size=14), text_config=SO400M),
        877_960_498,
    ),
    "SigLIP2-B/16": ("Siglip", dict(vision_config={}, text_config=dict(vocab_size=256000)), 375_187_970),
    "SigLIP2-B/16-NaFlex": ("Siglip2", dict(vision_config={}, text_config=dict(vocab_size=256000)), 375_234_050),
}

# In every run; the others are of the same code with other numbers.
QUICK = ("CLIP-B/16", "SigLIP-B/16", "SigLIP2-B/16-NaFlex", "PE-Core-S16-384", "vit_pe_core_small_patch16_384")


def some_slow(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


def table(architecture: vision.Architecture) -> dict[str, tuple[int, ...]]:
    return theirs_expected(vision.layout(architecture), shapes_of(architecture.config))


def count(shapes) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


@pytest.mark.parametrize("name", some_slow(PUBLISHED))
def test_transformers(name):
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    kind, arguments, parameters = PUBLISHED[name]
    config = getattr(transformers, f"{kind}Config")(**arguments)
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}Model")(config)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    family = kind.lower()
    for given in (json.loads(json.dumps(arguments)), config.to_dict()):
        ours = clip_family.contrastive_config(family, given)
        found = table(vision.Architecture("contrastive", family, ours, "vision_model.", "text_model."))
        assert found == wanted
    assert count(found) == parameters


@pytest.mark.parametrize("name", some_slow(perception_encoder._TIMM))
def test_timm(name):
    timm = timm_or_skip()
    with torch.device("meta"):
        model = timm.create_model(name)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    config = perception_encoder.timm_vision({"architecture": name, "num_classes": model.num_classes})
    assert table(vision.Architecture("vision", "pe_timm", config)) == wanted


# As the paper has them: width, layers, heads, MLP, patch, side of the picture, class token, output; of the text tower
# width, layers, MLP, tokens.
PE = {
    "PE-Core-T16-384": (192, 12, 3, 768, 16, 384, True, 512, (512, 12, 2048, 32)),
    "PE-Core-S16-384": (384, 12, 6, 1536, 16, 384, True, 512, (512, 12, 2048, 32)),
    "PE-Core-B16-224": (768, 12, 12, 3072, 16, 224, True, 1024, (1024, 24, 4096, 32)),
    "PE-Core-L14-336": (1024, 24, 16, 4096, 14, 336, True, 1024, (1024, 24, 4096, 32)),
    "PE-Core-G14-448": (1536, 50, 16, 8960, 14, 448, False, 1280, (1280, 24, 5120, 72)),
}


@pytest.mark.parametrize("name", some_slow(PE))
def test_own_names_of_pe(name):
    from tests.weights.huggingface import perception_reference as reference

    width, layers, heads, hidden, patch, image, class_token, output, text = PE[name]
    with torch.device("meta"):
        eyes = reference.random_vision(None, width, layers, hidden, patch, image // patch, class_token, output)
        words = reference.random_text(None, *text[:3], 49408, text[3], output)
    wanted = {f"visual.{key}": tuple(value.shape) for key, value in eyes.items()}
    wanted |= {key: tuple(value.shape) for key, value in words.items()}
    config = perception_encoder.native_contrastive({"architecture": name})
    assert table(vision.Architecture("contrastive", "pe", config, "visual.", "")) == wanted
    assert (config.vision.heads, config.vision.image_px, config.vision.pool_heads) == (heads, (image, image), 8)
    assert table(vision.Architecture("vision", "pe", config.vision)) == {
        key.removeprefix("visual."): shape for key, shape in wanted.items() if key.startswith("visual.")
    }


@pytest.mark.parametrize("name", PE)
def test_every_family_goes_out(name):
    config = perception_encoder.native_vision({"architecture": name})
    assert vision.exported(config).family == "pe"
    assert vision.exported(config, "pe").config is config


def test_a_tower_that_nobody_has_does_not_go_out():
    config = VisionConfig(image_px=32, patch_px=8, width=32, layers=1, heads=2, hidden=64, pool="mean")
    with pytest.raises(ValueError, match="no family computes"):
        vision.exported(config)
    with pytest.raises(ValueError, match="clip does not compute"):
        vision.exported(config, "clip")
