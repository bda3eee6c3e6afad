import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.schema import Event
from data_pipelines.world import event_words
from data_pipelines.world.commentator import SIDES, WORD_GAP_S
from data_pipelines.world.event_words import CLASSES, COLOURS, PREDICATES, SIDED, UNSURE, make_event


@st.composite
def an_event(draw):
    return make_event(
        0.0,
        draw(st.sampled_from(sorted(PREDICATES))),
        draw(st.sampled_from([*CLASSES, "object"])),
        draw(st.sampled_from([None, *COLOURS, "silver"])),
        draw(st.sampled_from([None, *SIDES])),
    )


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (("enters", "person", None, "left"), "person enters left"),
        (("leaves", "car", "red", "right"), "red car leaves right"),
        (("leaves", "sports ball", "green", None), "green ball leaves"),
        (("taken", "cup", None, None), "cup is taken away"),
        (("put", "bottle", None, None), "bottle is put down"),
        (("stops", "car", "silver", "left"), "grey car stops"),
        (("starts", "truck", None, None), "truck starts"),
        (("enters", "object", "white", "left"), "something enters left"),
        (("enters", "orange", "orange", None), "orange orange enters"),
        (("approaches", "bus", None, None), "bus comes nearer"),
    ],
)
def test_what_is_said(event, text):
    assert " ".join(event_words.phrase(make_event(0.0, *event))) == text


@given(an_event())
def test_a_phrase_says_its_event_and_nothing_else(event):
    words = event_words.phrase(event)
    assert event_words.parse_phrase(words) == event.attributes
    assert set(words) <= set(event_words.lexicon())
    assert len(words) <= 6


@given(st.lists(st.sampled_from(event_words.lexicon()), max_size=7))
def test_words_at_random_never_break_the_parser(words):
    attributes = event_words.parse_phrase(words)
    if attributes is not None:
        assert event_words.phrase(Event(0.0, *attributes)) == tuple(words)


@pytest.mark.parametrize(
    "text",
    ["", "enters", "left", "person", "red enters left", "white something stops", "person stops left", "it stops"],
)
def test_what_is_no_phrase(text):
    assert event_words.parse_phrase(text.split()) is None


@given(st.lists(st.tuples(an_event(), st.floats(0.0, 3.0)), max_size=6))
def test_running_commentary_is_cut_where_phrases_begin(said):
    words, expected, t_s = [], [], 0.0
    for event, silence_s in said:
        t_s += silence_s
        text = event_words.phrase(event)
        expected.append((event.attributes, t_s, " ".join(text)))
        for word in text:
            words.append((word, t_s))
            t_s += WORD_GAP_S
    # "ball" is a phrase's end nowhere and no side begins one, so that neighbours never run together.
    assert event_words.split_phrases(words) == expected


@given(st.sampled_from([*CLASSES, "object"]), st.sampled_from([None, *COLOURS]))
def test_a_subject_gives_back_class_and_colour(class_name, colour):
    expected = (UNSURE, "") if class_name == "object" else (class_name, colour or "")
    assert event_words.split_subject(event_words.subject_of(class_name, colour)) == expected[::-1]


def test_a_pack_may_have_classes_of_its_own():
    words = ["forklift", "enters", "left"]
    assert event_words.parse_phrase(words) is None
    classes = (*CLASSES, "forklift")
    assert event_words.parse_phrase(words, classes) == ("enters", "forklift", "left")
    assert make_event(1.0, "enters", "forklift", side="left", classes=classes).detail == "left"
    assert "forklift" in event_words.lexicon(classes)


@pytest.mark.parametrize(
    ("event", "what"),
    [
        (("explodes", "car"), "kind"),
        (("stops", "unicorn"), "class"),
        (("stops", "car", "mauve"), "colour"),
        (("enters", "car", None, "north"), "side"),
    ],
)
def test_what_is_unknown_is_refused(event, what):
    with pytest.raises(ValueError, match=f"{what} .* is unknown"):
        make_event(0.0, *event)


def test_a_side_that_cannot_be_said_is_refused():
    assert "stops" not in SIDED
    with pytest.raises(ValueError, match="cannot be said"):
        event_words.phrase(Event(0.0, "stops", "car", "left"))


def test_phrases_wait_for_each_other_and_not_for_long():
    events = [Event(1.0, "enters", "car", "left"), Event(1.2, "leaves", "person", ""), Event(1.3, "stops", "dog", "")]
    words, told, left_out = event_words.say(events, lag_s=1.0)
    assert [word.ends_sentence for word in words] == [False, False, True, False, True]
    assert [word.text for word in words] == ["car", "enters", "left", "person", "leaves"]
    assert [word.start_s for word in words] == pytest.approx([1.0, 4 / 3, 5 / 3, 2.0, 7 / 3])
    assert told == tuple(events[:2])
    assert left_out == (events[2],)
