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
)
