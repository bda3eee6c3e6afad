"""Models of other libraries with random weights, on disk as those libraries write them, and ours read from there."""

import functools
import json
import warnings
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.towers.contrastive import Contrastive
from mmduplex_jax.towers.vision import VisionConfig, VisionTower
from mmduplex_jax.weights.huggingface import vision
from mmduplex_jax.weights.huggingface.layout import read_params, write_params
from mmduplex_jax.weights.huggingface.reader import TensorFiles, read_config
from mmduplex_jax.weights.portable import flatten

# A model is run once here: what its compilation saves in time counts, not what the code loses.
QUICKLY_COMPILED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def randomise(model, seed: int) -> None:
    """Random numbers for every parameter: as they are made, norms are ones and biases zeros and so not tested."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "logit" in name:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * (1.5 / parameter[0].numel() ** 0.5))
            else:
                parameter.copy_(noise * 0.2 + (1.0 if "norm" in name or "ln_" in name else 0.0))


def timm_or_skip():
    """The module timm, or the test is skipped."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import timm
    except (ImportError, RuntimeError) as error:  # a torchvision of another build than torch raises RuntimeError
        pytest.skip(f"timm is the reference, and does not import: {error}")
    return timm


def save_plain(tensors: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Writes `model.safetensors` and `config.json` of a model that is not of transformers."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def model_of(config) -> VisionTower | Contrastive:
    return VisionTower(config) if isinstance(config, VisionConfig) else Contrastive(config)


@functools.cache
def shapes_of(config) -> dict[str, Any]:
    """Our parameters' shapes, nothing computed."""
    tower = config if isinstance(config, VisionConfig) else config.vision
    picture = jax.ShapeDtypeStruct((1, *tower.image_px, tower.channels), jnp.float32)
    model = model_of(config)
    more = () if isinstance(config, VisionConfig) else (jax.ShapeDtypeStruct((1, 2), jnp.int32),)
    return nn.unbox(jax.eval_shape(model.init, jax.random.key(0), picture, *more))["params"]


def read(folder: Path, only_vision: bool = False) -> tuple[vision.Architecture, dict[str, Any]]:
    """What a directory holds, and our parameters."""
    files = TensorFiles(folder)
    found = vision.architecture(read_config(folder), files, only_vision=only_vision)
    return found, read_params(files, vision.layout(found), shapes_of(found.config))


def apply(found: vision.Architecture, params, *arguments, method=None):
    """Runs our model on NumPy arrays or tensors."""
    arguments = [
        argument if isinstance(argument, tuple) else jnp.asarray(np.asarray(argument)) for argument in arguments
    ]
    run = lambda p, *a: model_of(found.config).apply({"params": p}, *a, method=method)
    static = tuple(i + 1 for i, argument in enumerate(arguments) if isinstance(argument, tuple))
    return jax.jit(run, static_argnums=static, compiler_options=QUICKLY_COMPILED)(params, *arguments)


def difference(ours, theirs) -> float:
    theirs = np.asarray(theirs.detach())
    assert ours.shape == theirs.shape, f"{ours.shape} is not {theirs.shape}"
    return float(np.abs(np.asarray(ours) - theirs).max())


def assert_round_trip(folder: Path, found: vision.Architecture, params, out: Path) -> None:
    """Writes our parameters out again, in the names they came in: every number must be the same to the bit."""
    write_params(params, vision.layout(found), out, vision.config_json(found))
    before, after = TensorFiles(folder), TensorFiles(out)
    written = [name for name in before.names if name in after or not vision.layout(found).ignores(name)]
    assert sorted(written) == sorted(after.names)
    for name in written:
        np.testing.assert_array_equal(before.read(name), after.read(name), err_msg=name)
    again, same = read(out)
    assert again.family == found.family
    assert again.config == found.config
    for name, value in flatten(same).items():
        np.testing.assert_array_equal(value, flatten(params)[name], err_msg=name)
