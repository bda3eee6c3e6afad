"""Others' weights, a Hugging Face directory or the file of a convolutional tower: which model, and all with it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.codec.codec import Codec
from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.language import LanguageConfig, LanguageModel
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.towers.contrastive import Contrastive, ContrastiveConfig
from mmduplex_jax.towers.preprocessing import Preprocessing
from mmduplex_jax.towers.vision import VisionConfig, VisionTower
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.convolutional.files import find_file
from mmduplex_jax.weights.convolutional.source import CONFIGS, ConvolutionalConfig, open_file
from mmduplex_jax.weights.huggingface import gguf, mimi, text, vision
from mmduplex_jax.weights.huggingface.gguf_tokenizer import text_tokenizer
from mmduplex_jax.weights.huggingface.layout import Layout, check_fits
from mmduplex_jax.weights.huggingface.reader import (
    CONFIG_FILE,
    TensorFiles,
    Tensors,
    WeightsError,
    read_config,
    refuse_pointers,
)
from mmduplex_jax.weights.notice import notice_of
from mmduplex_jax.weights.portable import with_tuples

# Raised whenever parameters of imported weights are renamed, reshaped or come to mean something else.
LAYOUT_VERSION = 1
KINDS = ("text", "vision", "contrastive", "codec")
TOKENIZER_FILE = "tokenizer.json"

Config = LanguageConfig | VisionConfig | ContrastiveConfig | ConvolutionalConfig | CodecConfig


@dataclasses.dataclass(frozen=True)
class Source:
    """A directory, or a file, that can be imported: its tensors fit its config.

    Attributes:
      kind: one of `KINDS`.
      family: in whose names and arithmetic, e.g. "llama", "siglip", "yolox", "mimi".
      layout: which tensor is which parameter.
      shapes: our parameters, a nested dict of `ShapeDtypeStruct`.
      their_config: the `config.json`; of a convolutional network its file's name and SHA-256.
      their_prefixes: what names of a tower start with, as `vision_prefix` and `text_prefix`.
      tokenizer: of texts; None where there is no tokenizer.json, or nothing reads texts.
      preprocessing: of pictures; None where it is not said, or nothing looks at pictures.
      about: lines on where it is from and its licence, where the file itself says it.
    """

    files: Tensors
    kind: str
    family: str
    config: Config
    layout: Layout
    shapes: PyTree
    their_config: Mapping[str, Any]
    their_prefixes: Mapping[str, str]
    tokenizer: TextTokenizer | None
    preprocessing: Preprocessing | None
    about: tuple[str, ...] = ()

    def metadata(self) -> dict[str, Any]:
        """JSON for a checkpoint: all but the numbers."""
        return {
            "layout_version": LAYOUT_VERSION,
            "kind": self.kind,
            "family": self.family,
            "architecture": dataclasses.asdict(self.config),
            "their_config": dict(self.their_config),
            "their_prefixes": dict(self.their_prefixes),
            "their_dtypes": sorted({self.files.dtype(name) for name in self.files.names}),
            "tokenizer_json": None if self.tokenizer is None else self.tokenizer.to_json(),
            "preprocessing": None if self.preprocessing is None else dataclasses.asdict(self.preprocessing),
            "notice": notice_of(self.files.path, self.about),
        }


def open_source(folder: str | Path, *, only_vision: bool = False) -> Source:
    """Reads everything of a directory but the numbers, and checks that it fits.

    Args:
      folder: `config.json`, safetensors, and what else is there; or the file of a convolutional tower (`.npz`, `.pth`,
        `.onnx`) or of a language model (`.gguf`), or a folder with no other such file.
      only_vision: take the vision tower alone of a contrastive pair.

    Raises:
      WeightsError: it is no architecture that is read, or its tensors do not fit (all of them are named).
      ValueError: its tokenizer or its preprocessing cannot be used.
    """
    refuse_pointers(folder)
    convolutional, gguf_file = find_file(folder), gguf.find_file(folder)
    if convolutional is not None:
        return _convolutional(convolutional)
    if gguf_file is not None:
        return _gguf(gguf_file)
    if not (Path(folder) / CONFIG_FILE).is_file() and Path(folder).exists():
        moshi = TensorFiles(folder)
        if mimi.is_moshi(moshi):
            return _codec(moshi, mimi.MOSHI, mimi.config_of_moshi(moshi), {})
    their_config = read_config(folder)
    files = TensorFiles(folder)
    if their_config.get("model_type") == mimi.MODEL_TYPE and not only_vision:
        return _codec(files, mimi.MODEL_TYPE, mimi.config_of_json(their_config), their_config)
    config: Config
    if vision.reads(their_config):
        of = vision.architecture(their_config, files, only_vision=only_vision)
        kind, family, config, layout = of.kind, of.family, of.config, vision.layout(of)
        prefixes = {"vision_prefix": of.vision_prefix, "text_prefix": of.text_prefix}
        preprocessing = vision.preprocessing(folder, their_config, of)
    else:
        kind, family, preprocessing = "text", str(their_config.get("model_type")), None
        if family not in text.MODEL_TYPES or only_vision:
            raise WeightsError(
                f"{folder}: model_type is {family!r}; language models read are {', '.join(text.MODEL_TYPES)}, vision "
                f"towers {', '.join(vision.FAMILIES)}, codecs {mimi.MODEL_TYPE}"
            )
        language = text.architecture(their_config, files)
        text.check_tied(files, language)
        prefixes = {"text_prefix": text.prefix_of(files.names)}
        config, layout = language, text.layout(language, prefixes["text_prefix"])
    shapes = nn.unbox(boxed_shapes(config))
    check_fits(files, layout, shapes)
    tokenizer = None if kind == "vision" else _tokenizer(Path(folder), config)
    return Source(files, kind, family, config, layout, shapes, their_config, prefixes, tokenizer, preprocessing)


def _codec(files: Tensors, family: str, config: CodecConfig, their_config: Mapping[str, Any]) -> Source:
    layout, shapes = mimi.layout(config, files), nn.unbox(boxed_shapes(config))
    check_fits(files, layout, shapes)
    return Source(files, "codec", family, config, layout, shapes, their_config, {}, tokenizer=None, preprocessing=None)


def _convolutional(file: Path) -> Source:
    found = open_file(file)
    shapes = nn.unbox(boxed_shapes(found.config))
    check_fits(found.files, found.layout, shapes)
    return Source(
        found.files,
        "vision",
        found.family,
        found.config,
        found.layout,
        shapes,
        their_config=found.about,
        their_prefixes={},
        tokenizer=None,
        preprocessing=found.preprocessing,
    )


def _gguf(path: Path) -> Source:
    """Of a GGUF file; a tokenizer.json beside it goes before the tokenizer in it."""
    file = gguf.read_file(path)
    their_config, files = gguf.config_json(file), gguf.GgufTensors(file)
    config = text.architecture(their_config, files)
    layout = text.layout(config)
    shapes = nn.unbox(boxed_shapes(config))
    check_fits(files, layout, shapes)
    tokenizer = _tokenizer(path.parent, config) or text_tokenizer(file.fields, path)
    if tokenizer is not None:
        _check_rows(tokenizer, config, path)
    prefixes = {"text_prefix": text.BASE_PREFIX}
    family = their_config["model_type"]
    return Source(
        files, "text", family, config, layout, shapes, their_config, prefixes, tokenizer, None, tuple(gguf.about(file))
    )


def _tokenizer(folder: Path, config: Any) -> TextTokenizer | None:
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        return None
    tokenizer = TextTokenizer.from_file(file)
    _check_rows(tokenizer, config, file)
    return tokenizer


def _check_rows(tokenizer: TextTokenizer, config: Any, file: Path) -> None:
    rows = config.vocab_size if isinstance(config, LanguageConfig) else config.text.vocab_size
    if tokenizer.base_vocab_size > rows:
        raise WeightsError(
            f"{file} has ids up to {tokenizer.base_vocab_size - 1}, the model's embedding {rows} rows: it is another "
            "model's tokenizer"
        )


def config_from_metadata(metadata: Mapping[str, Any]) -> Config:
    """Our shape, of the metadata of imported weights.

    Raises:
      WeightsError: they have another layout, or are of a kind that this code does not know.
    """
    version, kind = metadata.get("layout_version"), metadata.get("kind")
    if version != LAYOUT_VERSION or kind not in KINDS:
        raise WeightsError(
            f"these are weights of kind {kind!r} in layout version {version}; this code reads "
            f"{', '.join(KINDS)} in version {LAYOUT_VERSION}: import them again with `python -m launch.import_weights`"
        )
    values = with_tuples(metadata["architecture"])
    if kind == "vision":
        return CONFIGS.get(metadata["family"], VisionConfig)(**values)
    if kind == "contrastive":
        return ContrastiveConfig.from_dict(values)
    if kind == "codec":
        return CodecConfig(**values)
    return LanguageConfig(**{**values, "text": StackConfig(**values["text"])})


def module_of(config: Config) -> nn.Module:
    """The model of a shape."""
    if isinstance(config, LanguageConfig):
        return LanguageModel(config)
    if isinstance(config, CodecConfig):
        return Codec(config)
    if isinstance(config, ConvolutionalConfig):
        return config.build()
    return VisionTower(config) if isinstance(config, VisionConfig) else Contrastive(config)


def boxed_shapes(config: Config) -> PyTree:
    """Boxed `ShapeDtypeStruct`s of a model's parameters; computes nothing."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    pictures = lambda tower: jnp.zeros((1, *tower.image_px, tower.channels))
    inputs: tuple[Any, ...]
    if isinstance(config, LanguageConfig):
        inputs = (tokens,)
    elif isinstance(config, CodecConfig):
        inputs = (jnp.zeros((1, config.step_samples)),)
    elif isinstance(config, ConvolutionalConfig):
        inputs = (jnp.zeros((1, 32, 32, 3)),)  # any size: the parameters are the same
    elif isinstance(config, VisionConfig):
        inputs = (pictures(config),)
    else:
        inputs = (pictures(config.vision), tokens)
    return jax.eval_shape(module_of(config).init, jax.random.key(0), *inputs)["params"]
