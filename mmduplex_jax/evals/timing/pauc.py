"""PAUC: how soon, and how well, replies cover what there is to say (Wang et al., 2025, arXiv:2507.09313).

Whenever something is to be said there is a span of time for it. Correctness over the span is a staircase that begins
at half a level and takes each reply's level when the reply comes; PAUC is the area under it, as a share of all there
could be. As PINTO0309/MMDuet2 cd3854d computes it (rl/verl/recipe/proactive/reward_function.py), where a language
model judges replies from 1 to 5.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mmduplex_jax.evals.captions import words_of
from mmduplex_jax.evals.timing.utterances import Commentary, Utterance

# How much of a span's time is forgiven: 0, a reply at the end of its span is worth nothing; 1, it does not matter when.
OMEGAS = (0.0, 0.5, 1.0)
# The judge's scale is 1 to 5, counted from 0, and a span begins half a level up.
LEVELS_MAX, _START_LEVEL = 4, 0.5


def staircase_area(replies: Iterable[tuple[float, float]], span_s: float, omega: float) -> float:
    """The area under a span's staircase, as a share of all there could be.

    Args:
      replies: seconds since the span's begin, from 0 to `span_s`, and the level from 0 to `LEVELS_MAX`.
      span_s: how long the span is.
      omega: by which part replies are moved towards the span's begin, from 0 to 1.

    Raises:
      ValueError: the span has no length, or a reply is not within it.
    """
    if span_s <= 0:
        raise ValueError(f"a span to reply in takes time, and this one takes {span_s:g} s")
    level, since_s, area = _START_LEVEL, 0.0, 0.0
    for time_s, reached in sorted(replies, key=lambda reply: reply[0]):
        if not 0 <= time_s <= span_s:
            raise ValueError(f"a reply {time_s:g} s after the begin of a span of {span_s:g} s is not within it")
        at_s = time_s * (1 - omega)
        area += (at_s - since_s) * level
        level, since_s = reached, at_s
    return (area + (span_s - since_s) * level) / (span_s * LEVELS_MAX)


def lexical_level(reply: str, wanted: str) -> int:
    """How much of what is wanted a reply covers, by words: 4 for all of them, 3 for three quarters, ... 0 for none.

    In the place of the language model that judges whether a reply covers the key points; it knows no synonyms.
    """
    said, needed = Counter(words_of(reply)), Counter(words_of(wanted))
    covered = sum((said & needed).values()) / max(sum(needed.values()), 1)
    return int(LEVELS_MAX * covered + 0.5)


def reply_areas(said: Commentary, reference: Commentary, duration_s: float) -> list[Mapping[float, float]]:
    """Of each utterance that should be said, the area of every ω in `OMEGAS`.

    The span of a reference utterance lasts until the next one begins, the last until the video is over. A reply that
    says, word for word, what was said in the same span before is left out, as a repetition.

    Args:
      said: replies; where a judge has judged them, its scores count, else `lexical_level`.
      reference: what should be said, in the order of time.
      duration_s: of the video.

    Raises:
      ValueError: some of what was said has been judged and some has not, or not from 1 to 5.
    """
    if len({one.judged is None for one in said}) > 1:
        raise ValueError("some of these utterances have a judge's score and others have none: judge all, or none")
    areas: list[Mapping[float, float]] = []
    for number, wanted in enumerate(reference):
        last = number + 1 == len(reference)
        end_s = max(duration_s, wanted.end_s) if last else reference[number + 1].start_s
        span_s = end_s - wanted.start_s
        if span_s <= 0:  # two begin at once: whatever replies to the one replies to the other
            end_s = wanted.end_s
            span_s = end_s - wanted.start_s
        within = [one for one in said if wanted.start_s <= one.start_s and (one.start_s < end_s or last)]
        fresh = {one.text: one for one in reversed(within)}.values()  # the first that says it
        replies = [(min(one.start_s - wanted.start_s, span_s), _level(one, wanted)) for one in fresh]
        areas.append({omega: staircase_area(replies, span_s, omega) for omega in OMEGAS})
    return areas


def _level(reply: Utterance, wanted: Utterance) -> int:
    if reply.judged is None:
        return lexical_level(reply.text, wanted.text)
    if not 1 <= reply.judged <= LEVELS_MAX + 1:
        raise ValueError(f"a judge scores from 1 to {LEVELS_MAX + 1}, and {reply.text[:40]!r} has {reply.judged}")
    return reply.judged - 1


def pauc_scores(areas: Sequence[Mapping[float, float]]) -> dict[str, float | None]:
    """PAUC of every ω: the mean over all utterances that should be said; None where there are none."""
    return {f"omega_{omega:g}": sum(area[omega] for area in areas) / len(areas) if areas else None for omega in OMEGAS}
