"""`hwm predict`: a run's prediction beside the recording, written in every form that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwm.publish.trained import kept_in
from hwm.watch.film import films
from hwm.watch.mcap import expect_mcap, layout_beside, write_mcap
from hwm.watch.panels import SUFFIXES, write_films
from hwm.work.claim import expect_apart, expect_suffix
from hwm.work.ranges import BadSetting


def write_prediction(
    folder: Path, *, data: Path, out: Path | None = None, mcap: Path | None = None, **options: Any
) -> list[Path]:
    """Predict the futures of clips once, write what is asked for and return the files.

    out: the recording (left) beside the prediction (right) as .mp4 or .gif; of several clips columns, the recording above.  All
    begin with the context; the future starts where the bar below turns blue.  Of a model of every nth frame all show these,
    each n times.  It plays in real time.
    mcap: of one clip the same with doubt, states and commands for Foxglove or Rerun (`hwm.watch.mcap`), and a layout beside it.
    options: of `hwm.watch.film.films`, which is told to doubt where that is shown.
    Raises ValueError, before anything is predicted, for files that cannot be written, and as `films`.
    """
    if out is not None:
        expect_suffix(out, *SUFFIXES)
    if mcap is not None:
        expect_suffix(mcap, ".mcap")
        expect_mcap()
        if len(clips := options.get("clips", (0,))) != 1:
            raise BadSetting("clip", f"must be one for --mcap, got {len(clips)}: a log has one clock")
    for place in (out, mcap):
        if place is not None:
            expect_apart(place, data, kept_in(folder))
    found = films(folder, data=data, doubting=mcap is not None, **options)
    written: list[Path] = []
    if out is not None:
        write_films(out, found)
        written.append(out)
    if mcap is not None:
        write_mcap(mcap, found[0])
        written += [mcap, layout_beside(mcap)]
    return written
