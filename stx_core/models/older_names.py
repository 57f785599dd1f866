"""Keyword arguments that go by several names."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def older_names(
    *without_effect: str, **newer: str
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Let a function take keyword arguments by the names of earlier Sentence Transformers too.

    Args:
        *without_effect: arguments that are accepted and do nothing.
        **newer: older name -> name of the function's own argument.

    Returns:
        A decorator. The function raises a ValueError where an argument is given by both names; its
        attribute `older_names` is the set of them.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @wraps(function)
        def renamed(*args: Any, **kwargs: Any) -> Result:  # noqa: ANN401
            for older in kwargs.keys() & newer.keys():
                name = newer[older]
                if name in kwargs:
                    raise ValueError(f"{older} is the older name of {name}: give one")
                kwargs[name] = kwargs.pop(older)
            for name in without_effect:
                kwargs.pop(name, None)
            return function(*args, **kwargs)

        renamed.older_names = {*without_effect, *newer}  # type: ignore[attr-defined]
        return renamed

    return decorate


def given(**arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    """Those of the arguments that are not None."""
    return {name: value for name, value in arguments.items() if value is not None}
