"""Numbers as people read them."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes, with a prefix of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB" if count < 1e4 else f"{count:.2g} TB"


def count(number: int, what: str) -> str:
    """So many of a thing."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def span(seconds: float) -> str:
    """A time, in the unit that suits it."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
