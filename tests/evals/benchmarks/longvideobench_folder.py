"""A small folder in LongVideoBench's published layout, with subtitles of both shapes."""

import json
from pathlib import Path
from typing import Any

STAMPED = [
    {"timestamp": [11.0, 11.4], "text": "one"},
    {"timestamp": [12.0, 15.5], "text": "two"},
    {"timestamp": [14.1, 14.2], "text": "three"},
    {"timestamp": [18.0, None], "text": "four"},
]
CLOCKED = [
    {"start": "00:00:00.200", "end": "00:00:00.700", "line": "ein"},
    {"start": "00:00:01.000", "end": "00:00:04.500", "line": "zwei"},
    {"start": "00:00:02.900", "end": "00:00:03.200", "line": "drei"},
]


def question(number: int, **changes: Any) -> dict[str, Any]:
    """A question's record; every second one has subtitles of the second shape."""
    stamped = number % 2 == 0
    record = {
        "id": f"q{number}",
        "video_id": f"v{number}",
        "video_path": f"v{number}.mp4",
        "subtitle_path": f"v{number}_en.json",
        "question": f"What is it {number}?",
        "question_wo_referring_query": "What is it?",
        "candidates": ["a cat", "a very long dog", "a hen", "a cow"][: 3 + number % 2],
        "correct_choice": number % 3,
        "position": [0, 10],
        "topic_category": "KA-Art",
        "question_category": "S2E" if stamped else "T3O",
        "level": "L1-Perception",
        "duration_group": 15 if stamped else 60,
        "starting_timestamp_for_subtitles": 10.0 if stamped else 0,
        "duration": 10.0 if stamped else 6.5,
        "view_count": 7,
    }
    return record | changes


def write_folder(folder: Path, number: int = 6, *, file: str = "lvb_val.json", **changes: Any) -> Path:
    """Writes so many questions, with their subtitles and without videos."""
    (folder / "subtitles").mkdir(parents=True)
    records = [question(i, **changes) for i in range(number)]
    for i, record in enumerate(records):
        lines = STAMPED if i % 2 == 0 else CLOCKED
        (folder / "subtitles" / record["subtitle_path"]).write_text(json.dumps(lines))
    (folder / file).write_text(json.dumps(records))
    return folder
