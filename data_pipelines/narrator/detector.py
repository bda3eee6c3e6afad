"""Detectors: a picture to boxes with a score for each class. YOLOX from an ONNX file; others by the same interface."""

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from data_pipelines.world.event_words import COCO_CLASSES

# What YOLOX pads pictures with, and the strides of its three scales.
_PAD = 114
_STRIDES = (8, 16, 32)
_INSTALL = "pip install 'mmduplex-jax[teacher]'"


class Detections(NamedTuple):
    """What a detector sees in one picture.

    Attributes:
      boxes: float32 [N, 4], left, top, right, bottom in pixels of the picture.
      scores: float32 [N, C], of each class, 0 to 1.
    """

    boxes: np.ndarray
    scores: np.ndarray

    def above(self, score_min: float) -> "Detections":
        """Those whose best class has at least this score."""
        kept = self.scores.max(axis=1, initial=0.0) >= score_min
        return Detections(self.boxes[kept], self.scores[kept])


class Detector(Protocol):
    """Anything that detects: a function with its labels and its cost."""

    @property
    def labels(self) -> Sequence[str]:
        """The classes, in the order of the scores."""

    @property
    def gflop(self) -> float | None:
        """Floating-point operations a picture, in thousand millions; None where it is not known."""

    def __call__(self, picture: np.ndarray) -> Detections:
        """What is in a picture, uint8 [H, W, 3] RGB."""


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """How a picture is fitted into a detector's input: shrunk or enlarged, at the top left, the rest padded.

    Attributes:
      scale: pixels of the input for one of the picture.
      image: uint8 [H, W, 3], the input.
    """

    scale: float
    image: np.ndarray


def letterbox(picture: np.ndarray, height_px: int, width_px: int) -> Letterbox:
    """Fits a picture into `[height_px, width_px]`."""
    height, width = picture.shape[:2]
    scale = min(height_px / height, width_px / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = np.full((height_px, width_px, 3), _PAD, np.uint8)
    image[: size[1], : size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
    return Letterbox(scale, image)


def decode_yolox(head: np.ndarray, height_px: int, width_px: int) -> Detections:
    """The raw head of YOLOX as boxes in pixels of its input, before overlapping ones are removed.

    Args:
      head: float32 [A, 5 + C], a row for each cell of the grids with strides 8, 16 and 32, row by row: the centre as an
        offset in cells, the logarithm of the size in cells, the objectness and the classes as probabilities.
      height_px, width_px: of the input.

    Raises:
      ValueError: the head has not as many rows as the grids have cells.
    """
    cells, strides = [], []
    for stride in _STRIDES:
        rows, columns = height_px // stride, width_px // stride
        y, x = np.mgrid[:rows, :columns]
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((rows * columns, 1), stride))
    cell, stride_px = np.concatenate(cells), np.concatenate(strides)
    if head.ndim != 2 or len(head) != len(cell) or head.shape[1] < 6:
        raise ValueError(
            f"a raw YOLOX head for {width_px}x{height_px} pixels has {len(cell)} rows of 5 + classes, got "
            f"{list(head.shape)}; was the model exported with decoded boxes, or for another size?"
        )
    centre = (head[:, :2] + cell) * stride_px
    half = np.exp(head[:, 2:4]) * stride_px / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    return Detections(boxes.astype(np.float32), (head[:, 4:5] * head[:, 5:]).astype(np.float32))


def without_overlaps(detections: Detections, iou_max: float) -> Detections:
    """The best of boxes that overlap by more than `iou_max`, whatever their classes, best first."""
    best = detections.scores.max(axis=1, initial=0.0)
    order = np.argsort(-best, kind="stable")
    kept: list[int] = []
    while len(order):
        first, others = order[0], order[1:]
        kept.append(int(first))
        order = others[iou(detections.boxes[first : first + 1], detections.boxes[others])[0] <= iou_max]
    return Detections(detections.boxes[kept], detections.scores[kept])


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The intersection over union of boxes `[N, 4]` with boxes `[M, 4]`, as `[N, M]`."""
    overlap = intersection(a, b)
    union = area(a)[:, None] + area(b)[None] - overlap
    return overlap / np.maximum(union, 1e-9)


def intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The area that boxes `[N, 4]` share with boxes `[M, 4]`, as `[N, M]`."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.prod(np.clip(high - low, 0.0, None), axis=-1)


def area(boxes: np.ndarray) -> np.ndarray:
    """The areas of boxes `[N, 4]`."""
    return np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None), axis=-1)


class YoloxDetector:
    """YOLOX from an ONNX file with a raw head (`decode_yolox`); the input is BGR, 0 to 255.

    Attributes:
      labels: the classes.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        labels: Sequence[str],
        *,
        score_min: float = 0.1,
        iou_max: float = 0.5,
        threads: int = 1,
    ):
        """Loads the model.

        Args:
          file: ONNX.
          labels: the classes, in the order of the head.
          score_min: weaker detections are left out.
          iou_max: of two boxes that overlap more, the weaker one is left out.
          threads: that run it.

        Raises:
          ValueError: the file is no ONNX model, has other inputs or outputs, or another number of classes.
          ImportError: onnxruntime is not installed.
        """
        self.labels, self._file = tuple(labels), file
        self._score_min, self._iou_max = score_min, iou_max
        self._session = _onnx_session(file, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(outputs) != 1 or len(shape) != 4 or not all(isinstance(n, int) for n in shape[2:]):
            raise ValueError(
                f"{file}: YOLOX has one input [1, 3, H, W] of a fixed size and one output, this has {shape}"
            )
        self._input, (self._height_px, self._width_px) = inputs[0].name, shape[2:]
        classes = outputs[0].shape[-1]
        if isinstance(classes, int) and classes != 5 + len(labels):
            raise ValueError(f"{file}: the model has {classes - 5} classes, and {len(labels)} labels were given")

    @functools.cached_property
    def gflop(self) -> float:
        """Of the convolutions and matrix products of a picture, counted in the model; ImportError without `onnx`."""
        return gflop_of(self._file)

    def __call__(self, picture: np.ndarray) -> Detections:
        fitted = letterbox(picture, self._height_px, self._width_px)
        pixels = np.ascontiguousarray(fitted.image[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)
        (head,) = self._session.run(None, {self._input: pixels})
        detections = decode_yolox(head[0], self._height_px, self._width_px).above(self._score_min)
        detections = without_overlaps(detections, self._iou_max)
        boxes = detections.boxes / fitted.scale
        height, width = picture.shape[:2]
        return Detections(np.clip(boxes, 0.0, [width, height, width, height]).astype(np.float32), detections.scores)


def yolox(config: Mapping[str, Any]) -> YoloxDetector:
    """The detector of a configuration: `file`, `labels` (a file, "" for COCO's), `score_min`, `iou_max`.

    Raises:
      ValueError: a value is missing, or no model of these classes.
      OSError: the labels cannot be read.
      ImportError: onnxruntime is not installed.
    """
    if not config["file"]:
        raise ValueError("give the detector as --config.detector.file=FILE.onnx, a YOLOX with a raw head")
    labels = read_labels(config["labels"]) if config["labels"] else COCO_CLASSES
    return YoloxDetector(config["file"], labels, score_min=config["score_min"], iou_max=config["iou_max"])


def read_labels(file: str | os.PathLike[str]) -> tuple[str, ...]:
    """The classes in a text file, one a line.

    Raises:
      ValueError: it has none, or one twice.
      OSError: it cannot be read.
    """
    labels = tuple(line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip())
    if not labels or len(set(labels)) != len(labels):
        raise ValueError(f"{file}: a list of labels has one class a line, each once; this has {len(labels)} lines")
    return labels


def gflop_of(file: str | os.PathLike[str]) -> float:
    """Operations of an ONNX model's convolutions and matrix products, in billions; a multiply-add is two.

    Raises:
      ImportError: `onnx` is not installed.
      ValueError: a shape in it is not fixed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(f"counting the operations of an ONNX file needs onnx: {_INSTALL}") from error
    graph = onnx.shape_inference.infer_shapes(onnx.load(os.fspath(file))).graph
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    for one in (*graph.input, *graph.value_info, *graph.output):
        shapes[one.name] = tuple(axis.dim_value for axis in one.type.tensor_type.shape.dim)
    operations = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm"):
            continue
        weights, result = shapes.get(node.input[1], (0,)), shapes.get(node.output[0], (0,))
        if 0 in (*weights, *result):
            raise ValueError(f"{file}: {node.op_type} {node.name!r} has no fixed shape, so nobody can count it")
        # A value of the result is a sum over a kernel, or over the inner axis of a product.
        summed = math.prod(weights[1:]) if node.op_type == "Conv" else shapes[node.input[0]][-1]
        operations += 2 * math.prod(result) * summed
    return operations / 1e9


def _onnx_session(file: str | os.PathLike[str], threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"a detector from an ONNX file needs onnxruntime: {_INSTALL}") from error
    if not os.path.isfile(file):
        raise ValueError(f"the detector's file {os.fspath(file)!r} is not there")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors; warnings are about unused initializers
    try:
        return onnxruntime.InferenceSession(os.fspath(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no public base
        raise ValueError(f"{file}: onnxruntime cannot load it: {error}") from error
