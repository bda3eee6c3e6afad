"""The dual stream at the size that we mean: SmolLM2-360M's shape for text, B-Flow 75 M, a video stream and projector.

Command:  python -m launch.train --config=configs/duplex_300m.py --workdir=runs/duplex_300m --config.data.dirs=DIR
          on 8 devices: --config.mesh.fsdp=8; two steps on a CPU: --config.train.steps=2 --config.data.batch_size=1
          Prepare real videos with --config.frame_px=224, so that loading need not shrink them (docs/data.md).
Hardware: one H100 (80 GB) or 8; for the two steps 4 CPU cores, 17 GB and 1.9 minutes, compiling included.
Time:     not run yet; 200,000 steps of 32 clips of 12 s (21,000 hours of video) are by their FLOPs about 9 hours of an
          H100 at 40 % of its bfloat16 peak.
Expected: not trained yet.
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
    c.sentence_ends = True  # give the tokenizer the mark of a sentence's end, where it has none (docs/design.md)
    # What to begin with (mmduplex_jax/weights/init_from.py): folders of imported weights or of trainings;
    # strict: all of it must fit.
    c.init_from = config_dict.create(text="", vision="", tokenizer="", strict=True)
    c.vocab_rows_min = 49_155  # room for SmolLM2's vocabulary and our marks, whatever tokenizer is used
    c.fusion = "cross"
    c.clock = config_dict.create(step_hz=12.5, video_stride=2)
    c.delay = config_dict.create(min=2, max=8, eval=4)
    c.loss = config_dict.create(
        pad_weight=0.3,
        nested_dropout=0.25,
        future_word_weight=0.0,
        future_word_horizon_s=1.6,
        chunk=0,  # steps whose logits are held at once; 0 for all (docs/training_speed.md)
    )
    c.data = shared.data(dirs="data/rich_224", clip_s=12.0, batch_size=32)
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
    c.video_stream = config_dict.create(
        width=640,
        layers=10,
        heads=10,
        kv_heads=5,
        head_width=64,
        hidden=1728,
        window_s=16.0,
        attention="einsum",  # or "fused": docs/training_speed.md
        dtype="bfloat16",
        remat=True,
        scan=True,
    )
    # SmolLM2-360M (HuggingFaceTB/SmolLM2-360M, config.json); its tokenizer's vocabulary has 49152 entries.
    c.text = config_dict.create(
        width=960,
        layers=32,
        heads=15,
        kv_heads=5,
        head_width=64,
        hidden=2560,
        window_s=60.0,
        rope_base=100_000.0,
        norm_epsilon=1e-5,
        attention="einsum",  # or "fused": docs/training_speed.md
        cross_every=4,
        cross_gate=0.0,  # closed at first: an imported language model starts undisturbed
        dtype="bfloat16",
        num_sinks=4,
        remat=True,
        scan=True,
    )
    c.mesh = shared.mesh()
    c.profile = shared.profile()
    c.evals = shared.evals()
    c.train = config_dict.create(
        steps=200_000,
        stop_at_step=0,  # ends the run here, as a signal would; 0: not before `steps`
        seed=0,
        log_every=50,
        checkpoint_every=2000,
        keep=2,
        grad_accum=1,
        learning_rate=0.0003,
        end_lr_ratio=0.02,
        warmup_steps=2000,
        weight_decay=0.05,
        clip_norm=1.0,
        b1=0.9,
        b2=0.95,
        groups=dict(),  # what is trained from which step on, and how fast: docs/train_it_yourself.md
    )
    return c
