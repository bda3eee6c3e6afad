"""A folder of videos with what is said in them, as shards.

Command:  python -m launch.prepare --config=configs/data/folder.py --config.root=VIDEOS --out=data/mine
Hardware: any number of CPU cores; each decodes on its own.
Time:     18 short clips of 320x240 to 1280x720, six times over: 86 hours of video an hour on 2 busy cores of a CPU
          server, 36 with the motion field (--config.motion.keep), of which some seconds are its compilation.
Result:   windows of up to a minute at 6.25 frames a second, 256 px, with their words; what is not used is listed.

Beside `name.mp4` (any container and codec that FFmpeg reads) lies `name.json` (WhisperX, Whisper or vosk), `name.vtt`
(with the times of words where it has them), `name.srt` or `name.txt` (a caption of the whole video); `name.en.vtt` too.
Without one a video is rejected, unless `--config.keep_without_words=True`.
"""

from ml_collections import ConfigDict, config_dict

from configs import shared


def get_config() -> ConfigDict:
    """The configuration of `launch.prepare` for a folder of videos."""
    config = ConfigDict()
    config.source = "folder"
    config.root = config_dict.placeholder(str)
    config.units_per_shard = 20
    config.frame_px = (256, 256)
    config.fit = "pad"  # all of a picture between black bars, or "crop": its centre
    config.clock = ConfigDict({"step_hz": 12.5, "video_stride": 2})
    config.image = ConfigDict({"format": "jpeg", "quality": 90})
    # Videos are cut into windows; what is shorter than the shortest is rejected.
    config.clip = ConfigDict({"window_s": 60.0, "overlap_s": 0.0, "shortest_s": 2.0})
    # Limits of whole videos (duration, language) and of windows (speech); None is no limit. 1 to 4 words a second and
    # gaps of up to 10 s are what commentary has.
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
    config.audio = ConfigDict({"keep": False, "format": "opus", "rate_hz": 24000, "bitrate_kbps": 32})  # or "pcm"
    config.speech = shared.speech()
    # What moved, for `launch.inspect` and for choosing clips; training computes its own. 1 kB a frame.
    config.motion = ConfigDict({"keep": True, "plane_px": (32, 32), "search_radius": 3})
    config.license = ""
    config.language = ""  # of transcripts that do not say it
    config.keep_without_words = False
    # Of subtitles: [Applause], (laughs), >>, dashes, JOHN:, music and credits, which nobody says. Left out and counted.
    config.keep_marks = False
    config.duplicates = "hash"  # "keep" reads no file twice
    return config
