"""The page of an experiment: one file of HTML with its tables and plots, in the style of the reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwm.evaluate_old import page
from hwm.evaluate_old.page import details, image, section, table, text

__all__ = ["document", "html_table", "image", "links", "markdown_table", "section"]

STYLE = Path(page.__file__).with_name("report.css")


def document(title: str, lead: str, sections: Sequence[str], record: dict[str, Any]) -> str:
    """The page.  record: everything it was made from, shown on a click."""
    data = details("All figures as JSON", f"<pre>{text(json.dumps(record, indent=1))}</pre>")
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{text(title)}</title>"
        f'<meta name=viewport content="width=device-width, initial-scale=1"><style>\n{STYLE.read_text(encoding="utf-8")}'
        f"</style></head>\n<body><main><header><p class=kicker>Experiment</p><h1>{text(title)}</h1><p class=lead>{text(lead)}"
        f"</p></header>\n{''.join(sections)}\n{section('Data of this page', '', data)}</main></body></html>\n"
    )


def html_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text; an interval in brackets is set small."""
    body = table(text(title), head, [(row[0], *map(_small_interval, row[1:])) for row in rows])
    return f"<div class=wide>{body}</div>"


def _small_interval(cell: str) -> str:
    value, bracket, rest = cell.partition(" [")
    return f"{text(value)}<br><small>{text(rest.rstrip(']').replace(', ', ' to '))}</small>" if bracket else text(cell)


def links(what: str, places: dict[str, str]) -> str:
    """A line of links to files beside the page, by name."""
    return f"<p class=note>{text(what)}: " + ", ".join(f'<a href="{text(p)}">{text(n)}</a>' for n, p in places.items()) + "</p>"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
