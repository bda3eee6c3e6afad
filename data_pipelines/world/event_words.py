"""The words of real events: what a camera's commentator says of an event, and what such a phrase says happened.

One form for each kind, so that whoever makes words (the world's look `real`, a detector that narrates) and whoever
scores them says the same: `<colour> <noun> <what happens> <side>`, colour and side where they are known. "red car
leaves right", "person enters", "cup is taken away", "something enters left".

An event's `subject` is what is said of the thing ("red car", "ball", "something"), its `detail` the side or "".
"""

import functools
from collections.abc import Sequence

from data_pipelines.schema import Event, Word
from data_pipelines.world.commentator import SIDES, WORD_GAP_S, WORD_S, Attributes, cut_phrases

# What is said after the thing. Kinds of `SIDED` may end with a side of the picture.
PREDICATES: dict[str, str] = {
    "enters": "enters",
    "leaves": "leaves",
    "stops": "stops",
    "starts": "starts",
    "appears": "appears",
    "vanishes": "vanishes",
    "taken": "is taken away",
    "put": "is put down",
    "approaches": "comes nearer",
    "recedes": "moves away",
}
SIDED = ("enters", "leaves")

COLOURS = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
# Other names of colours that labels and packs use.
_COLOUR_ALIASES = {"silver": "grey", "gray": "grey"}

# What is said of a thing whose class nobody is sure of; it has no colour.
UNSURE = "something"
_UNSURE_CLASSES = ("object", "unknown", UNSURE)

# The 80 classes of COCO, in the order that detectors number them (https://cocodataset.org, instances 2017).
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
CLASSES = (*COCO_CLASSES, "hand", "basket", "box", "chimpanzee", "tiger", "lion", "camel")

# Classes of which a shorter word is said.
_NOUNS = {
    "sports ball": "ball",
    "cell phone": "phone",
    "wine glass": "glass",
    "potted plant": "plant",
    "dining table": "table",
    "hair drier": "hairdryer",
}
_CLASSES_OF_NOUNS = {noun: name for name, noun in _NOUNS.items()}


def noun_of(class_name: str) -> str:
    """What is said of a class: "ball" of "sports ball", "something" of "object"; most are said as they are."""
    return UNSURE if class_name in _UNSURE_CLASSES else _NOUNS.get(class_name, class_name)


def class_of(noun: str) -> str:
    """The inverse of `noun_of`; `UNSURE` stays what it is."""
    return _CLASSES_OF_NOUNS.get(noun, noun)


def colour_of(name: str | None) -> str:
    """The word of `COLOURS` for a colour's name, "" for none.

    Raises:
      ValueError: the name is unknown.
    """
    if not name:
        return ""
    colour = _COLOUR_ALIASES.get(name, name)
    if colour not in COLOURS:
        raise ValueError(f"colour {name!r} is unknown, choose one of {(*COLOURS, *_COLOUR_ALIASES)}")
    return colour


def subject_of(class_name: str, colour: str | None = None) -> str:
    """What is said of a thing: "red car", "ball", "something" (which has no colour).

    Raises:
      ValueError: the colour is unknown.
    """
    noun, word = noun_of(class_name), colour_of(colour)
    return f"{word} {noun}" if word and noun != UNSURE else noun


def split_subject(subject: str, classes: tuple[str, ...] = CLASSES) -> tuple[str, str] | None:
    """(colour or "", class name) of a subject, `UNSURE` for the class of "something"; None if it names no thing."""
    nouns = _nouns(classes)
    if subject in nouns:  # first, since an orange is also a thing
        return "", class_of(subject)
    colour, _, noun = subject.partition(" ")
    if colour in COLOURS and noun in nouns and noun != UNSURE:
        return colour, class_of(noun)
    return None


def make_event(
    t_s: float, kind: str, class_name: str, colour: str | None = None, side: str | None = None,
    classes: tuple[str, ...] = CLASSES,
) -> Event:  # fmt: skip
    """The event of a label or of a detector. A side is dropped where the kind's phrase has none ("car stops").

    Args:
      t_s: when, in seconds from the clip's first frame.
      kind: one of `PREDICATES`.
      class_name: one of `classes`, or "object" where the class is unsure.
      colour, side: None or "" where unknown.
      classes: all classes; a pack may have its own.

    Raises:
      ValueError: kind, class, colour or side is unknown.
    """
    if kind not in PREDICATES:
        raise ValueError(f"event kind {kind!r} is unknown, choose one of {tuple(PREDICATES)}")
    if noun_of(class_name) not in _nouns(classes):
        raise ValueError(f"class {class_name!r} is unknown: name it in `classes`, or say 'object' of what is unsure")
    if side and side not in SIDES:
        raise ValueError(f"side {side!r} is unknown, choose one of {SIDES}")
    return Event(t_s, kind, subject_of(class_name, colour), side if side and kind in SIDED else "")


def phrase(event: Event) -> tuple[str, ...]:
    """The words that say `event`.

    Raises:
      ValueError: the kind has no phrase, or a kind without a side has one.
    """
    if event.kind not in PREDICATES:
        raise ValueError(f"event kind {event.kind!r} is unknown, choose one of {tuple(PREDICATES)}")
    if event.detail and not (event.kind in SIDED and event.detail in SIDES):
        raise ValueError(
            f"detail {event.detail!r} of {event.kind!r} cannot be said: only {SIDED} have a side of {SIDES}"
        )
    return (*event.subject.split(), *PREDICATES[event.kind].split(), *event.detail.split())


def say(
    events: Sequence[Event], lag_s: float, word_gap_s: float = WORD_GAP_S
) -> tuple[tuple[Word, ...], tuple[Event, ...], tuple[Event, ...]]:
    """Says each event as it happens; a phrase waits until the one before it is said.

    Args:
      events: in order of time.
      lag_s: the longest that a phrase may wait; what would come later is left out.
      word_gap_s: from the start of a word to that of the next.

    Returns:
      The words, the events that they say, and those that were left out.
    """
    words: list[Word] = []
    said, left_out = [], []
    free_s = 0.0
    for event in events:
        start_s = max(event.t_s, free_s)
        if start_s > event.t_s + lag_s:
            left_out.append(event)
            continue
        said.append(event)
        texts = phrase(event)
        for position, text in enumerate(texts):
            at_s = start_s + position * word_gap_s
            words.append(Word(text, at_s, at_s + min(WORD_S, word_gap_s), ends_sentence=position == len(texts) - 1))
        free_s = start_s + len(texts) * word_gap_s
    return tuple(words), tuple(said), tuple(left_out)


def parse_phrase(words: Sequence[str], classes: tuple[str, ...] = CLASSES) -> Attributes | None:
    """The attributes `(kind, subject, detail)` that the words say, or None if they are no phrase of these classes."""
    return _parse(tuple(words), classes)


@functools.lru_cache(maxsize=65536)
def _parse(words: tuple[str, ...], classes: tuple[str, ...]) -> Attributes | None:
    for kind, predicate in _predicates():
        body, side = words, ""
        if kind in SIDED and words and words[-1] in SIDES:
            body, side = words[:-1], words[-1]
        subject = " ".join(body[: -len(predicate)])
        if body[-len(predicate) :] == predicate and split_subject(subject, classes) is not None:
            return kind, subject, side
    return None


def split_phrases(
    words: Sequence[tuple[str, float]], classes: tuple[str, ...] = CLASSES
) -> list[tuple[Attributes | None, float, str]]:
    """Cuts a running commentary into phrases, as the world's `split_phrases` does, by the grammar of real events.

    Args:
      words: (text, start in seconds), in order.
      classes: all classes.

    Returns:
      (attributes, start in seconds, text) of each phrase; attributes are None for words that belong to none.
    """
    return cut_phrases(words, lambda candidate: _parse(candidate, classes), _lengths(classes))


@functools.cache
def lexicon(classes: tuple[str, ...] = CLASSES) -> list[str]:
    """Every word that may be said of these classes, sorted."""
    said = (*_nouns(classes), *PREDICATES.values())
    return sorted({word for text in said for word in text.split()} | set(COLOURS) | set(SIDES))


@functools.cache
def _nouns(classes: tuple[str, ...]) -> frozenset[str]:
    return frozenset({noun_of(name) for name in classes} | {UNSURE})


@functools.cache
def _predicates() -> list[tuple[str, tuple[str, ...]]]:
    return [(kind, tuple(text.split())) for kind, text in PREDICATES.items()]


@functools.cache
def _lengths(classes: tuple[str, ...]) -> list[int]:
    """How many words a phrase may have, longest first."""
    longest_noun = max(len(noun.split()) for noun in _nouns(classes))
    longest = 1 + longest_noun + max(len(predicate) + (kind in SIDED) for kind, predicate in _predicates())
    return list(range(longest, 1, -1))
