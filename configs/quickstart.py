"""The quick start: a 2 M model that learns to commentate the built-in world's `plain` look in minutes on a laptop.

Command:  python -m launch.prepare --config=configs/data/world.py --out=data/plain --config.clips=8000
          python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart --config.data.dirs=data/plain
Hardware: 2 CPU cores, 4 GB.
Time:     9 minutes (2.8 steps a second), after a minute for the data and half a minute to compile.
Expected: event F1 0.93 on 160 unseen clips (95 % of resamplings within 0.91 to 0.95), latency 0.34 s at the median:
          `python -m launch.evaluate --checkpoint=runs/quickstart`. One seed, 2026-12-01; one of before
          `tokenizer.context_init_scale` had 0.69. Begun with the tokenizer of `configs/bflow_quickstart.py`, 600 steps
          reached 0.92 then (docs/stages.md).
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The experiment."""
    c = config_dict.ConfigDict()
    c.stage = "duplex"
    c.frame_px = (64, 64)  # height and width; or one number for a square
    c.fit = "crop"  # pictures of another shape: their centre, or "pad": all of them between bars
    c.text_tokenizer = "world"  # or the path of a tokenizer.json, or a folder of imported weights with one
    c.sentence_ends = False  # give the tokenizer the mark of a sentence's end, where it has none (docs/design.md)
    # What to begin with (mmduplex_jax/weights/init_from.py): folders of imported weights or of trainings;
    # strict: all of it must fit.
    c.init_from = config_dict.create(text="", vision="", tokenizer="", strict=True)
    c.vocab_rows_min = 0  # embedding rows to make at least
    c.fusion = "cross"
    c.clock = config_dict.create(step_hz=12.5, video_stride=2)
    c.delay = config_dict.create(min=4, max=4, eval=4)
    # chunk: steps whose logits are held at once; 0 for all (a large vocabulary: docs/training_speed.md)
    c.loss = config_dict.create(
        pad_weight=0.3, nested_dropout=0.25, future_word_weight=0.3, future_word_horizon_s=1.6, chunk=0
    )

    c.data = config_dict.create(
        dirs="data/plain",  # several, separated by commas, are mixed
        encoded="",  # directories of `launch.encode`, to learn from instead of `dirs`
        weights="",  # how often each is drawn from, e.g. "3,1"; empty: by their sizes
        clip_s=12.0,
        batch_size=8,
        seed=0,
        # Left-right flips of half the samples: None where a data set's manifest says that its words allow it (the
        # world's do), False nowhere; True is an error where one does not allow it.
        flip=config_dict.placeholder(bool),
        workers=0,  # processes that load; 0 loads in threads
        corrupt_records_max=10,  # samples that may be left out because their record cannot be read
        unknown_words_max=0.01,  # the share of words that the tokenizer may be unable to spell
    )

    c.tokenizer = config_dict.create(
        kind="bflow",
        width=128,
        dtype="float32",
        context_init_scale=0.1,  # what is said of a token beside itself begins quietly (docs/returns.md)
        motion=dict(plane_px=(32, 32), search_radius=3, smoothness=12, disocclusion_cost=20),
        budget=dict(
            tokens_per_s_max=32,
            flow_token_levels=(0, 1, 2, 4),
            flow_threshold=300,
            nms_radius_px=9,
            anchor_interval_min_s=2.0,
            anchor_interval_max_s=4.0,
            disocclusion_threshold=0.35,
            saliency_decay=12,
        ),
        anchor=dict(
            tokens=4,
            readout="queries",
            readout_layers=1,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            tower=dict(patch_px=16, width=96, layers=2, heads=4, hidden=384, activation="gelu_tanh", pool="none"),
        ),
        flow=dict(
            crop_px=20,
            crop_scales=(1,),  # (1, 2, 4): a crop as large as what moves, averaged down to crop_px
            patch_px=20,
            width=160,
            layers=0,
            heads=4,
            motion_features=True,
            centre=True,
        ),
        state=dict(slots=4, layers=1, heads=4),
        baseline=dict(grid_side=(4, 4), interval_ticks=4, dense_tokens=64, dense_hz=5),
        event=dict(layers=1, width=96, heads=2, kv_heads=2, head_width=32, hidden=256, window_s=2.0),
    )
    c.video_stream = config_dict.create(
        width=128, layers=1, heads=2, kv_heads=2, head_width=32, hidden=256, window_s=4.0, dtype="float32"
    )
    c.text = config_dict.create(
        width=128,
        layers=4,
        heads=4,
        kv_heads=2,
        head_width=32,
        hidden=320,
        rope_base=10_000.0,
        cross_every=1,
        cross_gate=1.0,  # trained from scratch, nothing to protect: the gate starts open
        num_sinks=2,
        window_s=6.0,
        scan=False,
        remat=False,
        dtype="float32",
    )

    c.mesh = config_dict.create(data=-1, fsdp=1, tensor=1)
    # Scores on held-out data on the way, as launch.evaluate gives them (mmduplex_jax/train/evaluation.py).
    c.evals = config_dict.create(
        every=0,  # steps between them; 0 for none
        dirs="",  # shards, several with commas, or "world" for new clips of the built-in world
        clips=64,  # of each
        batch=16,
        seed=1_000_003,  # which clips
        metrics="",  # further ones, module:function, several with commas
        best="",  # the number whose best parameters are kept in WORKDIR/best: "f1"; "-word_nll" where less is better
        # Ends the run after so many evaluations that gain less than the share `min_gain` in `best`; 0: never.
        patience=0,
        min_gain=0.0,
    )
    c.profile = config_dict.create(steps="")  # "10..12": what these steps do goes to WORKDIR/tensorboard
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
        # None: a cosine over all steps. Otherwise the rate is constant until so many steps before the end.
        decay_steps=config_dict.placeholder(int),
        weight_decay=0.05,
        clip_norm=1.0,
        b1=0.9,
        b2=0.98,
        groups=dict(),  # what is trained from which step on, how fast (mmduplex_jax/train/optimizer.py)
    )
    return c
