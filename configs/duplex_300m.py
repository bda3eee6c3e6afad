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

from configs import bflow_75m


def get_config() -> config_dict.ConfigDict:
    """The experiment."""
    c = bflow_75m.get_config()
    c.loss.future_word_weight = 0.0
    c.delay = config_dict.create(min=2, max=8, eval=4)
    c.tokenizer.dtype = "bfloat16"
    c.video_stream = config_dict.create(
        width=640,
        layers=10,
        heads=10,
        kv_heads=5,
        head_width=64,
        hidden=1728,
        window_s=16.0,
        scan=True,
        remat=True,
        dtype="bfloat16",
        attention="einsum",  # or "fused": docs/training_speed.md
    )
    # SmolLM2-360M (HuggingFaceTB/SmolLM2-360M, config.json); its tokenizer's vocabulary has 49152 entries.
    c.text = config_dict.create(
        width=960,
        layers=32,
        heads=15,
        kv_heads=5,
        head_width=64,
        hidden=2560,
        rope_base=100_000.0,
        norm_epsilon=1e-5,
        cross_every=4,
        cross_gate=0.0,
        num_sinks=4,
        window_s=60.0,
        scan=True,
        remat=True,
        dtype="bfloat16",
        attention="einsum",  # or "fused": docs/training_speed.md
    )
    c.vocab_rows_min = 49152 + 3  # room for that vocabulary and our marks, whatever tokenizer is used
    c.train.steps = 200_000
    c.train.learning_rate = 3e-4
    c.train.warmup_steps = 2000
    c.train.checkpoint_every = 2000
    c.train.b2 = 0.95
    return c
