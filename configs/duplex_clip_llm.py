r"""The dual stream from parts that exist: SigLIP-B/16 looks at the anchors, SmolLM2-360M talks; what is between is new.

`configs/duplex_300m.py`, but its anchors are seen by a tower that has seen much (`configs/duplex_clip_llm.py:clip` has
CLIP-B/16), and training goes by groups: first what is new (read-out, flow tokens, video stream, projector,
cross-attention behind gates that start at zero), then the language model, then the tower. Until their steps come
neither of the two changes by a bit.

Command:  python -m launch.import_weights --from=siglip-base-patch16-224 --out=weights/siglip
          python -m launch.import_weights --from=SmolLM2-360M --out=weights/smollm2
          python -m launch.train --config=configs/duplex_clip_llm.py --workdir=runs/clip_llm --config.data.dirs=DIR \
              --config.init_from.vision=weights/siglip --config.init_from.text=weights/smollm2 \
              --config.text_tokenizer=weights/smollm2
          DIR: prepared with --config.frame_px=224; on 8 devices: --config.mesh.fsdp=8
          both from a captioner that knows them already: --config.init_from.vision=runs/vlm \
              --config.init_from.text=runs/vlm (of configs/vlm_single_token.py)
          one token a tick, the tower's pooled head, instead of B-Flow: --config.tokenizer.kind=per_frame \
              --config.tokenizer.anchor.readout=pooled
          the language model never: --config.train.groups.text.start_step=-1; the same for tower
Hardware: one H100 (80 GB) or 8.
Time:     not run yet. On a shared CPU with 23 GB it begins and compiles (3.6 minutes on 2 cores, --config.train.steps=2
          --config.data.batch_size=1), but no step was done: the system ended it at 19 GB with moments for all groups,
          and at 13.6 GB, when others had the rest, without those of groups that start after the last step.
Expected: not trained yet.
"""

from ml_collections import config_dict

from configs import shared

_BASE = dict(
    patch_px=16,
    width=768,
    layers=12,
    heads=12,
    hidden=3072,
    positions="bicubic",
    remat=True,
    dtype="bfloat16",
    attention="einsum",  # or "fused": docs/training_speed.md
)
# google/siglip-base-patch16-224 and openai/clip-vit-base-patch16: towers, and how their pictures are normalised.
_TOWERS: dict[str, dict[str, dict]] = {
    "siglip": dict(
        tower=dict(activation="gelu_tanh", pool="attention", **_BASE),
        pixels=dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    ),
    "clip": dict(
        tower=dict(
            activation="quick_gelu",
            norm_epsilon=1e-5,
            class_token=True,
            patch_bias=False,
            pre_norm=True,
            last_norm="pooled",
            pool="class",
            projection=512,
            **_BASE,
        ),
        pixels=dict(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)),
    ),
}


def get_config(tower: str = "siglip") -> config_dict.ConfigDict:
    """The experiment.

    Args:
      tower: what sees the pictures, one of `_TOWERS`.

    Raises:
      ValueError: there is no such tower.
    """
    if tower not in _TOWERS:
        raise ValueError(f"configs/duplex_clip_llm.py:{tower}: the towers are {', '.join(_TOWERS)}")
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
            mean=_TOWERS[tower]["pixels"]["mean"],
            std=_TOWERS[tower]["pixels"]["std"],
            tower=_TOWERS[tower]["tower"],
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
        # What is trained from which step on, how fast (docs/train_it_yourself.md); all else from the first.
        groups=dict(
            # Rows of our marks are new, so this begins at once.
            embedding=dict(match="(embedding|head)$", start_step=0, lr=0.1),
            text=dict(match="text/(?!.*/cross)", start_step=20_000, lr=0.1),
            tower=dict(match="tokenizer/anchors/tower/", start_step=100_000, lr=0.05),
        ),
    )
    return c
