"""How good is a model of stage `vlm`? Captions of clips, scored beside controls of known worth."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from data_pipelines.pairs import middle_of, spread_frames
from data_pipelines.schema import Record
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.captions import caption_scores, check_installed
from mmduplex_jax.evals.evaluator import BATCH, UNSEEN_SEED, Metric, Report, apply_metrics, check_clock
from mmduplex_jax.stages.vlm.captioner import Caption, Captioner, decoding_of
from mmduplex_jax.stages.vlm.task import VlmTask, pair_format
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.typing import PyTree

# real: of the clip itself; shuffled: of the clip before it; blank: of a grey picture; most_frequent: always the text
# that most clips have.
CONTROLS = ("real", "shuffled", "blank", "most_frequent")
_GREY = 128


class CaptionResult(NamedTuple):
    """A caption beside the text that the data have: what a metric of stage `vlm` is given, one a clip with a text."""

    key: str
    reference: str
    caption: str
    log_prob: float


class VlmEvaluator:
    """Captions the middle piece (or utterance) of every clip, as long as those trained on; its text is the reference.

    Clips without a text are left out.
    """

    def __init__(
        self,
        task: VlmTask,
        config: Any,
        tokenizer: TextTokenizer,
        *,
        batch: int = BATCH,
        seed: int = UNSEEN_SEED,
        metrics: Mapping[str, Metric] | None = None,
        **decoding: Any,
    ):
        """Takes a model apart.

        Args:
          seed: of captions by chance.
          metrics: further ones, of `CaptionResult`.
          decoding: of `DECODING_FLAGS`.

        Raises:
          ValueError: flags do not fit each other, or a package that scores is missing.
        """
        check_installed()
        self._decoding = decoding_of(**decoding)
        self._captioner = Captioner(task, config, tokenizer, self._decoding, batch, seed)
        self._form, self._clock, self._batch, self._metrics = (
            pair_format(config), Clock(**config.clock), batch, metrics or {},
        )  # fmt: skip

    def run(self, params: PyTree, records: Iterable[Record], number: int) -> Report:
        """Captions clips; see `mmduplex_jax.evals.evaluator.Evaluator`.

        Returns:
          `captions` (for each of CONTROLS, see `evals/captions.py`; None where fewer than two clips have a text),
          `decoding`, `pairs` and `said` (see `CaptionResult`).
        """
        captioner = self._captioner
        said: list[Caption] = []
        waiting: list[np.ndarray] = []
        keys, texts = [], []
        for record in tqdm(records, total=number, unit="clip", desc="evaluate", disable=None):
            check_clock(record, self._clock)
            ticks, words = middle_of(record, captioner.num_ticks, self._form)
            if not words:
                continue
            try:
                waiting.append(spread_frames(record, ticks, captioner.frames, captioner.frame_px))
            except ValueError as error:
                raise ValueError(f"{record.key}: {error}") from error
            keys.append(record.key)
            texts.append(" ".join(words))
            if len(waiting) == self._batch:
                said += captioner.captions(waiting, len(said), params)
                waiting = []
        said += captioner.captions(waiting, len(said), params)
        results = [CaptionResult(key, text, one.text, one.log_prob) for key, text, one in zip(keys, texts, said)]
        report: Report = {
            "captions": self._scores(params, results) if len(results) > 1 else None,
            "decoding": dataclasses.asdict(self._decoding),
            "pairs": len(results),
            "said": [result._asdict() for result in results],
        }
        return report | {"metrics": apply_metrics(self._metrics, results)}

    def _scores(self, params: PyTree, results: list[CaptionResult]) -> dict[str, Any]:
        captioner, number = self._captioner, len(results)
        grey = np.full((captioner.frames, *captioner.frame_px, 3), _GREY, np.uint8)
        blank = captioner.captions([grey] * (number if self._decoding.how == "sample" else 1), params=params)
        ours, texts = [result.caption for result in results], [result.reference for result in results]
        ((most_frequent, _),) = Counter(texts).most_common(1)
        given = {
            "real": ours,
            "shuffled": [ours[-1], *ours[:-1]],
            "blank": [caption.text for caption in blank] * (number // len(blank)),
            "most_frequent": [most_frequent] * number,
        }
        return {name: caption_scores(given[name], [[text] for text in texts]) for name in CONTROLS}


def format_table(report: Report) -> str:
    """The report as a person reads it, with the first few captions."""
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
