"""B-Flow at full size (75 M): a ViT-S/16 on anchors, a ViT on crops, an event transformer; at most 64 tokens a second.

This is the tokenizer that `configs/duplex_300m.py` is built on, under a text stream small enough that the tokenizer
can be run
and timed by itself:

Command:  python -m launch.commentate --random_init=configs/bflow_75m.py --source=FILE --json report.json
          python -m launch.train --config=configs/bflow_75m.py --workdir=runs/bflow_75m --config.data.dirs=DIR
Hardware: commentating: 4 CPU cores; training: one GPU with 24 GB or more.
Time:     not trained yet; by its FLOPs 100,000 steps of 32 clips of 12 s are about 3 hours of an H100 at 40 % of its
          bfloat16 peak (38 GFLOP a second of video forward, three times that with the backward pass).
Expected: untrained: random words, the budget held on every video.
"""

from ml_collections import config_dict

from configs import quickstart


def get_config() -> config_dict.ConfigDict:
    """The experiment."""
    c = quickstart.get_config()
    c.frame_px = 224
    c.data.dirs = "data/rich_224"
    c.data.batch_size = 32
    c.data.workers = 8
    c.tokenizer = config_dict.create(
        kind="bflow",
        width=512,
        dtype="float32",
        motion=dict(plane_px=56, search_radius=5, smoothness=12, disocclusion_cost=20),
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
                patch_px=16, width=384, layers=12, heads=6, hidden=1536, activation="gelu_tanh", pool="none", remat=True
            ),
        ),
        flow=dict(crop_px=64, patch_px=16, width=384, layers=8, heads=6, motion_features=True, centre=True, remat=True),
        state=dict(slots=8, layers=1, heads=8),
        baseline=dict(grid_side=4, interval_ticks=2, dense_tokens=64, dense_hz=5),
        event=dict(
            layers=8,
            width=512,
            heads=8,
            kv_heads=8,
            head_width=64,
            hidden=1408,
            window_s=4.0,
            remat=True,
            attention="einsum",  # or "fused": docs/training_speed.md
        ),
    )
    return c
