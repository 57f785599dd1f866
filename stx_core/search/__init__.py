"""Exact search over embeddings and sparse vectors; each name is imported on first use."""

from importlib import import_module
from typing import Any

_HOME = {
    "TopK": "results",
    "merge_top_k": "results",
    "dense_top_k": "dense",
    "pair_scores": "exact",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:  # noqa: ANN401  (PEP 562: any public name)
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
