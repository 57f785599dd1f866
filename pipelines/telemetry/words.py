"""Words of what people read."""


def counted(n: int, noun: str) -> str:
    """``1 file``, ``1,200 files``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
