"""What is said of a video, as timing metrics read it: utterances, each of words with their times."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.schema import Word
from data_pipelines.words import split_words, spread, utterances
from mmduplex_jax.evals import captions

# How fast people speak, where only a begin is known: 150 words a minute, as TRACE assumes (yukw777/tglg c5d1159,
# src/real_time_vlm_benchmark/eval/real_time_gen_eval.py).
SPOKEN_WORDS_HZ = 150 / 60
# The shortest pause that ends an utterance, and how long a word takes of which only the begin is known.
PAUSE_S, WORD_S = 0.5, 0.3


@dataclasses.dataclass(frozen=True)
class Utterance:
    """Something that is said in one go: a sentence, or what stands between two pauses.

    Attributes:
      words: in the order in which they are said, in seconds of the video; at least one.
      judged: how well it covers what should have been said, from 1 to 5, where a judge has said so.
    """

    words: tuple[Word, ...]
    judged: int | None = None

    @property
    def start_s(self) -> float:
        return self.words[0].start_s

    @property
    def end_s(self) -> float:
        """When its last word is over; always after it begins."""
        last = self.words[-1]
        known = last.end_s is not None and last.end_s > self.start_s
        return last.end_s if known and last.end_s is not None else last.start_s + WORD_S

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)

    @property
    def spoken_until_s(self) -> float:
        """When it would be over if a person read it out from its begin on, at `SPOKEN_WORDS_HZ`."""
        return self.start_s + len(self.words) / SPOKEN_WORDS_HZ


# What is said of one video, in the order of time.
Commentary = Sequence[Utterance]


def utterance_at(text: str, start_s: float, end_s: float | None = None, judged: int | None = None) -> Utterance:
    """A text as an utterance, its words one after another.

    Args:
      text: at least one word.
      start_s: when it begins.
      end_s: when it ends; where that is not known, or is not after the begin, it is spoken at `SPOKEN_WORDS_HZ`.
      judged: see `Utterance`.

    Raises:
      ValueError: the text has no words.
    """
    words = split_words(text)
    if not words:
        raise ValueError(f"an utterance needs words, and at {start_s:g} s there are none")
    if end_s is None or end_s <= start_s:
        end_s = start_s + len(words) / SPOKEN_WORDS_HZ
    return Utterance(tuple(spread(words, start_s, end_s)), judged)


def emitted_words(entries: Sequence[Mapping[str, Any]]) -> list[Word]:
    """Words of a report of `launch.commentate`, each when it was said.

    Where the stream says where sentences end, one that was open ends with its scene, too.
    """
    words = []
    for entry, after in itertools.zip_longest(entries, entries[1:]):
        ends = entry.get("ends_sentence")
        if ends is False and after is not None:
            ends = after.get("scene_s") != entry.get("scene_s")
        words.append(Word(entry["text"], float(entry["t_emit_s"]), ends_sentence=bool(ends)))
    return words


def cut_words(words: Sequence[Word], pause_s: float = PAUSE_S) -> list[Utterance]:
    """Utterances of words: each ends where a sentence is marked to end, or before a pause.

    Args:
      words: in the order of time.
      pause_s: the shortest silence that ends an utterance.
    """
    found = []
    for spoken in utterances(words, pause_s):
        begin = spoken.start
        for number in spoken:
            if words[number].ends_sentence or number == spoken.stop - 1:
                found.append(Utterance(tuple(words[begin : number + 1])))
                begin = number + 1
    return found


def plain(text: str) -> str:
    """A word as it is compared: in lower case, without punctuation; as it stands where it is nothing else."""
    return "".join(captions.words_of(text)) or text


def words_of(commentary: Commentary) -> list[Word]:
    """All words, in the order of time."""
    return sorted(
        itertools.chain.from_iterable(utterance.words for utterance in commentary), key=lambda word: word.start_s
    )


def moved(commentary: Commentary, by_s: float) -> list[Utterance]:
    """The same, said `by_s` later."""
    return [
        dataclasses.replace(
            utterance,
            words=tuple(
                dataclasses.replace(
                    word, start_s=word.start_s + by_s, end_s=None if word.end_s is None else word.end_s + by_s
                )
                for word in utterance.words
            ),
        )
        for utterance in commentary
    ]
