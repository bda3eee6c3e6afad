"""Vision towers and contrastive pairs in a Hugging Face directory: which architecture it is, and which tensor is which.

CLIP, SigLIP and SigLIP 2 in the names of transformers, with `vision_model.` before them or flat; PE-Core in its own
names and in timm's.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmduplex_jax.towers.contrastive import ContrastiveConfig
from mmduplex_jax.towers.preprocessing import Preprocessing, from_processor, from_timm
from mmduplex_jax.towers.vision import VisionConfig
from mmduplex_jax.weights.huggingface import clip_family, perception_encoder
from mmduplex_jax.weights.huggingface.layout import Layout
from mmduplex_jax.weights.huggingface.reader import TensorFiles, WeightsError

KINDS = ("vision", "contrastive")
FAMILIES = (*clip_family.FAMILIES, *perception_encoder.FAMILIES)
_VISION_SUFFIX = "_vision_model"
_VISUAL_PROJECTION = "visual_projection.weight"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a directory holds.

    Attributes:
      kind: "vision" (`config` is a `VisionConfig`, the model a `VisionTower`) or "contrastive" (`ContrastiveConfig`,
        `Contrastive`).
      family: in whose names and arithmetic: one of `FAMILIES`.
      vision_prefix, text_prefix: what their names of a tower start with.
      others: whether tensors beside the vision tower are there that are not read, as only that tower was asked for.
    """

    kind: str
    family: str
    config: VisionConfig | ContrastiveConfig
    vision_prefix: str = ""
    text_prefix: str = ""
    others: bool = False

    @property
    def vision(self) -> VisionConfig:
        return self.config.vision if isinstance(self.config, ContrastiveConfig) else self.config


def reads(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is of an architecture of this file."""
    return _family(config) is not None


def _family(config: Mapping[str, Any]) -> str | None:
    kind = str(config.get("model_type", ""))
    if kind.removesuffix(_VISION_SUFFIX) in clip_family.FAMILIES:
        return kind.removesuffix(_VISION_SUFFIX)
    return perception_encoder.family_of(config)


def architecture(config: Mapping[str, Any], files: TensorFiles, *, only_vision: bool = False) -> Architecture:
    """Our shape of what a directory holds.

    Args:
      config: its `config.json`.
      files: its tensors: their names tell the prefixes, and which parts are there.
      only_vision: take the vision tower alone of a contrastive pair (with CLIP's projection).

    Raises:
      WeightsError: no architecture of this file, or a field of it that is not computed here.
    """
    family = _family(config)
    if family is None:
        raise WeightsError(
            f"{files.path}: neither model_type {config.get('model_type')!r} nor architecture "
            f"{config.get('architecture')!r} is read; vision towers read are {', '.join(FAMILIES)}"
        )
    try:
        if family in clip_family.FAMILIES:
            return _clip_family(family, config, files, only_vision)
        return _perception_encoder(family, config, files, only_vision)
    except WeightsError as error:
        raise WeightsError(f"{files.path}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{files.path}: config.json is not of {family}: {error}") from error


def _clip_family(family: str, config: Mapping[str, Any], files: TensorFiles, only_vision: bool) -> Architecture:
    alone = str(config["model_type"]).endswith(_VISION_SUFFIX)
    vision_prefix = _prefix(files, clip_family.VISION_ANCHOR)
    if not alone and not only_vision:
        both = clip_family.contrastive_config(family, config)
        return Architecture("contrastive", family, both, vision_prefix, _prefix(files, clip_family.TEXT_ANCHOR))
    if alone:
        projected = _VISUAL_PROJECTION in files
        width = (config.get("projection_dim") or files.shape(_VISUAL_PROJECTION)[0]) if projected else 0
        tower = clip_family.vision_config(family, config, width)
    else:
        tower = clip_family.contrastive_config(family, config).vision
    return Architecture("vision", family, tower, vision_prefix, others=not alone)


def _perception_encoder(family: str, config: Mapping[str, Any], files: TensorFiles, only_vision: bool) -> Architecture:
    vision_prefix = _prefix(files, perception_encoder.VISION_ANCHORS[family])
    if family == "pe_timm":
        return Architecture("vision", family, perception_encoder.timm_vision(config), vision_prefix, others=only_vision)
    text = any(name.endswith(perception_encoder.TEXT_ANCHOR) for name in files.names)
    if only_vision or not text:
        return Architecture("vision", family, perception_encoder.native_vision(config), vision_prefix, others=text)
    both = perception_encoder.native_contrastive(config)
    return Architecture("contrastive", family, both, vision_prefix, _prefix(files, perception_encoder.TEXT_ANCHOR))


def _prefix(files: TensorFiles, anchor: str) -> str:
    """What stands before a tensor that every tower of a family has, so before all of the tower's."""
    found = [name.removesuffix(anchor) for name in files.names if name == anchor or name.endswith(f".{anchor}")]
    if len(found) != 1:
        there = f"{len(found)} tensors" if found else "no tensor"
        raise WeightsError(f"there is {there} named (…){anchor}: are these the weights of this config.json?")
    return found[0]


def layout(of: Architecture) -> Layout:
    """The tensors of an architecture, for `layout.read_params` and `layout.write_params`."""
    if isinstance(of.config, ContrastiveConfig):
        if of.family == "pe":
            return perception_encoder.native_contrastive_layout(of.config, of.vision_prefix, of.text_prefix)
        return clip_family.contrastive_layout(of.family, of.config, of.vision_prefix, of.text_prefix)
    if of.family == "pe":
        found = perception_encoder.native_layout(of.config, of.vision_prefix)
    elif of.family == "pe_timm":
        found = perception_encoder.timm_layout(of.config, of.vision_prefix)
    else:
        found = clip_family.vision_layout(of.family, of.config, of.vision_prefix)
        if of.config.projection:
            found += Layout(tuple(clip_family.projection("", _VISUAL_PROJECTION.removesuffix(".weight"))))
    if not of.others:
        return found
    elsewhere = rf"(?!{re.escape(of.vision_prefix)}).*" if of.vision_prefix else _PE_TEXT
    return Layout(found.entries, (*found.ignored, elsewhere))


# Where the vision tower's names have no prefix of their own, the text tower's are these.
_PE_TEXT = r"(token_embedding|ln_final)\..*|text_projection|logit_scale|attn_mask"


def exported(config: VisionConfig | ContrastiveConfig, family: str | None = None) -> Architecture:
    """The architecture in which towers of ours go out, in the names that its own library writes.

    Args:
      family: one of `FAMILIES`; where None the first that computes the same.

    Raises:
      WeightsError: no such family computes what this config does.
    """
    kind = "contrastive" if isinstance(config, ContrastiveConfig) else "vision"
    for candidate in FAMILIES if family is None else (family,):
        if candidate not in FAMILIES:
            raise WeightsError(f"family is one of {', '.join(FAMILIES)}, not {candidate!r}")
        if candidate == "pe":
            prefixes = ("visual.", "")
        else:
            prefixes = ("" if candidate == "pe_timm" else "vision_model.", "text_model.")
        prefixes = prefixes if kind == "contrastive" or candidate != "pe" else ("", "")
        found = Architecture(kind, candidate, config, *prefixes)
        if _same_again(found):
            return found
    wanted = "no family" if family is None else f"{family} does not"
    raise WeightsError(f"{wanted} compute{'s' if family is None else ''} what this config does: {config}")


def _same_again(of: Architecture) -> bool:
    """Whether the config that would be written is read as the one that is there."""
    plain = dataclasses.replace(of.vision, remat=False, dtype="float32")
    wanted: VisionConfig | ContrastiveConfig = plain
    try:
        values = config_json(of)
        again: VisionConfig | ContrastiveConfig
        if isinstance(of.config, ContrastiveConfig):
            wanted = _without_start(
                dataclasses.replace(
                    of.config, vision=plain, text=dataclasses.replace(of.config.text, remat=False, dtype="float32")
                )
            )
            if of.family == "pe":
                again = perception_encoder.native_contrastive(values)
            else:
                again = clip_family.contrastive_config(of.family, values)
            again = _without_start(again)
        elif of.family == "pe":
            again = perception_encoder.native_vision(values)
        elif of.family == "pe_timm":
            again = perception_encoder.timm_vision(values)
        else:
            again = clip_family.vision_config(of.family, values, plain.projection)
    except ValueError:
        return False
    return _explicit(again) == _explicit(wanted)


def _without_start(config: ContrastiveConfig) -> ContrastiveConfig:
    """Scale and bias at first are of no matter to weights, but that there is a bias is."""
    return dataclasses.replace(config, scale_init=0.0, bias_init=None if config.bias_init is None else 0.0)


def _explicit(config: VisionConfig | ContrastiveConfig) -> VisionConfig | ContrastiveConfig:
    """Defaults that stand for other fields written out, and how other sizes are met left out."""
    if isinstance(config, ContrastiveConfig):
        return dataclasses.replace(config, vision=_explicit_vision(config.vision))
    return _explicit_vision(config)


def _explicit_vision(config: VisionConfig) -> VisionConfig:
    return dataclasses.replace(
        config,
        positions="naflex" if config.positions == "naflex" else "fixed",
        pool_heads=config.pool_heads or config.heads,
        pool_hidden=config.pool_hidden or config.hidden,
    )


def config_json(of: Architecture) -> dict[str, Any]:
    """The `config.json` of an architecture, as its own library reads it.

    Raises:
      WeightsError: the family has no such config.
    """
    if of.family == "pe":
        return perception_encoder.native_json(of.config)
    if of.family == "pe_timm":
        if isinstance(of.config, ContrastiveConfig):
            raise WeightsError("timm has vision towers only: export the pair as 'pe'")
        return perception_encoder.timm_json(of.config)
    if isinstance(of.config, ContrastiveConfig):
        return clip_family.contrastive_json(of.family, of.config)
    return clip_family.vision_json(of.family, of.config)


def preprocessing(folder: str | Path, config: Mapping[str, Any], of: Architecture) -> Preprocessing | None:
    """How a directory says that pictures are prepared; None where it does not say.

    It is said by `preprocessor_config.json`, by `processor_config.json` (of newer versions of transformers), by timm's
    `config.json`; for PE's own names by its published code: squashed to the size, bilinear.

    Raises:
      PreprocessingError: it asks for something that is not done here.
      WeightsError: one of these files is damaged.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = Path(folder) / name
        if file.is_file():
            try:
                values = json.loads(file.read_text(encoding="utf-8"))
                values = values.get("image_processor", values)
            except (ValueError, AttributeError) as error:
                raise WeightsError(f"{file} is no JSON object: fetch it again") from error
            if "image_processor_type" in values or "feature_extractor_type" in values:
                return from_processor(values)
    if of.family == "pe_timm" and "pretrained_cfg" in config:
        return from_timm(config["pretrained_cfg"])
    if of.family == "pe":
        return Preprocessing(resize_to=of.vision.image_px, method="bilinear")
    return None
