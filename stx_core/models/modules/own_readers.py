"""Models and modules whose `preprocess` or `tokenize` is the user's own, as subclasses have it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stx_core.models.modules.module import Features
from stx_core.models.prompts import with_prompt

Reader = Callable[..., Features]


def own_reader(owner: Any) -> Reader | None:  # noqa: ANN401  (a model or any first module)
    """The `preprocess`, else the `tokenize`, that is not of this package; None without one.

    A subclass may override either; so may an instance. Of a router that of any of its routes makes
    all texts go through the router's own `preprocess`, which asks the route.
    """
    for name in ("preprocess", "tokenize"):
        method = getattr(owner, name, None)
        module = getattr(getattr(method, "__func__", None), "__module__", None)
        is_ours = isinstance(module, str) and module.split(".")[0] == "stx_core"
        if callable(method) and not is_ours:
            return method  # type: ignore[no-any-return]
    routes: list[Any] = getattr(owner, "first_modules", list)()
    return owner.preprocess if any(own_reader(first) for first in routes) else None


def read_with(
    reader: Reader, inputs: Sequence[Any], prompt: str | None, options: Mapping[str, Any]
) -> Features:
    """Features of a batch by the user's own function.

    Args:
        reader: takes N inputs, and what it knows of the rest.
        inputs: N texts or pairs.
        prompt: goes to a reader that takes one, else before each text.
        options: those that the reader takes are given to it.
    """
    takes = inspect.signature(reader).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    given = {key: value for key, value in options.items() if takes_all or key in takes}
    # A `tokenize(texts, **kwargs)` of earlier versions gets texts with their prompt.
    if "prompt" in takes or (takes_all and reader.__name__ == "preprocess"):
        given["prompt"] = prompt
    else:
        inputs = with_prompt(inputs, prompt)
    return reader(inputs, **given)
