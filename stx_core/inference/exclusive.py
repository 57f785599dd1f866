"""Locks of what only one thread may use at a time: tokenizers, and backbones.

Locks are kept here, not in the objects: these are copied, pickled and sent to other processes.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_by_object: WeakKeyDictionary[object, threading.RLock] = WeakKeyDictionary()
_guard = threading.Lock()
_of_others = threading.RLock()


def _renew() -> None:
    """In a forked process, locks that threads of its parent held would never be free."""
    global _guard, _of_others
    _guard, _of_others = threading.Lock(), threading.RLock()
    _by_object.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def lock_of(thing: object) -> threading.RLock:
    """The lock of an object, the same one whoever asks."""
    with _guard:
        try:
            return _by_object.setdefault(thing, threading.RLock())
        except TypeError:  # it cannot be a key, or not a weak one: such objects share a lock
            return _of_others


@contextmanager
def exclusive_tokenizer(tokenizer: Any) -> Iterator[Any]:  # noqa: ANN401  (untyped)
    """Within this context no other thread uses a tokenizer; truncation and padding come back after.

    Args:
        tokenizer: of transformers, fast or slow, or of the package tokenizers.

    Yields:
        The tokenizer of Rust, or None for one that has none.
    """
    # Several tokenizers of transformers may share one of Rust.
    rust = getattr(tokenizer, "backend_tokenizer", tokenizer)
    with lock_of(rust):
        if not hasattr(rust, "enable_truncation"):
            yield None
            return
        truncation, padding = rust.truncation, rust.padding
        try:
            yield rust
        finally:
            if truncation is None:
                rust.no_truncation()
            elif truncation != rust.truncation:
                rust.enable_truncation(**truncation)
            if padding is None:
                rust.no_padding()
            elif padding != rust.padding:
                rust.enable_padding(**padding)
