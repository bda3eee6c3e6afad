"""The commentator: from events to timed words, and from words back to what they say.

One table of patterns serves both ways. In a pattern `{s}` is the subject ("red circle"), `{o}` the other thing,
`{side}` a side of the frame and `{c}` a colour. The first pattern of each kind is the one that the plain look uses.
"""

import functools
from collections.abc import Callable, Sequence

from data_pipelines.schema import Event, Word
from data_pipelines.world.config import LOOKS, WorldConfig

# A word every third of a second is an unhurried speaker.
WORD_GAP_S = 1 / 3
WORD_S = 0.3
# A silence longer than this ends a phrase, finished or not.
PAUSE_S = 1.0

SIDES = ("left", "right", "top", "bottom")

PATTERNS: dict[str, tuple[str, str, str]] = {
    "enters": ("{s} enters {side}", "{s} comes in {side}", "from {side} comes {s}"),
    "leaves": ("{s} leaves {side}", "{s} goes out {side}", "out {side} goes {s}"),
    "stops": ("{s} stops", "{s} comes to rest", "now {s} stands still"),
    "starts": ("{s} starts", "{s} begins to move", "off goes {s}"),
    "bounces": ("{s} bounces", "{s} springs back", "edge throws back {s}"),
    "collides": ("{s} hits {o}", "{s} runs into {o}", "{s} and {o} collide"),
    "recolours": ("{s} turns {c}", "{s} becomes {c}", "now {s} is {c}"),
    "turns": ("{s} swerves", "{s} changes direction", "sharply {s} veers off"),
    "appears": ("{s} appears", "{s} pops up", "suddenly there is {s}"),
    "vanishes": ("{s} vanishes", "{s} is gone", "no more {s}"),
    "passes": ("{s} passes behind {o}", "{s} slips behind {o}", "{o} hides {s}"),
    # Of words that the others have brought in, so that the lexicon, and with it every tokenizer, is what it was.
    "returns": ("{s} is back {side}", "{s} comes back {side}", "back from {side} comes {s}"),
}
VARIANTS = 3

Attributes = tuple[str, str, str]


@functools.cache
def _vocabulary() -> tuple[frozenset[str], frozenset[str]]:
    """All colours and all shapes of all looks."""
    dynamics = [WorldConfig(look=look).dynamics for look in LOOKS]
    colours = frozenset(colour for d in dynamics for colour in d.colours)
    return colours, frozenset(shape for d in dynamics for shape in d.shapes)


@functools.cache
def lexicon(look: str = "rich") -> list[str]:
    """Every word that a commentator of any look may say, sorted: one tokenizer serves all looks.

    Raises:
      ValueError: the look is unknown.
    """
    if look not in LOOKS:
        raise ValueError(f"world look {look!r} is unknown, choose one of {LOOKS}")
    colours, shapes = _vocabulary()
    fixed = {word for patterns in PATTERNS.values() for pattern in patterns for word in pattern.split()}
    return sorted({word for word in fixed if not word.startswith("{")} | set(SIDES) | colours | shapes)


def phrase(event: Event, variant: int = 0) -> tuple[str, ...]:
    """The words that say `event` in its `variant`-th phrasing.

    Raises:
      ValueError: no such kind of event or variant.
    """
    if event.kind not in PATTERNS:
        raise ValueError(f"event kind {event.kind!r} is unknown, choose one of {tuple(PATTERNS)}")
    if not 0 <= variant < VARIANTS:
        raise ValueError(f"phrase variant must be 0 to {VARIANTS - 1}, got {variant}")
    pattern = PATTERNS[event.kind][variant]
    return tuple(pattern.format(s=event.subject, o=event.detail, c=event.detail, side=event.detail).split())


def parse_phrase(words: Sequence[str]) -> Attributes | None:
    """The attributes `(kind, subject, detail)` that the words say, or None if they are no phrase."""
    return _parse(tuple(words))


@functools.lru_cache(maxsize=65536)
def _parse(words: tuple[str, ...]) -> Attributes | None:
    for kind, pattern in _patterns_by_length().get(len(words), ()):
        slots = _match(pattern, words)
        if slots is not None:
            return (kind, slots.pop("s"), next(iter(slots.values()), ""))
    return None


@functools.cache
def _patterns_by_length() -> dict[int, list[tuple[str, tuple[str, ...]]]]:
    patterns: dict[int, list[tuple[str, tuple[str, ...]]]] = {}
    for kind, variants in PATTERNS.items():
        for pattern in variants:
            # A thing is two words, so its place is split in two, and a match goes word by word.
            parts = pattern.replace("{s}", "{s0} {s1}").replace("{o}", "{o0} {o1}").split()
            patterns.setdefault(len(parts), []).append((kind, tuple(parts)))
    return patterns


def _match(pattern: tuple[str, ...], words: tuple[str, ...]) -> dict[str, str] | None:
    colours, shapes = _vocabulary()
    allowed: dict[str, frozenset[str] | tuple[str, ...]] = {
        "{s0}": colours, "{o0}": colours, "{c}": colours, "{s1}": shapes, "{o1}": shapes, "{side}": SIDES,
    }  # fmt: skip
    slots: dict[str, str] = {}
    for part, word in zip(pattern, words, strict=True):
        if part not in allowed:
            if part != word:
                return None
            continue
        if word not in allowed[part]:
            return None
        name = part.strip("{}01")
        slots[name] = f"{slots[name]} {word}" if name in slots else word
    return slots


def split_phrases(words: Sequence[tuple[str, float]]) -> list[tuple[Attributes | None, float, str]]:
    """Cuts a running commentary into phrases: from the left, always the longest that the grammar knows.

    Args:
      words: (text, start in seconds), in order.

    Returns:
      (attributes, start in seconds, text) of each phrase. Words that belong to none are phrases too, with attributes
      None: as many as stand together without a pause.
    """
    return cut_phrases(words, _parse, sorted(_patterns_by_length(), reverse=True))


def cut_phrases(
    words: Sequence[tuple[str, float]], parse: Callable[[tuple[str, ...]], Attributes | None], lengths: Sequence[int]
) -> list[tuple[Attributes | None, float, str]]:
    """What `split_phrases` does, for any grammar.

    Args:
      words: (text, start in seconds), in order.
      parse: the attributes that words say, None if they are no phrase.
      lengths: how many words a phrase may have, longest first.

    Returns:
      As `split_phrases`.
    """
    phrases: list[tuple[Attributes | None, float, str]] = []
    strays: list[tuple[str, float]] = []

    def close_strays():
        if strays:
            phrases.append((None, strays[0][1], " ".join(text for text, _ in strays)))
            strays.clear()

    first = 0
    while first < len(words):
        if first and words[first][1] - words[first - 1][1] > PAUSE_S:
            close_strays()
        for length in lengths:
            candidate = words[first : first + length]
            unbroken = all(b[1] - a[1] <= PAUSE_S for a, b in zip(candidate, candidate[1:]))
            attributes = parse(tuple(text for text, _ in candidate)) if len(candidate) == length and unbroken else None
            if attributes is not None:
                close_strays()
                phrases.append((attributes, candidate[0][1], " ".join(text for text, _ in candidate)))
                first += length
                break
        else:
            strays.append(words[first])
            first += 1
    close_strays()
    return phrases


def speech_s(num_words: int, word_gap_s: float = WORD_GAP_S) -> float:
    """How long a phrase of so many words takes, to the end of its last word."""
    return (num_words - 1) * word_gap_s + min(WORD_S, word_gap_s)


def comment(
    events: Sequence[Event],
    picks: Sequence[float],
    num_variants: int,
    lag_s: float,
    clip_s: float,
    *,
    word_gap_s: float = WORD_GAP_S,
    say: Callable[[Event, int], tuple[str, ...]] = phrase,
) -> tuple[Word, ...] | None:
    """Says each event as it happens; a phrase waits until the one before it is said.

    Args:
      events: in order of time.
      picks: a random number in [0, 1) for each event, which chooses among its phrasings.
      num_variants: how many phrasings are in use.
      lag_s: the longest that a phrase may wait. A shorter phrasing is taken where the next phrase would wait longer.
      clip_s: all is said by then.
      word_gap_s: from the start of a word to that of the next.
      say: the words of an event in a phrasing.

    Returns:
      The words, or None if even the shortest phrasings take too long.
    """
    words: list[Word] = []
    free_s = 0.0
    for number, event in enumerate(events):
        start_s = max(event.t_s, free_s)
        next_s = events[number + 1].t_s + lag_s if number + 1 < len(events) else None
        first = int(picks[number] * num_variants)
        variants = [say(event, (first + k) % num_variants) for k in range(num_variants)]
        for spoken in (variants[0], *sorted(variants[1:], key=len)):
            free_s = start_s + len(spoken) * word_gap_s
            if start_s + speech_s(len(spoken), word_gap_s) <= clip_s and (next_s is None or free_s <= next_s):
                break
        else:
            return None
        for position, text in enumerate(spoken):
            word_s = start_s + position * word_gap_s
            last = position == len(spoken) - 1
            words.append(Word(text, word_s, word_s + min(WORD_S, word_gap_s), ends_sentence=last))
    return tuple(words)
