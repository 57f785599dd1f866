"""A sequence whose items are made when they are asked for: a million need not exist at once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar, overload

Item = TypeVar("Item")
Result = TypeVar("Result")


class Mapped(Sequence[Result], Generic[Item, Result]):
    """The items of a sequence through a function.

    Args:
        items: of a sequence that may be as lazy; its slices are.
        function: position and item to what stands there.
        first: position of the first item.
    """

    def __init__(
        self, items: Sequence[Item], function: Callable[[int, Item], Result], first: int = 0
    ) -> None:
        self._items, self._function, self._first = items, function, first

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> Result: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Result]: ...
    def __getitem__(self, place: int | slice) -> Result | Sequence[Result]:
        if not isinstance(place, slice):
            place = range(len(self))[place]
            return self._function(self._first + place, self._items[place])
        places = range(len(self))[place]
        if places.step != 1:
            return [self[position] for position in places]
        return Mapped(self._items[place], self._function, self._first + places.start)

    def __iter__(self) -> Iterator[Result]:
        return map(self._function, range(self._first, self._first + len(self)), self._items)
