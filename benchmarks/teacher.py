"""How good is the teacher that narrates videos? Looking ahead, as it makes training data, and live, as a control.

    python -m benchmarks.teacher --root=LABELLED --detector=yolox_nano.onnx
    python -m benchmarks.teacher --root=LABELLED --detector=yolox_nano.onnx --half=1 --json=teacher.json

LABELLED has clips.jsonl and its videos (docs/real.md), which also says how they are scored; only clips that a person
has checked are. `--half` takes the cameras whose names have an even or odd CRC-32: thresholds were set on half 0.

Live, the teacher sees every picture in turn, and a phrase counts from the moment at which it was certain.
"""

import argparse
import sys
import zlib
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from data_pipelines.labelled_videos import LabelledVideo, LabelledVideos, read_labelled_videos
from data_pipelines.narrator.detector import YoloxDetector, read_labels
from data_pipelines.narrator.teacher import LiveTeacher, TeacherSettings, classes_with, event_of, narrate
from data_pipelines.world import event_words
from mmduplex_jax.evals.events import Phrase
from mmduplex_jax.evals.real_events import LabelledClip, format_real_events, score_real_events
from mmduplex_jax.real_videos import watch_control
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, write_json

HALVES = (0, 1)
MODES = ("ahead", "live")


def of_half(videos: LabelledVideos, half: int | None) -> Sequence[LabelledVideo]:
    """The videos of a half of the cameras, or all."""
    if half is None:
        return videos.videos
    return [video for video in videos.videos if zlib.crc32(video.camera.encode()) % len(HALVES) == half]


def looking_ahead(video: LabelledVideo, detector: YoloxDetector) -> LabelledClip:
    """What the teacher says of a video when it may look ahead."""
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
    for mode in args.modes.split(","):
        live = LiveTeacher(detector)
        clips, busy_s, gflop = [], 0.0, 0.0
        for video in tqdm(chosen, unit="video", desc=mode, disable=None, file=sys.stderr):
            if mode == "ahead":
                clips.append(looking_ahead(video, detector))
                continue
            watched = watch_control(live, video, videos.classes)
            busy_s, gflop = busy_s + watched.busy_s, gflop + (watched.gflop or 0.0)
            clips.append(
                LabelledClip(video.name, watched.duration_s, video.events, watched.said, video.view, video.camera)
            )
        reports[mode] = score_real_events(clips, classes=videos.classes)
        if mode == "live":
            duration_s = sum(clip.duration_s for clip in clips)
            reports[mode] |= {"gflop_per_s": gflop / duration_s, "ms_per_s": 1000 * busy_s / duration_s}
    return reports


def work(args: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    unknown = sorted(set(args.modes.split(",")) - set(MODES))
    if unknown:
        raise ValueError(f"--modes={args.modes}: {unknown[0]!r} is none of {MODES}")
    reports = measure(args)
    for mode, report in reports.items():
        print(f"## teacher, {mode}\n\n{format_real_events(report, mode)}\n")
        if "gflop_per_s" in report:
            print(f"{report['gflop_per_s']:.2f} GFLOP and {report['ms_per_s']:.0f} ms a second of video\n")
    write_json(args.json, reports)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.teacher", __doc__)
    add = flags.add_argument
    add("--root", required=True, metavar="DIR", help="a folder with clips.jsonl and the videos that it labels")
    add("--detector", required=True, metavar="FILE.onnx", help="a YOLOX with a raw head")
    add("--labels", metavar="FILE", help="its classes, one a line (default: COCO's)")
    add("--half", type=int, choices=HALVES, help="only cameras whose name's CRC-32 is even (0) or odd (1)")
    add("--modes", default=",".join(MODES), help="which (default: %(default)s)")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2, OSError: 2, ImportError: 2})


if __name__ == "__main__":
    sys.exit(main())
