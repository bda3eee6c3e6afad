"""Weights of ours, imported or trained, as a directory that transformers or timm loads."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.models.language import LanguageConfig
from mmduplex_jax.stages.registry import find_stage
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.towers.preprocessing import Preprocessing, to_processor
from mmduplex_jax.towers.vision import VisionConfig
from mmduplex_jax.weights.convolutional.source import ConvolutionalConfig
from mmduplex_jax.weights.huggingface import mimi, text, vision
from mmduplex_jax.weights.huggingface.layout import Layout, write_params
from mmduplex_jax.weights.huggingface.reader import WeightsError
from mmduplex_jax.weights.huggingface.source import TOKENIZER_FILE, config_from_metadata
from mmduplex_jax.weights.portable import flatten
from mmduplex_jax.weights.trained import Trained, load_trained

PROCESSOR_FILE = "preprocessor_config.json"
# Where timm's config.json says how pictures are prepared.
_PRETRAINED = "pretrained_cfg"
_KEPT = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")


def export_weights(weights: str | Path, to: str | Path, dtype: str, part: str | None, leave_rest: bool) -> list[str]:
    """Does it; returns lines that say what was written and what was left.

    Raises:
      FileNotFoundError: there are no weights.
      WeightsError: the architecture does not exist on the other side, or something has no place there.
    """
    # Orbax takes seconds to import, and mistakes in flags should be told at once.
    from mmduplex_jax.weights.checkpoint import is_weights, read_weights

    left: list[str] = []
    if is_weights(weights):
        if part is not None:
            raise WeightsError(f"{weights} are imported weights, which go out whole: leave out --part")
        params, metadata = read_weights(weights)
        going = _imported(metadata)
    else:
        if part is None:
            raise WeightsError(
                f"{weights} is no folder of imported weights; of a training, say what to write: "
                f"{' or '.join(f'--part={name}' for name in PARTS)}"
            )
        trained = load_trained(weights)
        going, everything = PARTS[part](trained), flatten(trained.params)
        named = {going.prefix + name for entry in going.layout.entries for name in entry.our_names}
        left = sorted(everything.keys() - named)
        params = {name.removeprefix(going.prefix): everything[name] for name in everything if name in named}
        params |= going.added
        if left and not leave_rest:
            kind = going.config_json.get("model_type", going.config_json.get("architecture"))
            raise WeightsError(
                f"{weights}: {len(left)} parameters have no place in a model of type {kind}: {', '.join(left)}. "
                "Without them it computes something else than here; --leave_rest leaves them out"
            )
    config_json, extras = going.config_json, []
    processor = None if going.preprocessing is None else to_processor(going.preprocessing)
    size = write_params(params, going.layout, to, config_json, dtype=dtype)
    if going.tokenizer_json is not None:
        TextTokenizer.from_json(going.tokenizer_json).save(Path(to) / TOKENIZER_FILE)
        extras.append(TOKENIZER_FILE)
    if processor is not None:
        (Path(to) / PROCESSOR_FILE).write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
        extras.append(PROCESSOR_FILE)
    kind = config_json.get("model_type", config_json.get("architecture"))
    lines = [f"{to}: {kind}, {size:,} bytes ({dtype})" + "".join(f", with {name}" for name in extras)]
    return lines + ([f"left: {', '.join(left)}"] if left else [])


@dataclasses.dataclass(frozen=True)
class Going:
    """What goes out, but for the numbers.

    Attributes:
      layout: which parameter is which tensor.
      tokenizer_json: of texts; None where there is none.
      preprocessing: of pictures; None where it is not known, or there are none.
      prefix: what the names of these parameters begin with among the training's.
      added: parameters that are there on the other side only, of values with which they do nothing.
    """

    layout: Layout
    config_json: dict[str, Any]
    tokenizer_json: str | None = None
    preprocessing: Preprocessing | None = None
    prefix: str = ""
    added: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def _imported(metadata: Mapping[str, Any]) -> Going:
    """Imported weights on their way back."""
    config = config_from_metadata(metadata)
    theirs, prefixes, words = metadata["their_config"], metadata["their_prefixes"], metadata["tokenizer_json"]
    if isinstance(config, LanguageConfig):
        config_json = text.config_json(config) | {name: theirs[name] for name in _KEPT if name in theirs}
        return Going(text.layout(config, prefixes["text_prefix"]), config_json, words)
    if isinstance(config, CodecConfig):
        return Going(mimi.layout(config), mimi.config_json(config))
    if isinstance(config, ConvolutionalConfig):
        raise WeightsError(
            f"{metadata['family']} is a convolutional tower, which goes out to no library: use its own file"
        )
    of = dataclasses.replace(vision.exported(config, metadata["family"]), **prefixes)
    config_json = vision.config_json(of)
    if _PRETRAINED in theirs:
        config_json[_PRETRAINED] = theirs[_PRETRAINED]
    said = metadata["preprocessing"]
    return Going(vision.layout(of), config_json, words, None if said is None else Preprocessing.from_dict(said))


def _text_of(trained: Trained) -> Going:
    """The language model of a model that sees."""
    language = find_stage(trained.config.stage).parts(trained.task).language
    if language is None:
        raise WeightsError(f"{trained.folder}: stage {trained.config.stage!r} has no language model to write")
    config = text.alone(language.text, len(trained.params["embedding"]), language.head)
    layout = text.stream_layout(language.text, language.head == "tied")
    return Going(layout, text.config_json(config), trained.tokenizer.to_json())


def _vision_of(trained: Trained) -> Going:
    """The vision tower of a model that has one of its own, in the names of a library that reads them."""
    if "vision" not in trained.params:
        raise WeightsError(f"{trained.folder}: stage {trained.config.stage!r} has no vision tower to write")
    pixels = trained.config.pixels
    config = VisionConfig(image_px=trained.config.frame_px, **trained.config.vision)
    of = vision.exported(config)
    added = {}
    if of.family == "pe":  # no library reads a tower alone in these names
        if config.projection and not config.projection_bias:  # timm's always has one
            config = dataclasses.replace(config, projection_bias=True)
            added["projection/bias"] = np.zeros(config.projection, np.float32)
        of = vision.exported(config, "pe_timm")
    config_json = vision.config_json(of)
    if _PRETRAINED in config_json:
        config_json[_PRETRAINED] |= {"mean": list(pixels.mean), "std": list(pixels.std), "interpolation": "bilinear"}
    # Frames are brought to size by averaging areas, which no processor does; this is the nearest.
    prepared = Preprocessing(resize_to=config.image_px, method="bilinear", mean=pixels.mean, std=pixels.std)
    return Going(vision.layout(of), config_json, None, prepared, "vision/", added)


PARTS: dict[str, Callable[[Trained], Going]] = {"text": _text_of, "vision": _vision_of}
