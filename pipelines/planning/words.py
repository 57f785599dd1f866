"""Counts and durations in words, for people."""


def counted(n: int, noun: str) -> str:
    """``1 file``, ``1,200 files``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def duration_range(low: float, high: float) -> str:
    """``about 5 min``, or ``4 to 6 min`` where that differs."""
    first, last = duration(low), duration(high)
    if first == last:
        return f"about {first}"
    same_unit = first.split()[1] == last.split()[1]
    return f"{first.split()[0] if same_unit else first} to {last}"


def duration(seconds: float) -> str:
    """``90 s``, ``5 min``, ``2.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
