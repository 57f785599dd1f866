"""Many small storage calls at once: each one mostly waits for the network."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = 32


def parallel(
    call: Callable[[Item], Result], items: Iterable[Item], threads: int = _THREADS
) -> list[Result]:
    """Map a call over items by threads; results in the order of the items.

    Raises:
        Exception: the first one that a call raised.
    """
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, items))
