"""PE-Video: a million short videos with captions in WebDataset tars, as shards.

Command:  python -m launch.prepare --config=configs/data/pevideo.py --config.root=DIR --out=data/pevideo
Hardware: CPU cores and a disk; no accelerator.
Time:     not run on the whole set. Hours = clips × seconds a clip / 3600 / (hours of video an hour that a core
          prepares, measured on a few tars, × cores).
Result:   not run on the whole set. Bytes = clips × seconds a clip × 6.25 frames a second × bytes a frame.

DIR holds the tars as they are published, about 0.75 GB each, under `train/`, `test/` and `extended/`, or is a URL that
fsspec knows: `s3://` (with the package s3fs), `gs://` (gcsfs), `hf://datasets/facebook/PE-Video`, `http://` (aiohttp).
They are read from front to back and never unpacked. Where a server does not list folders, name the tars in
`config.shards`, e.g. in a configuration of your own. `test/` is a public benchmark: do not train on it.

A caption is about its whole clip; its words are spread over it and marked so. About one clip in eight has a caption by
a person; `--config.captions="('human',)"` takes these only and counts the rest as "no words".
"""

from ml_collections import ConfigDict, config_dict

from configs import shared


def get_config() -> ConfigDict:
    """The configuration of `launch.prepare` for PE-Video."""
    config = ConfigDict()
    config.source = "pevideo"
    config.root = config_dict.placeholder(str)
    config.shards = ("train/*.tar",)
    config.captions = ("human", "model", "description")  # the first that a clip has
    config.keep_without_words = False  # or keep clips without a caption, silent
    config.language = "en"
    config.units_per_shard = 1  # tars
    config.frame_px = (256, 256)
    config.fit = "pad"  # all of a picture between black bars, or "crop": its centre
    config.clock = ConfigDict({"step_hz": 12.5, "video_stride": 2})
    config.image = ConfigDict({"format": "jpeg", "quality": 90})
    # Each clip is taken as it is; a window_s would cut it.
    config.clip = ConfigDict({"window_s": config_dict.placeholder(float), "overlap_s": 0.0, "shortest_s": 1.0})
    config.filters = ConfigDict(
        {
            "words_per_s_min": config_dict.placeholder(float),
            "words_per_s_max": config_dict.placeholder(float),
            "gap_max_s": config_dict.placeholder(float),
            "duration_min_s": config_dict.placeholder(float),
            "duration_max_s": 120.0,
            "languages": config_dict.placeholder(tuple),
        }
    )
    config.audio = ConfigDict({"keep": False, "format": "opus", "rate_hz": 24000, "bitrate_kbps": 32})
    config.speech = shared.speech()
    config.motion = ConfigDict({"keep": True, "plane_px": (64, 64), "search_radius": 5})
    config.license = ""  # what the publishers' card says when you fetch the tars
    # "hash" rejects a video with the same bytes as an earlier one. It reads the headers of all tars first, and the
    # bytes of what is equally long, so the tars must be on this machine.
    config.duplicates = "keep"
    return config
