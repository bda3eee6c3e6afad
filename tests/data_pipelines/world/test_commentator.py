import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.schema import Event
from data_pipelines.world import WorldConfig, lexicon, parse_phrase, phrase, split_phrases
from data_pipelines.world.commentator import PATTERNS, SIDES, VARIANTS, WORD_GAP_S, comment
from data_pipelines.world.config import RETURNS, RICH_KINDS

RICH = WorldConfig(look="rich").dynamics
THINGS = [f"{colour} {shape}" for colour in RICH.colours for shape in RICH.shapes]
DETAILS = {"enters": SIDES, "leaves": SIDES, "collides": THINGS, "passes": THINGS, "recolours": RICH.colours}


@st.composite
def an_event(draw):
    kind = draw(st.sampled_from(RICH_KINDS))
    return Event(0.0, kind, draw(st.sampled_from(THINGS)), draw(st.sampled_from(DETAILS.get(kind, ("",)))))


@given(an_event(), st.integers(0, VARIANTS - 1))
def test_a_phrase_says_its_event_and_nothing_else(event, variant):
    words = phrase(event, variant)
    assert parse_phrase(words) == event.attributes
    assert len(words) <= 6
    assert set(words) <= set(lexicon())


@pytest.mark.parametrize("kind", RICH_KINDS)
def test_each_kind_has_three_phrasings(kind):
    event = Event(0.0, kind, "red car", DETAILS.get(kind, ("",))[0])
    assert len({phrase(event, variant) for variant in range(VARIANTS)}) == 3


def test_every_kind_has_patterns():
    assert set(PATTERNS) == {*RICH_KINDS, RETURNS}
    assert len(RICH_KINDS) >= 10


@given(st.lists(st.sampled_from(lexicon()), max_size=7))
def test_words_at_random_never_break_the_parser(words):
    attributes = parse_phrase(words)
    if attributes is not None:
        assert any(tuple(words) == phrase(Event(0.0, *attributes), variant) for variant in range(VARIANTS))


@pytest.mark.parametrize(
    "text", ["", "red", "red circle", "red circle enters", "red circle enters red", "circle red stops"]
)
def test_what_is_no_phrase(text):
    assert parse_phrase(text.split()) is None


def test_the_lexicon_serves_both_looks():
    assert lexicon("plain") == lexicon("rich") == sorted(set(lexicon()))
    assert {"left", "right", "red", "triangle", "dog"} <= set(lexicon())
    with pytest.raises(ValueError, match="unknown"):
        lexicon("ugly")


@given(st.lists(st.tuples(an_event(), st.integers(0, VARIANTS - 1), st.floats(0.0, 3.0)), max_size=6))
def test_running_commentary_is_cut_where_phrases_begin(said):
    words, expected, t_s = [], [], 0.0
    for event, variant, silence_s in said:
        t_s += silence_s
        text = phrase(event, variant)
        expected.append((event.attributes, t_s, " ".join(text)))
        for word in text:
            words.append((word, t_s))
            t_s += WORD_GAP_S
    assert split_phrases(words) == expected


def test_strays_are_phrases_without_attributes_cut_at_pauses():
    spoken = ["red", "circle", "red", "circle", "stops", "circle", "left"]
    times_s = [0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 4.0]
    assert split_phrases(list(zip(spoken, times_s, strict=True))) == [
        (None, 0.0, "red circle"),
        (("stops", "red circle", ""), 0.6, "red circle stops"),
        (None, 1.5, "circle"),
        (None, 4.0, "left"),
    ]


def test_a_phrase_does_not_reach_over_a_pause():
    assert split_phrases([("red", 0.0), ("circle", 0.3), ("stops", 2.0)]) == [
        (None, 0.0, "red circle"),
        (None, 2.0, "stops"),
    ]


def test_a_phrase_waits_for_the_one_before_it():
    events = [Event(1.0, "collides", "red circle", "blue square"), Event(2.0, "stops", "red circle")]
    words = comment(events, [0.0, 0.0], 1, lag_s=1.0, clip_s=12.0)
    assert [word.start_s for word in words] == pytest.approx([1 + k * WORD_GAP_S for k in range(8)])


def test_a_shorter_phrasing_is_taken_where_the_next_phrase_would_wait_too_long():
    events = [Event(1.0, "passes", "red circle", "blue square"), Event(2.5, "stops", "red circle")]
    longest = comment(events, [0.0, 0.0], VARIANTS, lag_s=1.0, clip_s=12.0)
    shorter = comment(events, [0.0, 0.0], VARIANTS, lag_s=0.3, clip_s=12.0)
    assert [word.text for word in longest][:6] == ["red", "circle", "passes", "behind", "blue", "square"]
    assert [word.text for word in shorter][:5] == ["blue", "square", "hides", "red", "circle"]
    assert comment(events, [0.0, 0.0], VARIANTS, lag_s=0.0, clip_s=12.0) is None


@pytest.mark.parametrize(("event", "variant"), [(Event(0, "sings", "red car"), 0), (Event(0, "stops", "red car"), 3)])
def test_unknown_kinds_and_variants_are_refused(event, variant):
    with pytest.raises(ValueError):
        phrase(event, variant)
