"""The page of an experiment: one file of HTML with its plots, tables and pictures, in the look of the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hwm.evaluate.report import render
from hwm.evaluate.table import Table


@dataclass(frozen=True)
class Section:
    """A part of a page.  about: what it shows, in sentences.

    plots: PNG by what they show.  tables: as text.  pictures: a line of them a clip, JPEG and a note by the column's name.
    links: files beside the page, by what they are and their name.
    """

    title: str
    about: str = ""
    plots: Mapping[str, bytes] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    pictures: Sequence[Mapping[str, tuple[bytes, str]]] = ()
    links: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def page(title: str, lead: str, sections: Sequence[Section], record: Mapping[str, Any]) -> str:
    """The page as one string.  lead: what was done and found.  record: all it was made from, as JSON, shown on a click."""
    return render("experiments/experiment.html.j2", title=title, lead=lead, sections=sections, record=record)
