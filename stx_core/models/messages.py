"""Pairs of texts as the chat messages that some rerankers were trained on, rendered to tokens.

A pair becomes one message of role ``query`` and one of role ``document``, a prompt becomes a system
message before them, and the tokenizer's own chat template turns the three into one text.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jinja2 import TemplateError

from stx_core.errors import ModelError
from stx_core.inference.exclusive import exclusive_tokenizer
from stx_core.inference.tokens import Pair, Tokens, from_lists

MessageFormat = Literal["flat", "structured"]
Conversation = list[dict[str, Any]]

# Rendered conversations and their id lists are Python objects; this many at a time bounds them.
_PAIRS_AT_ONCE = 1024

# A template that takes the parts of a message's content out of a list says so by one of these.
_STRUCTURED_SIGNS = ("content[0]", ".type", "'type'", '"type"', "message.content[")

# Backbones whose templates carry such a sign, but for other reasons (as Sentence Transformers 6.2).
_FLAT_BACKBONES = frozenset({"apertus", "deepseek_v3", "gpt_oss", "seed_oss"})


def message_format(chat_template: str | dict[str, str] | None, model_type: str) -> MessageFormat:
    """Whether a template wants the content of a message as text or as a list of typed parts.

    Args:
        chat_template: the template's source, or several by name, or none.
        model_type: the backbone's name in its ``config.json``.
    """
    named = chat_template if isinstance(chat_template, dict) else {"": chat_template or ""}
    sources = " ".join(named.values())
    structured = any(sign in sources for sign in _STRUCTURED_SIGNS)
    return "structured" if structured and model_type not in _FLAT_BACKBONES else "flat"


def tokenize_as_messages(
    tokenizer: Any,  # noqa: ANN401  (transformers has no common typed tokenizer interface)
    pairs: Sequence[Pair],
    *,
    prompt: str = "",
    max_length: int | None = None,
    content: MessageFormat = "flat",
    template_kwargs: dict[str, Any] | None = None,
) -> Tokens:
    """Tokenise N pairs through the tokenizer's chat template.

    A pair that is too long loses tokens before the template's fixed ending, never of it: causal
    models score the position after that ending.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        pairs: N times (query, document).
        prompt: instruction for the system message; empty for none.
        max_length: tokens per pair at most.
        content: how a message carries its text, see `message_format`.
        template_kwargs: further variables of the template; ``restore_suffix: False`` among them
            lets truncation take the fixed ending too.

    Raises:
        ModelError: the template leaves out the query or the document, or fails to render.
    """
    variables = dict(template_kwargs or {})
    keeps_ending = variables.pop("restore_suffix", True)
    template = _Template(tokenizer, prompt, content, variables)
    template.check_roles()
    ending = template.fixed_ending() if keeps_ending else []
    ids: list[list[int]] = []
    truncated: list[bool] = []
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        for full in template.token_ids(pairs[start : start + _PAIRS_AT_ONCE]):
            overlong = max_length is not None and len(full) > max_length
            ids.append(_cut(full, max_length or 0, ending, tokenizer) if overlong else full)
            truncated.append(overlong)
    takes_types = "token_type_ids" in tokenizer.model_input_names
    type_ids = [[0] * len(item) for item in ids] if takes_types else None
    return from_lists(ids, np.array(truncated, bool), type_ids)


class _Template:
    """A tokenizer's chat template with all that is the same for each pair of a call."""

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401
        prompt: str,
        content: MessageFormat,
        template_kwargs: dict[str, Any],
    ) -> None:
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.content = content
        self.template_kwargs = template_kwargs

    def messages(self, pair: Pair) -> Conversation:
        texts = dict(zip(("query", "document"), pair, strict=True))
        if self.prompt:
            texts = {"system": self.prompt, **texts}
        return [
            {
                "role": role,
                "content": text if self.content == "flat" else [{"type": "text", "text": text}],
            }
            for role, text in texts.items()
        ]

    def render(self, pairs: Sequence[Pair]) -> list[str]:
        conversations = [self.messages(pair) for pair in pairs]
        try:
            rendered: list[str] = self.tokenizer.apply_chat_template(
                conversations, tokenize=False, **self.template_kwargs
            )
        # What a template raises when it refuses a role, or meets content of the other format.
        except (TemplateError, TypeError, ValueError) as error:
            raise ModelError(
                f"the chat template of {_name(self.tokenizer)} cannot render a query and a "
                f"document ({error}); give the tokenizer one that knows the roles 'query' and "
                "'document'"
            ) from error
        return rendered

    def token_ids(self, pairs: Sequence[Pair]) -> list[list[int]]:
        # The template writes the special tokens itself.
        rendered = self.render(pairs)
        with exclusive_tokenizer(self.tokenizer):
            encoded: dict[str, list[list[int]]] = self.tokenizer(
                rendered,
                add_special_tokens=False,
                truncation=False,
                padding=False,
                verbose=False,
            )
        return encoded["input_ids"]

    def check_roles(self) -> None:
        """Refuse a template that says the same whatever the query, or whatever the document."""
        base, other_query, other_document = self.render([("a", "b"), ("c", "b"), ("a", "c")])
        lost = [
            role
            for role, rendered in (("query", other_query), ("document", other_document))
            if rendered == base
        ]
        if lost:
            raise ModelError(
                f"the chat template of {_name(self.tokenizer)} leaves out the "
                f"{' and the '.join(lost)}; give the tokenizer one that renders the roles 'query' "
                "and 'document'"
            )

    def fixed_ending(self) -> list[int]:
        """Token ids that end each rendered pair: what two pairs of unlike texts have in common."""
        first, second = self.token_ids([("0", "0"), ("2 1", "2 1")])
        n_common = 0
        for left, right in zip(reversed(first), reversed(second), strict=False):
            if left != right:
                break
            n_common += 1
        return first[len(first) - n_common :]


def _cut(ids: list[int], max_length: int, ending: list[int], tokenizer: Any) -> list[int]:  # noqa: ANN401
    n_kept = min(len(ending), max_length)
    kept_ending = ending[len(ending) - n_kept :]
    if tokenizer.truncation_side == "left":
        return ids[len(ids) - max_length : len(ids) - n_kept] + kept_ending
    return ids[: max_length - n_kept] + kept_ending


def _name(tokenizer: Any) -> str:  # noqa: ANN401
    return getattr(tokenizer, "name_or_path", "") or "this model"
