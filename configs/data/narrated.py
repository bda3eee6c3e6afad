"""A folder of videos without any text: a teacher says what happens in them, as shards.

Command:  python -m launch.prepare --config=configs/data/narrated.py --config.root=VIDEOS \
              --config.detector.file=yolox_nano.onnx --out=data/narrated
Hardware: any number of CPU cores; each narrates on its own. pip install "mmduplex-jax[teacher]"
Time:     YOLOX-Nano looks 6.25 times a second, 25 ms each: an hour of video takes a core 10 minutes.
Result:   windows of up to a minute with words ("car enters left", "person stops"), events, and the boxes of the things.

Look at it before you train on it: `python -m launch.inspect data/narrated --html=narrated.html` shows each clip with
boxes and sentences, and gives a list of those that you do not trust. Save it as VIDEOS/discarded.txt and run the same
command again: what is listed is left out, the rest is kept as it is.
"""

from ml_collections import ConfigDict, config_dict

from configs import shared


def get_config() -> ConfigDict:
    """The configuration of `launch.prepare` for videos without words."""
    config = ConfigDict()
    config.source = "narrated"
    config.root = config_dict.placeholder(str)
    config.units_per_shard = 4
    config.frame_px = (256, 256)
    config.fit = "pad"  # what enters at the edge of the picture must enter the frame there
    config.clock = ConfigDict({"step_hz": 12.5, "video_stride": 2})
    config.image = ConfigDict({"format": "jpeg", "quality": 90})
    config.clip = ConfigDict({"window_s": 60.0, "overlap_s": 0.0, "shortest_s": 2.0})
    # Who detects: a function of the other fields that gives a `narrator.detector.Detector`. This one is for the ONNX
    # export of YOLOX with a raw head, BGR 0-255; `labels` is a text file with a class a line, "" for COCO's 80.
    config.detector = ConfigDict(
        {
            "make": "data_pipelines.narrator.detector:yolox",
            "file": "",
            "labels": "",
            "score_min": 0.1,  # weak boxes carry a track on; they begin none
            "iou_max": 0.5,
        }
    )
    # When something counts as an event: fields of `MotionSettings`, `TrackSettings` and `EventSettings` in
    # `data_pipelines/narrator`, which say what they mean and have more.
    config.teacher = ConfigDict(
        {
            "rate_hz": 6.25,
            "motion": {"contrast_min": 18.0, "window_s": 20.0},
            "tracks": {"distance_max": 0.9, "coast_s": 0.8},
            "events": {"score_min": 0.4, "sure_score": 0.3, "size_min": 0.05, "far_size_min": 0.09, "unsure": True},
        }
    )
    # A phrase waits for the one before it, at most so long; what would come later is left out and counted.
    config.say = ConfigDict({"lag_s": 1.0, "word_gap_s": 0.25})
    # A window without words, of which on average so much moves, is rejected: silence there would be a lie.
    config.unexplained_share_min = 0.03
    # Who filmed a video, for `config.data.held_cameras` of a training: each "file" its own camera, each "folder" one,
    # or as the "labels" (clips.jsonl in the root) have it. Cameras that match `held_cameras` are left out here.
    config.cameras = "file"
    config.held_cameras = ""
    config.discarded = ""  # a file of names and keys that nobody wants; "" for discarded.txt in the root
    config.filters = ConfigDict(
        {
            "words_per_s_min": config_dict.placeholder(float),
            "words_per_s_max": config_dict.placeholder(float),
            "gap_max_s": config_dict.placeholder(float),
            "duration_min_s": config_dict.placeholder(float),
            "duration_max_s": config_dict.placeholder(float),
            "languages": config_dict.placeholder(tuple),
        }
    )
    config.audio = ConfigDict({"keep": False, "format": "opus", "rate_hz": 24000, "bitrate_kbps": 32})
    config.speech = shared.speech()
    config.motion = ConfigDict({"keep": False, "plane_px": (32, 32), "search_radius": 3})  # or frames cannot be flipped
    config.license = ""
    config.duplicates = "hash"
    return config
