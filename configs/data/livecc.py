"""Live-CC-5M and Live-WhisperX-526K: stretches of videos with every spoken word, as shards.

Command:  python -m launch.prepare --config=configs/data/livecc.py --config.annotations=FILE.jsonl --config.root=DIR
          --out=data/livecc
Hardware: CPU cores and a disk; no accelerator.
Time:     not run on the whole set. Hours = hours of video in the clips / (hours of video an hour that a core prepares,
          measured on some of them, × cores). 5,047,208 clips of 30 to 240 s are 42,000 to 336,000 hours of video.
Result:   not run on the whole set. Bytes = hours of video × 3600 s × 6.25 frames a second × bytes a frame.

The files are the publishers' own, their line of offsets at the end; FILE may also be plain JSON lines in the same
format with --config.build_index=True. DIR is the folder of the videos that you have fetched, below which the paths in
the lines lead. A line whose video is not there is counted as "video is missing". Fetched more since? Prepare them into
a new --out: a line that was rejected stays so in the old one.

For Live-WhisperX-526K add `--config.timing=word`: its words are aligned to the sound. Those of Live-CC-5M are spread
over subtitle lines and may be a second off, which "line" records.
"""

from ml_collections import ConfigDict, config_dict

from configs import shared


def get_config() -> ConfigDict:
    """The configuration of `launch.prepare` for Live-CC files."""
    config = ConfigDict()
    config.source = "livecc"
    config.annotations = config_dict.placeholder(str)
    config.root = config_dict.placeholder(str)
    config.build_index = False
    config.timing = "line"  # or "word"
    config.language = ""  # of all lines, which do not say it: "en" if you know it
    config.units_per_shard = 100  # lines
    config.frame_px = (256, 256)
    config.fit = "pad"  # all of a picture between black bars, or "crop": its centre
    config.clock = ConfigDict({"step_hz": 12.5, "video_stride": 2})
    config.image = ConfigDict({"format": "jpeg", "quality": 90})
    # Clips last up to 240 s; a minute is what the text stream of duplex_300m looks back. Without overlap, so that each
    # second of video is stored once.
    config.clip = ConfigDict({"window_s": 60.0, "overlap_s": 0.0, "shortest_s": 10.0})
    # What the publishers chose by, so that nothing of their files is refused for it but what contradicts them; a window
    # may be sparser than its clip.
    config.filters = ConfigDict(
        {
            "words_per_s_min": config_dict.placeholder(float),
            "words_per_s_max": config_dict.placeholder(float),
            "gap_max_s": config_dict.placeholder(float),
            "duration_min_s": 29.0,
            "duration_max_s": 241.0,
            "languages": config_dict.placeholder(tuple),
        }
    )
    config.audio = ConfigDict({"keep": False, "format": "opus", "rate_hz": 24000, "bitrate_kbps": 32})
    config.speech = shared.speech()
    config.motion = ConfigDict({"keep": True, "plane_px": (64, 64), "search_radius": 5})
    config.license = ""  # the lines name none; their videos have each their own
    # "hash" rejects a line that says the same words of the same stretch as an earlier one. It reads all lines first,
    # some 30 GB in Live-CC-5M, whose publishers cut each video once.
    config.duplicates = "keep"
    return config
