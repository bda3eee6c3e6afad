"""A small CLIP from scratch: short clips of the built-in world's `plain` look against what is said in them.

Command:  python -m launch.prepare --config=configs/data/world.py --out=data/plain --config.clips=8000
          python -m launch.train --config=configs/clip_quickstart.py --workdir=runs/clip_quickstart
Hardware: 2 CPU cores, 4 GB.
Time:     9 minutes with other work on the machine (2.7 steps a second at the median).
Expected: zero-shot on 752 events of 160 unseen clips: colour 0.74 (chance 0.25), kind of event 0.27 (0.14), shape 0.41
          (0.33), side 0.26 (0.25, not learned yet). A text finds its clip among 160 within the first ten in 0.46 of
          the cases (0.07), mean rank 22 (77): `python -m launch.evaluate --checkpoint=runs/clip_quickstart`.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The experiment."""
    c = config_dict.ConfigDict()
    c.stage = "clip"
    c.frame_px = 64
    c.text_tokenizer = "world"  # or the path of a tokenizer.json, or a folder of imported weights with one
    # Folders that `launch.import_weights` wrote, to begin with; strict: all of it must fit.
    c.init_from = config_dict.create(text="", vision="", strict=True)
    c.vocab_rows_min = 0  # embedding rows to make at least
    c.clock = config_dict.create(step_hz=12.5, video_stride=2)
    # "softmax" (CLIP) or "sigmoid" (SigLIP: scale_init=10, bias_init=-10).
    c.loss = config_dict.create(kind="softmax", scale_init=14.3, bias_init=config_dict.placeholder(float))

    c.data = config_dict.create(
        dirs="data/plain",  # several, separated by commas, are mixed
        weights="",  # how often each is drawn from, e.g. "3,1"; empty: by their sizes
        clip_s=2.56,  # what a pair is about: a piece of a record
        text="words",  # said in the piece; or "caption" of the record, or "either"
        batch_size=32,
        seed=0,
        mirror=True,
        workers=0,  # processes that load; 0 loads in threads
        corrupt_records_max=10,  # samples that may be left out because their record cannot be read
    )

    c.pixels = config_dict.create(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    c.vision = config_dict.create(
        patch_px=16, width=128, layers=3, heads=4, hidden=384, activation="gelu_tanh", pool="attention", projection=128
    )
    # Frames of a piece, spread evenly; pool "mean" is blind to their order.
    c.time = config_dict.create(frames=4, pool="attention", layers=2, heads=4, hidden=384)
    c.text = config_dict.create(
        length=16, width=128, layers=2, heads=4, hidden=384, activation="gelu_tanh", pool="last", projection=128
    )

    c.mesh = config_dict.create(data=-1, fsdp=1, tensor=1)
    c.train = config_dict.create(
        steps=1500,
        stop_at_step=0,
        seed=0,
        log_every=50,
        checkpoint_every=500,
        keep=2,
        grad_accum=1,
        learning_rate=1.5e-3,
        end_lr_ratio=0.02,
        warmup_steps=100,
        weight_decay=0.05,
        clip_norm=1.0,
        b1=0.9,
        b2=0.98,
    )
    return c
