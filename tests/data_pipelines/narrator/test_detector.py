import numpy as np
import pytest

from data_pipelines.narrator.detector import (
    Detections,
    YoloxDetector,
    decode_yolox,
    gflop_of,
    iou,
    letterbox,
    read_labels,
    without_overlaps,
)
from data_pipelines.world.event_words import COCO_CLASSES

# Grids of 8x8, 4x4 and 2x2 cells.
SIDE_PX, ROWS = 64, 64 + 16 + 4


def test_raw_head_of_yolox():
    """One cell of each grid; centre, size and scores by hand."""
    head = np.zeros((ROWS, 5 + 3), np.float32)
    head[8 * 2 + 3] = [0.5, 0.25, np.log(2.0), np.log(4.0), 0.5, 0.1, 0.8, 0.0]  # stride 8, cell x=3 y=2
    head[64 + 4 * 1 + 2] = [0.0, 1.0, 0.0, 0.0, 1.0, 0.3, 0.0, 0.0]  # stride 16, x=2 y=1
    head[64 + 16 + 3] = [-0.5, 0.5, np.log(0.5), 0.0, 0.9, 0.0, 0.0, 1.0]  # stride 32, x=1 y=1
    boxes, scores = decode_yolox(head, SIDE_PX, SIDE_PX)
    assert boxes.shape == (ROWS, 4)
    assert scores.shape == (ROWS, 3)
    # In numbers that float32 holds but for the logarithms, so 1e-4 px.
    np.testing.assert_allclose(boxes[19], [28 - 8, 18 - 16, 28 + 8, 18 + 16], atol=1e-4)
    np.testing.assert_allclose(scores[19], [0.05, 0.4, 0.0], atol=1e-6)
    np.testing.assert_allclose(boxes[70], [32 - 8, 32 - 8, 32 + 8, 32 + 8], atol=1e-4)
    np.testing.assert_allclose(boxes[83], [16 - 8, 48 - 16, 16 + 8, 48 + 16], atol=1e-4)
    np.testing.assert_allclose(scores[83], [0.0, 0.0, 0.9], atol=1e-6)


def test_a_head_of_another_export_is_refused():
    with pytest.raises(ValueError, match=r"64x64 pixels has 84 rows of 5 \+ classes, got \[80, 8\].*decoded boxes"):
        decode_yolox(np.zeros((80, 8), np.float32), SIDE_PX, SIDE_PX)


def test_letterbox_keeps_the_shape_and_pads_below_and_right():
    picture = np.full((20, 40, 3), 7, np.uint8)
    fitted = letterbox(picture, 64, 64)
    assert fitted.scale == 1.6
    assert fitted.image.shape == (64, 64, 3)
    assert (fitted.image[:32] == 7).all()
    assert (fitted.image[32:] == 114).all()


def test_the_best_of_boxes_that_overlap():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]], np.float32)
    scores = np.array([[0.5, 0.0], [0.0, 0.7], [0.2, 0.1]], np.float32)
    assert iou(boxes[:1], boxes)[0].tolist() == pytest.approx([1.0, 90 / 110, 0.0])
    kept = without_overlaps(Detections(boxes, scores), 0.5)
    assert kept.boxes.tolist() == boxes[[1, 2]].tolist()  # whatever their classes, best first
    assert len(without_overlaps(Detections(boxes, scores), 0.9).boxes) == 3
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros((0, 2), np.float32))
    assert len(without_overlaps(empty, 0.5).boxes) == 0
    assert len(empty.above(0.1).boxes) == 0


def test_labels(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("person\n\n traffic light \n")
    assert read_labels(file) == ("person", "traffic light")
    file.write_text("person\nperson\n")
    with pytest.raises(ValueError, match="one class a line, each once"):
        read_labels(file)


def test_what_is_no_model(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra `teacher`")
    with pytest.raises(ValueError, match=r"'nowhere.onnx' is not there"):
        YoloxDetector("nowhere.onnx", COCO_CLASSES)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match="onnxruntime cannot load it"):
        YoloxDetector(tmp_path / "text.onnx", COCO_CLASSES)


def test_real_detector_on_a_real_picture(shared_dir):
    """YOLOX-Nano on the first picture of a road: cars, where there are cars."""
    pytest.importorskip("onnxruntime", reason="needs the extra `teacher`")
    from data_pipelines.geometry import rgb_of
    from data_pipelines.pictures import open_pictures

    real = shared_dir / "real"
    if not (real / "weights/yolox_nano/yolox_nano.onnx").is_file():
        pytest.skip("no YOLOX in `shared`")
    with pytest.raises(ValueError, match="the model has 80 classes, and 2 labels were given"):
        YoloxDetector(real / "weights/yolox_nano/yolox_nano.onnx", ("person", "car"))
    detector = YoloxDetector(real / "weights/yolox_nano/yolox_nano.onnx", COCO_CLASSES, score_min=0.4)
    pictures = open_pictures(real / "clips/bridge_highway.mp4", "bridge", threads=1)
    picture = rgb_of(next(pictures.shown()).frame)
    pictures.close()
    boxes, scores = detector(picture)
    assert {COCO_CLASSES[best] for best in scores.argmax(axis=1)} <= {"car", "truck", "bus"}
    assert len(boxes) >= 2
    height, width = picture.shape[:2]
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()


def test_operations_of_a_model(tmp_path):
    """A convolution with 3x3 kernels from 3 to 8 channels over 16x16 places, and a depthwise one."""
    onnx = pytest.importorskip("onnx", reason="needs the extra `teacher`")
    from onnx import TensorProto, helper

    def weights(name, *shape):
        return helper.make_tensor(name, TensorProto.FLOAT, shape, np.zeros(shape).ravel())

    nodes = [
        helper.make_node("Conv", ["x", "a"], ["y"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Conv", ["y", "b"], ["z"], pads=[1, 1, 1, 1], kernel_shape=[3, 3], group=8),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])
    result = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 8, 16, 16])
    graph = helper.make_graph(nodes, "two", [image], [result], [weights("a", 8, 3, 3, 3), weights("b", 8, 1, 3, 3)])
    onnx.save(helper.make_model(graph), tmp_path / "two.onnx")
    assert gflop_of(tmp_path / "two.onnx") == 2 * 16 * 16 * 8 * (27 + 9) / 1e9
