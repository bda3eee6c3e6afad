"""An arena's folder with made-up contestants, and a clock that tests move."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import numpy as np

from mmduplex_jax.arena.votes import CHOICES, Tally, VoteStore

VIDEO_S = 2.0
RATE_HZ = 10


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self, now_s: float = 1_000_000.0):
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def write_video(path: Path, duration_s: float = VIDEO_S, codec: str = "mpeg4") -> Path:
    """A small film of a bar that moves to the right. (Browsers want `codec="libvpx"` in a .webm.)"""
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=RATE_HZ)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        count = round(duration_s * RATE_HZ)
        for number in range(count):
            image = np.full((64, 96, 3), 40, np.uint8)
            image[16:48, number * 80 // count : number * 80 // count + 16] = (220, 120, 40)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        film.mux(stream.encode(None))
    return path


def write_said(path: Path, words: Sequence[tuple[float, str]]) -> None:
    """Words as `launch.commentate --json` writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = [{"text": text, "t_video_s": t_s, "t_emit_s": t_s} for t_s, text in words]
    path.write_text(json.dumps({"words": said}), encoding="utf-8")


def write_contest(
    root: Path,
    contestants: Sequence[str] = ("amber", "birch", "cedar"),
    stems: Sequence[str] = ("beach", "street"),
    categories: Mapping[str, str] | None = None,
    suffix: str = ".mp4",
) -> Path:
    """Videos of `VIDEO_S`, and of each contestant three words on each."""
    (root / "videos").mkdir(parents=True)
    for stem in stems:
        write_video(root / "videos" / f"{stem}{suffix}", codec="libvpx" if suffix == ".webm" else "mpeg4")
        for number, name in enumerate(contestants):
            words = [(0.4 * (i + 1), f"{stem}{number}{i}") for i in range(3)]
            write_said(root / "contestants" / name / f"{stem}.json", words)
    if categories is not None:
        (root / "categories.json").write_text(json.dumps(categories), encoding="utf-8")
    return root


def cast(
    store: VoteStore, clock: Clock, voter: str, left: str, right: str, choice: str, *,
    video: str = "beach", category: str = "all", reason: str = "", decision_s: float = 4.0,
) -> None:  # fmt: skip
    """A ballot and its vote."""
    who = store.voter(voter, "127.0.0.1")
    ballot = store.add_ballot(
        store.next_number(), who.number, video, category, (left, "a" * 64), (right, "b" * 64), VIDEO_S
    )
    clock.now_s += VIDEO_S + decision_s
    store.vote(ballot.key, who, choice, reason)


def tallied(rows: Mapping[tuple[str, str], Mapping[str, int]]) -> list[Tally]:
    """Tallies of `{(left, right): {choice: votes}}`."""
    return [
        Tally(left, right, choice, votes[choice])
        for (left, right), votes in rows.items()
        for choice in CHOICES
        if votes.get(choice)
    ]
