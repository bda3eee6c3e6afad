"""Pictures as a client sends them."""

import cv2
import numpy as np


def encode(image: np.ndarray, quality: int | None = None) -> tuple[bytes, str]:
    """A picture as it is sent, and its codec.

    Args:
      image: uint8 [H, W, 3] RGB.
      quality: of a JPEG, 1 to 100; None sends a WebP without loss.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a picture must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    suffix, options = ".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]
    if quality is not None:
        suffix = ".jpg"
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    written, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not written:
        raise ValueError(f"OpenCV could not write a {suffix} of {image.shape[1]}×{image.shape[0]} pixels")
    return data.tobytes(), "webp" if quality is None else "jpeg"
