"""The design page walks one frame to a word through files that are there, and no more than a reader can hold."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_one_frames_way_to_a_word_is_at_most_14_files_that_exist():
    page = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    walk = page.split("## One frame's way to a word")[1].split("\n## ")[0]
    listed = re.findall(r"^\d+\. `([\w/]+\.py)`", walk, re.M)
    drawn = re.findall(r'\["([\w/]+\.py)', walk)
    assert 10 <= len(listed) <= 14
    assert sorted(listed) == sorted(drawn)
    for file in listed:
        source = (ROOT / "mmduplex_jax" / file).read_text(encoding="utf-8")
        (step,) = re.findall(rf"^\d+\. `{file}`(.*?)(?=^\d+\. `|\Z)", walk, re.M | re.S)
        for name in re.findall(r"`([a-z]\w+)`", step):
            assert re.search(rf"\b{name}\b", source), f"{file} does not speak of {name}"
