"""Prompts: texts that a model puts before its inputs, by name."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stx_core.errors import ModelError
from stx_core.inference.tokens import Pair


def choose_prompts(
    defaults: Iterable[str],
    saved: Mapping[str, Any],
    given: Mapping[str, str] | None,
    default_name: str | None,
) -> tuple[dict[str, str], str | None]:
    """Merge prompts: given ones over saved ones over empty defaults.

    Args:
        defaults: names that always exist, as "" if nothing else.
        saved: settings of the folder, with ``prompts`` and ``default_prompt_name``.
        given: the caller's prompts; "" overrides a saved one, None does not.
        default_name: the caller's choice of the default prompt.

    Returns:
        Prompts by name, and the name of the default one.

    Raises:
        ValueError: the default prompt does not exist; a ModelError where the folder names it.
    """
    own = {name: text for name, text in (given or {}).items() if text is not None}
    prompts = dict.fromkeys(defaults, "") | dict(saved.get("prompts") or {}) | own
    name = default_name or saved.get("default_prompt_name")
    if name is not None and name not in prompts:
        error = ValueError if default_name else ModelError
        raise error(f"default_prompt_name {name!r} is not a prompt; there are {list(prompts)}")
    return {key: text or "" for key, text in prompts.items()}, name


def with_prompt(
    inputs: Sequence[str] | Sequence[Pair], prompt: str | None
) -> Sequence[str] | Sequence[Pair]:
    """Put the prompt, without a separator, before each text or the first text of each pair."""
    if not prompt:
        return inputs
    return [
        prompt + item if isinstance(item, str) else (prompt + item[0], *item[1:]) for item in inputs
    ]  # type: ignore[return-value]  # a list of one kind in is a list of one kind out
