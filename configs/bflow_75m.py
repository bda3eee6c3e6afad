"""B-Flow at full size (75 M): a ViT-S/16 on anchors, a ViT on crops, an event transformer; at most 64 tokens a second.

The tokenizer of `configs/duplex_300m.py`, under a text stream so small that the tokenizer can be run and timed by
itself.

Command:  python -m launch.commentate --random_init=configs/bflow_75m.py --source=FILE --json report.json
          python -m launch.train --config=configs/bflow_75m.py --workdir=runs/bflow_75m --config.data.dirs=DIR
Hardware: commentating: 4 CPU cores; training: one GPU with 24 GB or more.
Time:     not trained yet; by its FLOPs 100,000 steps of 32 clips of 12 s are about 3 hours of an H100 at 40 % of its
          bfloat16 peak (38 GFLOP a second of video forward, three times that with the backward pass).
Expected: untrained: random words, the budget held on every video.
"""

from ml_collections import config_dict

from configs import shared


def get_config() -> config_dict.ConfigDict:
    """The experiment."""
    c = config_dict.ConfigDict()
    c.stage = "duplex"
    c.frame_px = (224, 224)  # height and width; or one number for a square
    c.fit = "pad"  # pictures of another shape: all of them between bars, or "crop": their centre
    c.text_tokenizer = "world"  # or the path of a tokenizer.json, or a folder of imported weights with one
    # What to begin with (mmduplex_jax/weights/init_from.py): folders of imported weights or of trainings;
    # strict: all of it must fit.
    c.init_from = config_dict.create(text="", vision="", tokenizer="", strict=True)
    c.vocab_rows_min = 0
    c.fusion = "cross"
    c.clock = config_dict.create(step_hz=12.5, video_stride=2)
    c.delay = config_dict.create(min=4, max=4, eval=4)
    c.loss = config_dict.create(
        pad_weight=0.3,
        nested_dropout=0.25,
        future_word_weight=0.3,
        future_word_horizon_s=1.6,
        chunk=0,  # steps whose logits are held at once; 0 for all (docs/training_speed.md)
    )
    c.data = shared.data(dirs="data/rich_224", clip_s=12.0, batch_size=32)
    c.tokenizer = config_dict.create(
        kind="bflow",
        width=512,
        dtype="float32",
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
    c.video_stream = config_dict.create(
        width=128,
        layers=1,
        heads=2,
        kv_heads=2,
        head_width=32,
        hidden=256,
        window_s=4.0,
        dtype="float32",
    )
    c.text = config_dict.create(
        width=128,
        layers=4,
        heads=4,
        kv_heads=2,
        head_width=32,
        hidden=320,
        window_s=6.0,
        rope_base=10_000.0,
        cross_every=1,
        cross_gate=1.0,  # closed at first: an imported language model starts undisturbed
        dtype="float32",
        num_sinks=2,
        remat=False,
        scan=False,
    )
    c.mesh = shared.mesh()
    c.profile = shared.profile()
    c.evals = shared.evals()
    c.train = config_dict.create(
        steps=1500,
        stop_at_step=0,  # ends the run here, as a signal would; 0: not before `steps`
        seed=0,
        log_every=50,
        checkpoint_every=500,
        keep=2,
        grad_accum=1,
        learning_rate=0.0015,
        end_lr_ratio=0.02,
        warmup_steps=100,
        weight_decay=0.05,
        clip_norm=1.0,
        b1=0.9,
        b2=0.98,
        groups=dict(),  # what is trained from which step on, and how fast: docs/train_it_yourself.md
    )
    return c
