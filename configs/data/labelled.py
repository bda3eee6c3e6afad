"""A folder of videos in which a person has noted what happens: what a model for these cameras learns from, as shards.

Command:  python -m launch.prepare --config=configs/data/labelled.py --config.root=LABELLED --out=data/labelled
Hardware: any number of CPU cores; each decodes on its own.
Time:     20 clips, 5 minutes of video in all, at 180x320 px: 6 s on 2 busy cores of a CPU server.
Result:   windows of up to a minute with events and words ("white car enters left", "cup is taken away"), silent ones
          too; what nobody has checked and the cameras that are held back are listed, and left out.

`LABELLED/clips.jsonl` names the videos and what happens in them, as docs/real.md has it. A training that is to be
scored on cameras that it has not seen has one regular expression in two places: `config.held_cameras` here and
`config.data.held_cameras` in its own configuration.
"""

from ml_collections import ConfigDict, config_dict

from configs import shared


def get_config() -> ConfigDict:
    """The configuration of `launch.prepare` for labelled videos."""
    config = ConfigDict()
    config.source = "labelled"
    config.root = config_dict.placeholder(str)
    config.units_per_shard = 20
    config.frame_px = (256, 256)
    config.fit = "pad"  # what enters at the edge of the picture must enter the frame there
    config.clock = ConfigDict({"step_hz": 12.5, "video_stride": 2})
    config.image = ConfigDict({"format": "jpeg", "quality": 90})
    config.clip = ConfigDict({"window_s": 60.0, "overlap_s": 0.0, "shortest_s": 2.0})
    # A phrase waits for the one before it, at most so long; what would come later is left out and noted.
    config.say = ConfigDict({"lag_s": 1.0, "word_gap_s": 0.25})
    config.held_cameras = ""  # a regular expression: cameras whose whole name matches are left out
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
