"""B-Flow at full size (75 M), taught by timed words: the tokenizer that `configs/duplex_300m.py` may begin with.

Command:  python -m launch.train --config=configs/bflow_events_75m.py --workdir=runs/bflow_events_75m \
              --config.data.dirs=DIR --config.text_tokenizer=tokenizer.json
          then the duplex: --config=configs/duplex_300m.py --config.init_from.tokenizer=runs/bflow_events_75m
          with a teacher, a training of configs/clip_s16.py: --config=configs/bflow_events_75m.py:from_clip \
              --config.init_from.vision=DIR (the anchors then have its tower; so must the duplex's)
Hardware: 8 GPUs of 24 GB or more for the batch of 128 clips of 12 s, as `launch.estimate` counts it.
Time:     not trained yet.
Expected: not trained yet.
"""

from ml_collections import config_dict

from configs import shared


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """The experiment.

    Args:
      variant: "" predicts small pictures; "from_clip" (behind the file's name and a colon) predicts what a tower of
        `configs/clip_s16.py` sees, and has such a tower for its anchors too: both begin with `config.init_from.vision`.

    Raises:
      ValueError: there is no such variant.
    """
    if variant not in ("", "from_clip"):
        raise ValueError(f"configs/bflow_events_75m.py:{variant}: there is only `from_clip`")
    c = config_dict.ConfigDict()
    c.stage = "bflow"
    c.frame_px = (224, 224)  # height and width; or one number for a square
    c.fit = "pad"  # pictures of another shape: all of them between bars, or "crop": their centre
    c.text_tokenizer = "world"  # or the path of a tokenizer.json, or a folder of imported weights with one
    # What to begin with (mmduplex_jax/weights/init_from.py): folders of imported weights or of trainings;
    # strict: all of it must fit.
    c.init_from = config_dict.create(text="", vision="", tokenizer="", strict=True)
    c.vocab_rows_min = 49_155  # room for SmolLM2's vocabulary and our marks, whatever tokenizer is used
    c.clock = config_dict.create(step_hz=12.5, video_stride=2)
    c.loss = config_dict.create(
        align_weight=1.0,
        name_weight=1.0,
        predict="pixels",
        predict_weight=1.0,
        nested_dropout=0.25,
    )
    c.data = shared.data(dirs="data/rich_224", clip_s=12.0, batch_size=128)
    c.pixels = config_dict.create(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    c.tokenizer = config_dict.create(
        kind="bflow",
        width=512,
        dtype="bfloat16",
        context_init_scale=0.1,
        motion=dict(plane_px=(56, 56), search_radius=5, smoothness=12, disocclusion_cost=20),
        budget=dict(
            tokens_per_s_max=64,
            flow_token_levels=(0, 1, 2, 4, 8),
            flow_threshold=300,
            nms_radius_px=28,
            anchor_interval_min_s=2.0,
            anchor_interval_max_s=4.0,
            disocclusion_threshold=0.35,
            saliency_decay=12,
        ),
        anchor=dict(
            tokens=16,
            readout="queries",
            readout_layers=2,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            tower=dict(
                patch_px=16,
                width=384,
                layers=12,
                heads=6,
                hidden=1536,
                activation="gelu_tanh",
                pool="none",
                remat=True,
            ),
        ),
        flow=dict(
            crop_px=64,
            crop_scales=(1,),
            patch_px=16,
            width=384,
            layers=8,
            heads=6,
            centre=True,
            motion_features=True,
            remat=True,
        ),
        state=dict(slots=8, layers=1, heads=8),
        baseline=dict(grid_side=(4, 4), interval_ticks=2, dense_tokens=64, dense_hz=5),
        event=dict(
            width=512,
            layers=8,
            heads=8,
            kv_heads=8,
            head_width=64,
            hidden=1408,
            window_s=4.0,
            attention="einsum",  # or "fused": docs/training_speed.md
            remat=True,
        ),
    )
    c.events = config_dict.create(
        interval_s=0.96,
        reader=dict(heads=8, head_width=64, hidden=1536, queries=8, window_s=3.2),
    )
    c.words = config_dict.create(width=512, heads=8, head_width=64, hidden=1536)
    c.align = config_dict.create(
        bag_s=1.0,  # words that begin so near to the middle are in the bag
        band_s=0.4,  # between bags of one video that are compared
        embedding=512,
        lag_s=1.0,  # by which an event token stands after the middle of its bag
        scale_init=14.3,
    )
    # Half a batch backwards and a quarter with another's motion would cost as much again; there are negatives enough.
    c.hard_negatives = config_dict.create(backward_every=4, swapped_every=8)
    c.prediction = config_dict.create(
        places=8,
        horizon_s=(0.0, 0.64, 1.28),
        picture_px=(32, 32),
        reader=dict(heads=8, head_width=64, hidden=1536, queries=4, window_s=4.48),
    )
    c.teacher = config_dict.create(
        patch_px=16,
        width=384,
        layers=12,
        heads=6,
        hidden=1536,
        norm_epsilon=1e-5,
        activation="gelu",
        attention="einsum",  # or "fused": docs/training_speed.md
        class_token=True,
        dtype="bfloat16",
        image_px=(384, 384),
        patch_bias=False,
        pool="attention",
        pool_heads=8,
        pool_hidden=1536,
        positions="bilinear",
        pre_norm=True,
        projection=512,
        remat=True,
        rotary=True,
    )
    c.mesh = shared.mesh()
    c.profile = shared.profile()
    c.evals = shared.evals()
    c.train = config_dict.create(
        steps=100_000,
        stop_at_step=0,  # ends the run here, as a signal would; 0: not before `steps`
        seed=0,
        log_every=50,
        checkpoint_every=2000,
        keep=2,
        grad_accum=1,
        learning_rate=0.0005,
        end_lr_ratio=0.01,
        warmup_steps=2000,
        weight_decay=0.05,
        clip_norm=1.0,
        b1=0.9,
        b2=0.95,
        groups=dict(),  # what is trained from which step on, and how fast: docs/train_it_yourself.md
    )
    if variant == "from_clip":
        c.loss.predict = "teacher"
        patches = dict(pool="none", projection=0, last_norm="tokens")
        c.tokenizer.anchor.tower = config_dict.ConfigDict(c.teacher.to_dict() | patches)
        c.tokenizer.anchor.update(mean=c.pixels.mean, std=c.pixels.std)
        c.train.groups = config_dict.create(teacher=dict(match="teacher/", start_step=-1))
    return c
