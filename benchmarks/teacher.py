"""How good is the teacher that narrates videos? As it makes training data (`narrated`), and live, as a control.

    python -m benchmarks.teacher --root=LABELLED --detector=yolox_nano.onnx
    python -m benchmarks.teacher --root=LABELLED --detector=yolox_nano.onnx --half=1 --json=teacher.json

LABELLED has clips.jsonl and its videos (docs/real.md), which also says how they are scored; only clips that a person
has checked are. `--half` takes the cameras whose names have an even or odd CRC-32: thresholds were set on half 0.

Both see every picture in turn. Narrated, a phrase has the time at which the event happened; live, that at which it was
certain.
"""

import argparse
import sys
import time
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipelines.labelled_videos import LabelledVideo, LabelledVideos, read_labelled_videos
from data_pipelines.narrator.detector import Detections, Detector, YoloxDetector, read_labels
from data_pipelines.narrator.teacher import LiveTeacher, TeacherSettings, classes_with, event_of, narrate
from data_pipelines.world import event_words
from mmduplex_jax.evals.events import Phrase
from mmduplex_jax.evals.real_events import LabelledClip, format_real_events, score_real_events
from mmduplex_jax.evals.report import cell
from mmduplex_jax.real_videos import watch_control
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, listed, run_main, show

HALVES = (0, 1)
MODES = ("narrated", "live")


class Metered:
    """A detector that counts the seconds of a core that it takes, whatever else the machine does.

    Attributes:
      labels, gflop: of the detector.
      cpu_s: so far.
    """

    def __init__(self, detector: Detector):
        self._detector, self.labels, self.gflop = detector, detector.labels, detector.gflop
        self.cpu_s = 0.0

    def __call__(self, picture: np.ndarray) -> Detections:
        began_s = time.thread_time()
        detections = self._detector(picture)
        self.cpu_s += time.thread_time() - began_s
        return detections


def of_half(videos: LabelledVideos, half: int | None) -> Sequence[LabelledVideo]:
    """The videos of a half of the cameras, or all."""
    if half is None:
        return videos.videos
    return [video for video in videos.videos if zlib.crc32(video.camera.encode()) % len(HALVES) == half]


def narrated(video: LabelledVideo, detector: Detector) -> LabelledClip:
    """What the teacher says of a video as it makes training data of it."""
    narration = narrate(video.path, video.name, detector, TeacherSettings())
    events = [event_of(one, classes_with(detector.labels)) for one in narration.happenings]
    said = [Phrase(one.attributes, one.t_s, " ".join(event_words.phrase(one))) for one in events]
    return LabelledClip(video.name, narration.duration_s, video.events, said, video.view, video.camera)


def measure(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The report of each mode."""
    videos = read_labelled_videos(args.root)
    chosen = of_half(videos, args.half)
    detector = YoloxDetector(args.detector, read_labels(args.labels) if args.labels else event_words.COCO_CLASSES)
    reports: dict[str, dict[str, Any]] = {}
    for mode in args.modes:
        metered = Metered(detector)
        live = LiveTeacher(metered)
        clips = []
        for video in tqdm(chosen, unit="video", desc=mode, disable=None, file=sys.stderr):
            if mode == "narrated":
                clips.append(narrated(video, detector))
                continue
            watched = watch_control(live, video, videos.classes)
            clips.append(
                LabelledClip(video.name, watched.duration_s, video.events, watched.said, video.view, video.camera)
            )
        reports[mode] = score_real_events(clips, classes=videos.classes)
        if mode == "live":
            duration_s = sum(clip.duration_s for clip in clips)
            reports[mode] |= {
                "gflop_per_s": None if live.gflop is None else live.gflop / duration_s,
                "detector_ms_per_s": 1000 * metered.cpu_s / duration_s,
            }
    return reports


def work(args: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    reports, lines = measure(args), []
    for mode, report in reports.items():
        lines.append(f"## teacher, {mode}\n\n{format_real_events(report, mode)}\n")
        if "gflop_per_s" in report:
            gflop, cpu_ms = cell(report["gflop_per_s"], ".2f"), report["detector_ms_per_s"]
            lines.append(f"{gflop} GFLOP a second of video; the detector takes {cpu_ms:.0f} ms of a core for it\n")
    show(args, reports, "\n".join(lines))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.teacher", __doc__)
    add = flags.add_argument
    add("--root", required=True, metavar="DIR", help="a folder with clips.jsonl and the videos that it labels")
    add("--detector", required=True, metavar="FILE.onnx", help="a YOLOX with a raw head")
    add("--labels", metavar="FILE", help="its classes, one a line (default: COCO's)")
    add("--half", type=int, choices=HALVES, help="only cameras whose name's CRC-32 is even (0) or odd (1)")
    add("--modes", type=listed(among=MODES), default=",".join(MODES), help="which (default: %(default)s)")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2, OSError: 2, ImportError: 2})


if __name__ == "__main__":
    sys.exit(main())
