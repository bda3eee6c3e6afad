"""Times of words that have none of their own: spread over what is known around them, by their length in characters."""

from collections.abc import Sequence

from data_pipelines.schema import Word


def spread(texts: Sequence[str], start_s: float, end_s: float) -> list[Word]:
    """Words one after another from `start_s` to `end_s`, each as long as its characters and a space are of all."""
    weights = [len(text) + 1 for text in texts]
    total, before, words = sum(weights), 0, []
    for text, weight in zip(texts, weights):
        after = before + weight
        begin_s = start_s + (end_s - start_s) * before / total
        words.append(Word(text, round(begin_s, 6), round(start_s + (end_s - start_s) * after / total, 6)))
        before = after
    return words


def fill_in(words: Sequence[tuple[str, float | None, float | None]], start_s: float, end_s: float) -> list[Word]:
    """Words of `[start_s, end_s]`, of which some have no start; these are spread between their neighbours.

    Args:
      words: `(text, start_s, end_s)` in order; an end without a start does not count.
    """
    done: list[Word] = []
    untimed: list[str] = []
    free_from_s = start_s
    for text, begin_s, stop_s in words:
        if begin_s is None:
            untimed.append(text)
            continue
        done += spread(untimed, free_from_s, max(free_from_s, begin_s))
        untimed = []
        done.append(Word(text, begin_s, stop_s))
        free_from_s = begin_s if stop_s is None else stop_s
    return done + spread(untimed, free_from_s, max(free_from_s, end_s))
