"""HTML of a report page, piece by piece: text is escaped, numbers come with their interval, pictures are inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]
PLOT_SCALE = 0.65
"""Pixels of the page a pixel of a plot: the widest plot then fills the page."""


def text(value: Any) -> str:
    """Text made safe."""
    return html.escape(str(value))


def document(title: str, parts: Sequence[str]) -> str:
    """A page that loads nothing.  parts: markup; empty ones are left out."""
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{text(title)}</title>"
        f'<meta name=viewport content="width=device-width, initial-scale=1"><style>\n{style}</style></head>\n<body><main>\n'
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def section(title: str, about: str, content: str) -> str:
    """A section of the page.  content: markup."""
    return f"<section><h2>{text(title)}</h2>{f'<p>{text(about)}</p>' if about else ''}{content}</section>"


def table(title: str, head: Sequence[str], body: Sequence[tuple[Any, ...]], *, strong: str = "") -> str:
    """A table of numbers; the row named `strong` stands out.  Title and cells after the first may hold markup."""
    rows = "".join(
        f"<tr{' class=strong' if row[0] == strong else ''}><th>{text(row[0])}</th>"
        + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in body
    )
    heads = "".join(f"<th>{text(h)}</th>" for h in head)
    return f"<table class=numbers><caption>{title}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def facts(rows: dict[str, Any]) -> str:
    """A table of named facts."""
    body = "".join(f"<tr><th>{text(k)}</th><td>{text(v)}</td></tr>" for k, v in rows.items())
    return f"<table class=facts>{body}</table>"


def details(summary: str, content: str) -> str:
    """Content that opens on a click."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def cell(value: Json | None, digits: int, *, sign: bool = False) -> str:
    """A mean with its interval in small print, as markup."""
    if value is None or value["mean"] is None:
        return "–"
    low = "" if value["low"] is None else f" <small>{value['low']:.{digits}f} to {value['high']:.{digits}f}</small>"
    return number(value, digits, "", sign=sign) + low


def number(value: Json, digits: int, unit: str, *, sign: bool = False) -> str:
    """A mean with its unit."""
    return "–" if value["mean"] is None else f"{value['mean']:{'+' if sign else ''}.{digits}f}{unit}"


def interval(value: Json, digits: int) -> str:
    """The interval of a mean, empty without one."""
    return "" if value["low"] is None else f"{value['low']:.{digits}f} to {value['high']:.{digits}f}"


def image(png: bytes, what: str) -> str:
    """A plot, inside the page, so wide that its letters are as large as another's.  what: its text."""
    width = round(int.from_bytes(png[16:20], "big") * PLOT_SCALE)
    return f'<img class=plot style="max-width:{width}px" alt="{text(what)}" src="data:image/png;base64,{encoded(png)}">'


def encoded(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode()
