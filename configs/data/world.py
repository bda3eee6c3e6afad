"""Clips of the built-in world, as shards.

Command:  python -m launch.prepare --config=configs/data/world.py --out=data/world-plain
Hardware: 2 CPU cores.
Time:     0.5 minutes for 2,400 clips (8 hours of video) of the plain look, 1.5 minutes of the rich one.
Result:   234 MB in 24 shards (plain), 294 MB (rich); 1.3 words a second, no word behind its time.

Changes from the command line: `--config.look=rich`, `--config.clips=20000`, `--config.seed=1` (train and judge on
different seeds), `--config.frame_px=96`. Several looks are several runs into several directories; training joins them:
`--config.data.dirs=data/world-plain,data/world-rich`.
"""

from ml_collections import ConfigDict, config_dict

from configs import shared


def get_config() -> ConfigDict:
    """The configuration of `launch.prepare` for the built-in world."""
    config = ConfigDict()
    config.source = "world"
    config.look = "plain"  # or "rich"
    config.clips = 2400
    config.units_per_shard = 100
    config.seed = 0
    config.clip_s = 12.0
    config.frame_px = (64, 64)
    config.clock = ConfigDict({"step_hz": 12.5, "video_stride": 2})
    # JPEG with chroma at full resolution; "webp" is smaller and slower, "png" and "raw" lose nothing and are larger.
    config.image = ConfigDict({"format": "jpeg", "quality": 92})
    config.speech = shared.speech()

    # What the look would choose; None leaves it. Any other field of `Dynamics` or `Appearance` in
    # data_pipelines/world/config.py may be added in a configuration of your own.
    config.world = ConfigDict()
    config.world.dynamics = ConfigDict(
        {
            "kinds": config_dict.placeholder(tuple),
            "max_things": config_dict.placeholder(int),
            "busy_gap_s": config_dict.placeholder(tuple),
            "calm_gap_s": config_dict.placeholder(tuple),
            "variants": config_dict.placeholder(int),
            "pan_px": config_dict.placeholder(float),
        }
    )
    config.world.appearance = ConfigDict(
        {
            "backgrounds": config_dict.placeholder(tuple),
            "styles": config_dict.placeholder(tuple),
            "shadow_p": config_dict.placeholder(float),
            "noise": config_dict.placeholder(tuple),
            "jpeg_p": config_dict.placeholder(float),
        }
    )
    return config
