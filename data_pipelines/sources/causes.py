"""Why inputs are not used, in the same words for every source, so that they can be counted."""

CANNOT_DECODE = "cannot decode"
MISSING_VIDEO = "video is missing"
NO_WORDS = "no words"
WORDS_OUTSIDE = "words outside the clip"
SPEECH_RATE = "speech rate out of range"
WORD_GAP = "gap between words too long"
TOO_SHORT = "shorter than a window"
TOO_LONG = "longer than allowed"
DUPLICATE = "duplicate by hash"
LANGUAGE = "language not wanted"
BROKEN_ANNOTATION = "broken annotation"
DISCARDED = "discarded by a person"
HELD_CAMERA = "camera held back"
UNEXPLAINED = "moves, and nobody says what"
UNCHECKED = "labels that nobody has checked"

# What of an input that is used is left out, mended or doubtful (`sources.Noted`).
BROKEN_CUE = "broken cue or word, left out"
MARKS = "marks that nobody says, left out"
SITE_ADVERTISEMENT = "credits of subtitles, left out"
OUT_OF_ORDER = "not in the order of times, sorted"
OVERLAP = "overlapping cues, said in turn"
OTHER_FORMAT = "another format than the name says"
NO_TRANSCRIPT = "JSON that is no transcript, left out"
TIME_MAP = "X-TIMESTAMP-MAP that fits no clock of the video, left out"
TOO_FAST = "more happens than can be said, left out"
UNSAYABLE = "labels without a word for a part of them, said without it or left out"
AFTER_END = "labels after the video's end, left out"
FASTER_SPEECH = "words said faster than the voice speaks by itself"
CUT_SPEECH = "words cut off, since the voice takes longer than there is time"
UNSAID = "words of which the voice says nothing"

NOTES = (
    BROKEN_CUE,
    MARKS,
    SITE_ADVERTISEMENT,
    OUT_OF_ORDER,
    OVERLAP,
    OTHER_FORMAT,
    NO_TRANSCRIPT,
    TIME_MAP,
    TOO_FAST,
    UNSAYABLE,
    AFTER_END,
    FASTER_SPEECH,
    CUT_SPEECH,
    UNSAID,
)

CAUSES = (
    CANNOT_DECODE,
    MISSING_VIDEO,
    NO_WORDS,
    WORDS_OUTSIDE,
    SPEECH_RATE,
    WORD_GAP,
    TOO_SHORT,
    TOO_LONG,
    DUPLICATE,
    LANGUAGE,
    BROKEN_ANNOTATION,
    DISCARDED,
    HELD_CAMERA,
    UNEXPLAINED,
    UNCHECKED,
)
