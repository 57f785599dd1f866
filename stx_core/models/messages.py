"""Pairs of texts as the chat messages that some rerankers were trained on, rendered to tokens.

A pair becomes one message of role ``query`` and one of role ``document``, a prompt becomes a system
message before them, and the tokenizer's own chat template turns the three into one text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any, Literal, TypedDict

import numpy as np
from jinja2 import TemplateError

from stx_core.errors import ModelError
from stx_core.inference.exclusive import exclusive_tokenizer
from stx_core.inference.tokens import Pair, Tokens, from_lists
from stx_core.models.folder import Json

MessageFormat = Literal["flat", "structured"]


class TextPart(TypedDict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(TypedDict):
    """A message as chat templates read it."""

    role: str
    content: str | list[TextPart]


# Rendered conversations and their id lists are Python objects; this many at a time bounds them.
_PAIRS_AT_ONCE = 1024

# A template that takes the parts of a message's content out of a list says so by one of these.
_STRUCTURED_SIGNS = ("content[0]", ".type", "'type'", '"type"', "message.content[")

# Backbones whose templates carry such a sign, but for other reasons (as Sentence Transformers 6.2).
_FLAT_BACKBONES = frozenset({"apertus", "deepseek_v3", "gpt_oss", "seed_oss"})


def message_format(chat_template: str | dict[str, str] | None, model_type: str) -> MessageFormat:
    """Form in which a template wants a message's content: text, or a list of typed parts.

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
    template_kwargs: Mapping[str, Json] | None = None,
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
    name = getattr(tokenizer, "name_or_path", "") or "this model"
    template = _Template(tokenizer, name, prompt, content=content, variables=variables)
    template.check_roles()
    ending: list[int] = []
    if keeps_ending:  # what two pairs of unlike texts have in common at their end
        first, second = template.token_ids([("0", "0"), ("2 1", "2 1")])
        ending = list(commonprefix([first[::-1], second[::-1]]))[::-1]
    ids: list[list[int]] = []
    truncated: list[bool] = []
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        for full in template.token_ids(pairs[start : start + _PAIRS_AT_ONCE]):
            overlong = max_length is not None and len(full) > max_length
            truncated.append(overlong)
            if overlong:  # what comes before the ending is cut, on the tokenizer's side
                n_ending = min(len(ending), max_length or 0)
                n_before = (max_length or 0) - n_ending
                end = len(full) - n_ending if tokenizer.truncation_side == "left" else n_before
                full = full[end - n_before : end] + ending[len(ending) - n_ending :]
            ids.append(full)
    takes_types = "token_type_ids" in tokenizer.model_input_names
    type_ids = [[0] * len(item) for item in ids] if takes_types else None
    return from_lists(ids, np.array(truncated, bool), type_ids)


@dataclass(frozen=True)
class _Template:
    """A tokenizer's chat template with all that is the same for each pair of a call."""

    tokenizer: Any  # transformers has no common typed tokenizer interface
    name: str
    prompt: str
    content: MessageFormat
    variables: Mapping[str, Json]

    def render(self, pairs: Sequence[Pair]) -> list[str]:
        conversations: list[list[Message]] = []
        for query, document in pairs:
            texts = {"system": self.prompt} if self.prompt else {}
            texts |= {"query": query, "document": document}
            conversation: list[Message] = []
            for role, text in texts.items():
                parts: list[TextPart] = [{"type": "text", "text": text}]
                content = text if self.content == "flat" else parts
                conversation.append({"role": role, "content": content})
            conversations.append(conversation)
        try:
            rendered: list[str] = self.tokenizer.apply_chat_template(
                conversations, tokenize=False, **self.variables
            )
        # What a template raises when it refuses a role, or meets content of the other format.
        except (TemplateError, TypeError, ValueError) as error:
            raise ModelError(
                f"the chat template of {self.name} cannot render a query and a "
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
                f"the chat template of {self.name} leaves out the "
                f"{' and the '.join(lost)}; give the tokenizer one that renders the roles 'query' "
                "and 'document'"
            )
