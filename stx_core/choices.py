"""Arguments that are one of a few words, and counts: what else is given is refused at once."""

from collections.abc import Iterable


def check_choice(name: str, value: object, choices: Iterable[str], *, none: bool = False) -> None:
    """Refuse a value that is not one of the choices.

    Args:
        name: of the argument, for the message.
        value: what was given.
        choices: what there is.
        none: None is one of them.

    Raises:
        ValueError: naming the choices.
    """
    names = list(choices)
    if (none and value is None) or (isinstance(value, str) and value in names):
        return
    listed = ", ".join(names) + (" or None" if none else "")
    raise ValueError(f"no {name} is called {value!r}; choose one of {listed}")


def check_count(name: str, value: int | None, least: int = 1) -> None:
    """Refuse a number below `least`; None is left to its default.

    Raises:
        ValueError: naming the argument.
    """
    if value is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
