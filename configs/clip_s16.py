"""CLIP from scratch in the shape of PE-Core-S16-384 (Bolya et al., 2025): 24 M for pictures, 63 M for text.

The towers are of that shape to the last parameter, so that a trained pair can leave for `timm` and an imported one can
come in; the pool over time is ours. One picture a pair: --config.time.frames=1 --config.time.pool=mean.

Command:  python -m launch.train --config=configs/clip_s16.py --workdir=runs/clip_s16 --config.data.dirs=DIR \
              --config.text_tokenizer=tokenizer.json
          DIR: prepared with --config.frame_px=384 or more; on 8 devices: --config.mesh.fsdp=8
Hardware: 8 GPUs of 80 GB for the batch of 1,024 clips.
Time:     not trained yet.
Expected: not trained yet.
"""

from ml_collections import config_dict

from configs import clip_quickstart


def get_config() -> config_dict.ConfigDict:
    """The experiment."""
    c = clip_quickstart.get_config()
    c.frame_px = 384
    c.vocab_rows_min = 49_408
    c.loss = config_dict.create(kind="sigmoid", scale_init=10.0, bias_init=-10.0)
    c.data.dirs = "data/rich_384"
    c.data.text = "either"
    c.data.batch_size = 1024
    c.data.workers = 8
    c.vision = config_dict.create(
        patch_px=16,
        width=384,
        layers=12,
        heads=6,
        hidden=1536,
        activation="gelu",
        norm_epsilon=1e-5,
        class_token=True,
        patch_bias=False,
        pre_norm=True,
        rotary=True,
        positions="bilinear",
        pool="attention",
        pool_heads=8,
        pool_hidden=1536,
        projection=512,
        remat=True,
        dtype="bfloat16",
        attention="einsum",  # or "fused": docs/training_speed.md
    )
    c.time = config_dict.create(frames=8, pool="attention", layers=2, heads=8, hidden=2048)
    c.text = config_dict.create(
        length=32,
        width=512,
        layers=12,
        heads=8,
        hidden=2048,
        activation="gelu",
        norm_epsilon=1e-5,
        causal=True,
        pool="largest",
        projection=512,
        dtype="bfloat16",
    )
    c.train.update(
        steps=100_000,
        log_every=50,
        checkpoint_every=2000,
        learning_rate=1e-3,
        warmup_steps=2000,
        weight_decay=0.1,
        end_lr_ratio=0.01,
    )
    return c
