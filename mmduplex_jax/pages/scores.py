"""The page of `launch.evaluate --data=real`: the tables, and of every video its labels beside what was said."""

from collections.abc import Mapping
from typing import Any

from mmduplex_jax.evals.real_events import format_real_events
from mmduplex_jax.pages import Page, render


def real_events_page(report: Mapping[str, Any]) -> Page:
    """The page of a report of `real_videos.evaluate_folder`; videos where most went wrong come first."""
    videos = sorted(report["by_clip"].items(), key=lambda item: (item[1]["f1"], item[0]))
    title = f"Labelled events: {report['checkpoint']}"
    return render("real_events.html", title, report=report, tables=format_real_events(report), videos=videos)
