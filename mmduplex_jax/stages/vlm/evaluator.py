"""What `launch.evaluate` does with a model of stage `vlm`: captions of clips, scored beside controls of known worth."""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipelines.pairs import middle_of, spread_frames
from data_pipelines.schema import Record
from mmduplex_jax.evals.captions import caption_scores, check_installed
from mmduplex_jax.stages.registry import pair_format
from mmduplex_jax.stages.vlm.captioner import Caption, Captioner, decoding_of
from mmduplex_jax.weights.trained import Trained

# real: of the clip itself; shuffled: of the clip before it; blank: of a grey picture; most_frequent: always the text
# that most clips have.
WHOSE = ("real", "shuffled", "blank", "most_frequent")
_GREY = 128


def evaluate_vlm(trained: Trained, records: Iterable[Record], number: int, args: argparse.Namespace) -> dict[str, Any]:
    """Captions clips, with progress on stderr.

    Of every record it is the middle piece (or utterance), as long as the pieces that were trained on, with its text as
    the reference; records without one are left out.

    Args:
      trained: a model of stage `vlm`.
      records: the clips.
      number: of them.
      args: `batch` and `seed` of `launch.evaluate`, and its flags on decoding.

    Returns:
      `captions` (for each of WHOSE, see `evals/captions.py`; None where fewer than two clips have a text), `decoding`,
      `pairs` and `said` (every clip's key, reference, caption and its log-probability), as JSON values.

    Raises:
      ValueError: a clip does not have the model's clock, its frames are too small, flags do not fit each other, or a
        package that scores is missing.
    """
    check_installed()
    decoding = decoding_of(args)
    captioner, form = Captioner(trained, decoding, args.batch, args.seed), pair_format(trained.config)
    assert form is not None  # stage `vlm` is about pairs
    said: list[Caption] = []
    waiting: list[np.ndarray] = []
    keys, texts = [], []
    for record in tqdm(records, total=number, unit="clip", desc="evaluate", disable=None):
        if record.clock != trained.clock:
            raise ValueError(f"{record.key} has {record.clock}, the model {trained.clock}: prepare the clips with it")
        ticks, words = middle_of(record, captioner.num_ticks, form)
        if not words:
            continue
        try:
            waiting.append(spread_frames(record, ticks, captioner.frames, captioner.frame_px))
        except ValueError as error:
            raise ValueError(f"{record.key}: {error}") from error
        keys.append(record.key)
        texts.append(" ".join(words))
        if len(waiting) == args.batch:
            said += captioner.captions(waiting, len(said))
            waiting = []
    said += captioner.captions(waiting, len(said))
    report: dict[str, Any] = {"captions": None, "decoding": dataclasses.asdict(decoding), "pairs": len(said)}
    report["said"] = [
        {"key": key, "reference": text, "caption": caption.text, "log_prob": caption.log_prob}
        for key, text, caption in zip(keys, texts, said)
    ]
    if len(said) < 2:
        return report
    grey = np.full((captioner.frames, captioner.frame_px, captioner.frame_px, 3), _GREY, np.uint8)
    blank = captioner.captions([grey] * (len(said) if decoding.how == "sample" else 1))
    ours = [caption.text for caption in said]
    ((most_frequent, _),) = Counter(texts).most_common(1)
    given = {
        "real": ours,
        "shuffled": [ours[-1], *ours[:-1]],
        "blank": [caption.text for caption in blank] * (len(said) // len(blank)),
        "most_frequent": [most_frequent] * len(said),
    }
    report["captions"] = {whose: caption_scores(given[whose], [[text] for text in texts]) for whose in WHOSE}
    return report


def format_vlm_table(report: dict[str, Any]) -> str:
    """The report as a table that a person reads, and the first few captions."""
    if report["captions"] is None:
        return f"captions: {report['pairs']} of the clips have a text, at least 2 are needed"
    title = f"captions of {report['pairs']}, {report['decoding']['how']}"
    lines = [f"{title:28}{'CIDEr':>8}{'BLEU-4':>8}{'ROUGE-L':>9}{'METEOR':>8}{'exact':>8}"]
    for whose, scores in report["captions"].items():
        lines.append(
            f"{whose:28}{scores['cider']:8.3f}{scores['bleu_4']:8.3f}{scores['rouge_l']:9.3f}"
            f"{scores['meteor_exact_stem']:8.3f}{scores['exact']:8.3f}"
        )
    lines += ["METEOR is by equal words and stems, without synonyms", ""]
    for row in report["said"][:5]:
        lines.append(f"  {row['key']}: {row['caption']!r} (is: {row['reference']!r})")
    return "\n".join(lines)
