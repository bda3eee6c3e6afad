"""A trained model answers a benchmark's questions, and its answers are kept as they come."""

from collections.abc import Mapping, Sequence

from mmduplex_jax.evals.benchmarks.protocol import Item, Prediction
from mmduplex_jax.evals.benchmarks.runner import (
    AnswersFile,
    answer_items,
    check_videos,
    fingerprint,
    questions_fingerprint,
)
from mmduplex_jax.stages.registry import find_stage
from mmduplex_jax.weights.trained import load_trained


def ask_model(
    benchmark: str,
    checkpoint: str,
    items: Sequence[Item],
    *,
    subtitles: bool,
    outputs: Sequence[str | None],
    process: int | None = None,
    processes: int | None = None,
) -> tuple[str, Mapping[str, Prediction] | None]:
    """What to call the model, and its answers; None where other processes have not given theirs yet.

    Args:
      benchmark: its name.
      checkpoint: a model's name or folder.
      items: the questions, of all processes.
      subtitles: whether the model gets a video's.
      outputs: files of the result; answers are kept beside the first that is one ("-", "" and None are none).
      process, processes: which part of the items is asked here, and of how many; as JAX is set up where they are None.

    Raises:
      BenchmarkError: answers of another run are kept there, or an item has no video.
    """
    check_videos(items)
    trained = load_trained(checkpoint)
    make = find_stage(trained.config.stage).make_answerer
    answerer = make(trained.task, trained.params, trained.config, trained.tokenizer, subtitles=subtitles)
    made_by = {
        "benchmark": benchmark,
        "checkpoint": trained.name,
        "parameters": fingerprint(trained.params),
        "subtitles": subtitles,
        "items": len(items),
        "questions": questions_fingerprint(items),
    }
    kept = AnswersFile.beside(outputs, made_by, process=process, processes=processes)
    return trained.name, answer_items(items, answerer, kept)
