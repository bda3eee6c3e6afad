"""Clips of the look `real`, as shards: real things cut out, before real backgrounds, as a fixed camera sees them.

Command:  python -m launch.prepare --config=configs/data/world_real.py --config.world.pack=DIR --out=data/world-real
Hardware: 2 CPU cores.
Time:     --config.clips=240 --workers=1 took 40 CPU-seconds (0.17 a clip): an estimate of 4 minutes for 2,400 clips.
Result:   10.7 hours of video in 24 shards; 240 clips are 200 MB, so an estimate of 2 GB. In a third of the clips
          nothing happens, on purpose. Measured on 2026-11-29, 2 cores of a Xeon, other work beside it.

DIR is a pack: cut-outs with alpha and backgrounds, listed in two files (`data_pipelines/world/real/pack.py` has the
format). `python -m launch.make_pack` makes one from COCO's instances or from masks of videos. Words are the pack's
classes, colours where it says one. `--config.world.exclude_cameras="cam_a|cam_b"` (a regular expression of whole
names, as `config.data.held_cameras` of a training) takes out all that was made from these cameras, so that a model can
be judged on them.
"""

from ml_collections import ConfigDict, config_dict

from configs import shared


def get_config() -> ConfigDict:
    """The configuration of `launch.prepare` for real things over real backgrounds."""
    config = ConfigDict()
    config.source = "world"
    config.look = "real"
    config.clips = 2400
    config.units_per_shard = 100
    config.seed = 0
    config.clip_s = 16.0
    config.frame_px = (144, 256)  # (height, width)
    config.clock = ConfigDict({"step_hz": 12.5, "video_stride": 2})
    # What a camera's codec has left needs no more.
    config.image = ConfigDict({"format": "jpeg", "quality": 80})
    config.speech = shared.speech()

    config.world = ConfigDict()
    config.world.pack = config_dict.placeholder(str)
    config.world.exclude_cameras = ""
    # What the look would choose; None leaves it. Any other field of `RealDynamics` or `RealAppearance` in
    # data_pipelines/world/real/config.py may be added in a configuration of your own.
    config.world.dynamics = ConfigDict(
        {
            "settings": config_dict.placeholder(tuple),
            "liveliness": config_dict.placeholder(tuple),
            "coloured": config_dict.placeholder(tuple),
            "passer_p": config_dict.placeholder(float),
            "occluder_p": config_dict.placeholder(float),
        }
    )
    config.world.appearance = ConfigDict(
        {
            "fixed_camera_p": config_dict.placeholder(float),
            "aspects": config_dict.placeholder(tuple),
            "overlay_p": config_dict.placeholder(float),
            "shake_p": config_dict.placeholder(float),
            "noise": config_dict.placeholder(tuple),
            "codecs": config_dict.placeholder(tuple),
        }
    )
    return config
