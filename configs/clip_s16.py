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

from configs import shared


def get_config() -> config_dict.ConfigDict:
    """The experiment."""
    c = config_dict.ConfigDict()
    c.stage = "clip"
    c.frame_px = (384, 384)  # height and width; or one number for a square
    c.fit = "pad"  # pictures of another shape: all of them between bars, or "crop": their centre
    c.text_tokenizer = "world"  # or the path of a tokenizer.json, or a folder of imported weights with one
    # What to begin with (mmduplex_jax/weights/init_from.py): folders of imported weights or of trainings;
    # strict: all of it must fit.
    c.init_from = config_dict.create(text="", vision="", tokenizer="", strict=True)
    c.vocab_rows_min = 49_408
    c.clock = config_dict.create(step_hz=12.5, video_stride=2)
    c.loss = config_dict.create(
        kind="sigmoid",  # or "softmax" (CLIP)
        bias_init=-10.0,
        scale_init=10.0,
    )
    c.data = shared.data(
        dirs="data/rich_384",
        clip_s=2.56,  # what a pair is about: a piece of a record
        text="either",  # the caption of a record, or an utterance in the piece
        pause_s=0.1,  # the silence that ends an utterance
        shift_s=0.4,  # by how much the piece of an utterance is moved at most
        batch_size=1024,
    )
    c.pixels = config_dict.create(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    c.vision = config_dict.create(
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
    c.time = config_dict.create(
        layers=2,
        heads=8,
        hidden=2048,
        frames=8,  # of a piece, spread evenly
        pool="attention",
    )
    c.text = config_dict.create(
        length=32,
        width=512,
        layers=12,
        heads=8,
        hidden=2048,
        norm_epsilon=1e-5,
        activation="gelu",
        causal=True,
        dtype="bfloat16",
        pool="largest",
        projection=512,
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
        learning_rate=0.001,
        end_lr_ratio=0.01,
        warmup_steps=2000,
        weight_decay=0.1,
        clip_norm=1.0,
        b1=0.9,
        b2=0.98,
        groups=dict(),  # what is trained from which step on, and how fast: docs/train_it_yourself.md
    )
    return c
