"""Pictures as a tower was trained to see them: resized, cropped, scaled and normalised as its reference does.

The arithmetic is Pillow's, on which the image processors of transformers rest: 8-bit pictures are resized across and
down in two passes, each with weights of 22 bits and a result of 8 bits (`ImagingResample`), so the outcome is the same
to the bit. Which pass comes first changes it: up to version 12 Pillow always goes across first, version 13 goes down
first where that takes away more than twice as many rows as the other takes columns (found by experiment: 2,500 sizes).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmduplex_jax.layers.resample import resize_matrix
from mmduplex_jax.typing import Bool, Float, Int32, UInt8

_WEIGHT_BITS = 22
_PILLOW_NUMBERS = {2: "bilinear", 3: "bicubic"}
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)


class PreprocessingError(ValueError):
    """A description of preprocessing, or a picture, that cannot be used; says what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What is done to a picture, in this order.

    Attributes:
      resize_to: height and width in px, whatever the proportions; or None.
      shortest_px: the shorter side, proportions kept; or None.
      max_patches: NaFlex: proportions nearly kept, as many patches of `patch_px` as fit in this number; or None.
      patch_px: side of a patch; for `max_patches` only.
      method: "bilinear" or "bicubic", with antialiasing.
      across_first: always resize across first, as Pillow did before version 13; its new order otherwise.
      crop_to: height and width in px of a crop from the middle, zeros where the picture is smaller; or None.
      scale: what 8-bit values are multiplied by.
      mean, std: an RGB channel, subtracted and divided by.
    """

    resize_to: tuple[int, int] | None = None
    shortest_px: int | None = None
    max_patches: int | None = None
    patch_px: int = 0
    method: str = "bicubic"
    across_first: bool = False
    crop_to: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, float, float] = _HALF
    std: tuple[float, float, float] = _HALF

    def __post_init__(self):
        sizes = [name for name in ("resize_to", "shortest_px", "max_patches") if getattr(self, name) is not None]
        if len(sizes) > 1:
            raise PreprocessingError(f"a picture is resized in one way, not by {' and '.join(sizes)}")
        if self.max_patches is not None and (self.patch_px < 1 or self.max_patches < 1):
            raise PreprocessingError(f"max_patches {self.max_patches} needs a patch_px, got {self.patch_px}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `dataclasses.asdict`, as a checkpoint's metadata holds it (JSON knows no tuples)."""
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**given)

    def picture(self, picture: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
        """Prepares one picture.

        Args:
          picture: RGB.

        Returns:
          float32.

        Raises:
          PreprocessingError: it is no 8-bit RGB picture.
        """
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise PreprocessingError(
                f"a picture is uint8 [H, W, 3] in RGB, this one is {picture.dtype} {list(picture.shape)}"
            )
        size = self.size_of(*picture.shape[:2])
        if size != picture.shape[:2]:
            picture = resize(picture, *size, self.method, across_first=self.across_first)
        if self.crop_to is not None:
            picture = center_crop(picture, *self.crop_to)
        scaled = (picture.astype(np.float64) * self.scale).astype(np.float32)
        return (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in px after resizing, before cropping."""
        if self.resize_to is not None:
            return self.resize_to
        if self.shortest_px is not None:
            longer = int(self.shortest_px * max(height, width) / min(height, width))
            return (self.shortest_px, longer) if height <= width else (longer, self.shortest_px)
        if self.max_patches is not None:
            return naflex_size(height, width, self.patch_px, self.max_patches)
        return height, width

    def patches(self, pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> "Patches":
        """Prepares pictures of any sizes for `VisionTower.from_patches`.

        Raises:
          PreprocessingError: this preprocessing has no `max_patches`.
        """
        if self.max_patches is None:
            raise PreprocessingError("lists of patches need a preprocessing with max_patches (NaFlex)")
        side = self.patch_px
        patches = np.zeros((len(pictures), self.max_patches, side * side * 3), np.float32)
        mask = np.zeros((len(pictures), self.max_patches), bool)
        grid = np.zeros((len(pictures), 2), np.int32)
        for i, picture in enumerate(map(self.picture, pictures)):
            rows, columns = picture.shape[0] // side, picture.shape[1] // side
            cut = picture.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(rows * columns, -1)
            patches[i, : len(cut)], mask[i, : len(cut)], grid[i] = cut, True, (rows, columns)
        return Patches(patches, grid, mask)


class Patches(NamedTuple):
    """Padded lists of patches, in the order of `VisionTower.from_patches`.

    Attributes:
      patches: float32 `[B, P, patch_px² · 3]`, zeros where there is none.
      grid: int32 `[B, 2]`, rows and columns.
      mask: bool `[B, P]`.
    """

    patches: Float[np.ndarray, "B P patch"]
    grid: Int32[np.ndarray, "B 2"]
    mask: Bool[np.ndarray, "B P"]


def resize(
    picture: UInt8[np.ndarray, "H W C"], height: int, width: int, method: str, *, across_first: bool = False
) -> UInt8[np.ndarray, "H W C"]:
    """Resizes an 8-bit picture as Pillow does.

    Args:
      picture: any number of channels.
      height: in px.
      width: in px.
      method: "bilinear" or "bicubic".
      across_first: as Pillow before version 13 (see the module's docstring).
    """
    rows, columns = picture.shape[:2]
    if not across_first and rows > height and rows - height > 2 * (columns - width):
        return _across(_down(picture, height, method), width, method)
    return _down(_across(picture, width, method), height, method)


def _across(picture: np.ndarray, width: int, method: str) -> np.ndarray:
    return _down(picture.swapaxes(0, 1), width, method).swapaxes(0, 1)


def _down(picture: np.ndarray, size: int, method: str) -> np.ndarray:
    if picture.shape[0] == size:
        return picture
    weights = resize_matrix(picture.shape[0], size, method, True) * (1 << _WEIGHT_BITS)
    weights = np.trunc(weights + np.copysign(0.5, weights))
    # Integers below 2^53 add up exactly in float64, in any order, and BLAS is fast at it.
    total = weights @ picture.reshape(picture.shape[0], -1).astype(np.float64)
    rounded = np.floor((total + (1 << (_WEIGHT_BITS - 1))) / (1 << _WEIGHT_BITS))
    return np.clip(rounded, 0, 255).astype(np.uint8).reshape(size, *picture.shape[1:])


def center_crop(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of a picture; zeros where it is smaller than the crop (the odd pixel as in transformers)."""
    for axis, size in enumerate((height, width)):
        have = picture.shape[axis]
        if have < size:
            before = math.ceil((size - have) / 2)
            padding = [(0, 0)] * picture.ndim
            padding[axis] = (before, size - have - before)
            picture = np.pad(picture, padding)
        else:
            first = (have - size) // 2
            picture = np.take(picture, range(first, first + size), axis=axis)
    return picture


def naflex_size(height: int, width: int, patch_px: int, max_patches: int) -> tuple[int, int]:
    """Height and width in px for at most `max_patches` patches, proportions kept but for rounding up to patches.

    The factor is found by halving an interval to 1e-5, as SigLIP 2's processor does: another way of finding it would
    at times round to another number of patches.
    """
    up = lambda size, factor: max(patch_px, math.ceil(size * factor / patch_px) * patch_px)
    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        if up(height, middle) / patch_px * (up(width, middle) / patch_px) <= max_patches:
            low = middle
        else:
            high = middle
    return up(height, low), up(width, low)


def from_processor(json: Mapping[str, Any]) -> Preprocessing:
    """Reads a `preprocessor_config.json` of transformers (CLIP, SigLIP, SigLIP 2 and their like).

    Raises:
      PreprocessingError: it asks for something that is not done here.
    """
    kind = str(json.get("image_processor_type", json.get("feature_extractor_type", "")))
    naflex = kind.startswith("Siglip2")
    clip = kind.startswith("CLIP")
    if not (naflex or clip or kind.startswith("Siglip")):
        needed = ("size", "resample", "image_mean", "image_std", "do_center_crop")
        unsaid = [key for key in needed if key not in json]
        if unsaid:
            raise PreprocessingError(f"preprocessing by {kind or 'an unnamed processor'} must say {unsaid}")
    number = json.get("resample", 2 if naflex else 3)
    if number not in _PILLOW_NUMBERS:
        raise PreprocessingError(f"preprocessing with resample {number!r} is not done; known are {_PILLOW_NUMBERS}")
    mean, std = (_CLIP_MEAN, _CLIP_STD) if clip else (_HALF, _HALF)
    normalize = json.get("do_normalize", True)
    given: dict[str, Any] = {
        "method": _PILLOW_NUMBERS[number],
        "scale": float(json.get("rescale_factor", 1 / 255)) if json.get("do_rescale", True) else 1.0,
        "mean": _channels(json.get("image_mean") or mean) if normalize else (0.0, 0.0, 0.0),
        "std": _channels(json.get("image_std") or std) if normalize else (1.0, 1.0, 1.0),
    }
    if naflex:
        given |= {"max_patches": int(json.get("max_num_patches", 256)), "patch_px": int(json.get("patch_size", 16))}
    elif json.get("do_resize", True):
        size = json.get("size", {"shortest_edge": 224} if clip else {"height": 224, "width": 224})
        if isinstance(size, int):  # before transformers 4.22
            size = {"shortest_edge": size} if clip else {"height": size, "width": size}
        if set(size) == {"shortest_edge"}:
            given["shortest_px"] = int(size["shortest_edge"])
        elif set(size) == {"height", "width"}:
            given["resize_to"] = (int(size["height"]), int(size["width"]))
        else:
            raise PreprocessingError(
                f"preprocessing to size {dict(size)} is not done: height and width, or shortest_edge"
            )
    if json.get("do_center_crop", clip):
        crop = json.get("crop_size", 224)
        given["crop_to"] = (crop, crop) if isinstance(crop, int) else (int(crop["height"]), int(crop["width"]))
    return Preprocessing(**given)


def to_processor(preprocessing: Preprocessing) -> dict[str, Any]:
    """A `preprocessor_config.json` from which transformers, and `from_processor`, prepare pictures in the same way.

    The order of Pillow's passes (`across_first`) is the installed Pillow's and cannot be said.

    Raises:
      PreprocessingError: it is what no processor of transformers does.
    """
    given: dict[str, Any] = {
        "do_resize": preprocessing.resize_to is not None or preprocessing.shortest_px is not None,
        "resample": next(number for number, name in _PILLOW_NUMBERS.items() if name == preprocessing.method),
        "do_rescale": preprocessing.scale != 1.0,
        "rescale_factor": preprocessing.scale,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
        "do_convert_rgb": True,
    }
    sized = lambda size: {"height": size[0], "width": size[1]}
    if preprocessing.max_patches is not None:
        if preprocessing.crop_to is not None:
            raise PreprocessingError("no processor of transformers cuts a crop into as many patches as fit (NaFlex)")
        given |= {"patch_size": preprocessing.patch_px, "max_num_patches": preprocessing.max_patches}
        return {"image_processor_type": "Siglip2ImageProcessor", **given, "do_resize": True}
    if preprocessing.shortest_px is not None:
        given["size"] = {"shortest_edge": preprocessing.shortest_px}
    elif preprocessing.resize_to is not None:
        given["size"] = sized(preprocessing.resize_to)
    if preprocessing.crop_to is None and preprocessing.shortest_px is None:
        return {"image_processor_type": "SiglipImageProcessor", **given}
    given["do_center_crop"] = preprocessing.crop_to is not None
    if preprocessing.crop_to is not None:
        given["crop_size"] = sized(preprocessing.crop_to)
    return {"image_processor_type": "CLIPImageProcessor", **given}


def from_timm(json: Mapping[str, Any]) -> Preprocessing:
    """Reads the `pretrained_cfg` of a timm model's `config.json`.

    Raises:
      PreprocessingError: it asks for something that is not done here.
    """
    method, mode = json.get("interpolation", "bicubic"), json.get("crop_mode", "center")
    if method not in _PILLOW_NUMBERS.values():
        raise PreprocessingError(f"interpolation {method!r} is not done; known are {list(_PILLOW_NUMBERS.values())}")
    height, width = (int(side) for side in json["input_size"][-2:])
    fraction = float(json.get("crop_pct", 1.0))
    given: dict[str, Any] = {"method": method, "mean": _channels(json["mean"]), "std": _channels(json["std"])}
    if mode == "squash":
        given["resize_to"] = (math.floor(height / fraction), math.floor(width / fraction))
    elif mode == "center" and height == width:
        given["shortest_px"] = math.floor(height / fraction)
    else:
        raise PreprocessingError(f"crop_mode {mode!r} for {height}x{width} px is not done")
    return Preprocessing(crop_to=(height, width), **given)


def _channels(value: Any) -> tuple[float, float, float]:
    if len(value) != 3:
        raise PreprocessingError(f"a mean or std an RGB channel is three numbers, got {value}")
    red, green, blue = (float(v) for v in value)
    return red, green, blue
