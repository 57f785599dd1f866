"""The half of a `Transformer` that reads texts: its tokenizer, lengths and prompts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers

from stx_core.errors import ModelError
from stx_core.inference.exclusive import exclusive_tokenizer
from stx_core.inference.packing import pack
from stx_core.inference.tokens import UNLIMITED, Pair, Tokens, pad
from stx_core.inference.tokens import tokenize as tokenize_ragged
from stx_core.models.alias import Alias
from stx_core.models.modules.lengths import check_length, position_limit
from stx_core.models.modules.module import Features, InputModule
from stx_core.models.modules.transformer_settings import (
    CONFIG_FILES,
    UNCUT,
    text_options,
)
from stx_core.models.prompts import with_prompt


class TextReader(InputModule):
    """A tokenizer with the settings by which a backbone reads texts.

    Attributes:
        model: the backbone, whose table of positions limits the length.
        tokenizer: of transformers.
        modality_config: kinds of input that it reads.
        do_lower_case: lower-case texts before the tokenizer's own normalisation.
        query_length: overrides `max_seq_length` for the task "query".
        document_length: overrides it for the task "document".
        processing_kwargs: how inputs are tokenised, group by group.
    """

    takes_processing: ClassVar[bool] = True

    model: Any
    tokenizer: Any
    modality_config: dict[str, Mapping[str, Any]]
    do_lower_case: bool
    query_length: int | None
    document_length: int | None
    processing_kwargs: Mapping[str, Any]

    processor = Alias[Any]("tokenizer", settable=True)
    """The tokenizer: what makes inputs of texts."""

    @property
    def modalities(self) -> list[str]:
        """Kinds of input that the module reads."""
        return [str(modality) for modality in self.modality_config]

    @property
    def max_seq_length(self) -> int | None:
        """Tokens per input at most, special tokens counted; None: no limit."""
        limit = self.tokenizer.model_max_length
        return None if limit is None or limit >= UNLIMITED else int(limit)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        positions = position_limit(self.model)
        if value is None:
            value = UNLIMITED if positions is None else positions
        elif positions is not None and value > positions:
            raise ValueError(f"max_seq_length {value} is more than the {positions} positions of it")
        check_length(value, self.tokenizer)
        self.tokenizer.model_max_length = value

    @property
    def pad_token_id(self) -> int:
        """Id that fills up batches; a decoder's tokenizer without one lends its end token."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0

    def processing_by(self, processing_kwargs: Mapping[str, Any] | None) -> Self:
        """This module with further `processing_kwargs`, group by group; weights are shared.

        Raises:
            ModelError: an option is unknown or of another type.
        """
        if not processing_kwargs:
            return self
        text_options(processing_kwargs)
        merged = {
            group: {**(self.processing_kwargs.get(group) or {}), **(options or {})}
            for group, options in processing_kwargs.items()
        }
        adjusted = copy(self)
        adjusted.processing_kwargs = {**self.processing_kwargs, **merged}
        return adjusted

    def to_tokens(
        self,
        inputs: Sequence[str] | Sequence[Pair],
        *,
        prompt: str = "",
        task: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
    ) -> Tokens:
        """Ragged tokens of N texts or pairs. A prompt goes before a text, or a pair's first text.

        A chat template that the tokenizer may have is not used: it is for chat messages.

        Args:
            inputs: N texts or pairs.
            prompt: text to put before each.
            task: "query" or "document", which may have a length of its own.
            processing_kwargs: for this call, over those of the module, group by group.

        Raises:
            ModelError: the model reads chat messages only, or an option is unknown.
        """
        if processing_kwargs:
            adjusted = self.processing_by(processing_kwargs)
            return adjusted.to_tokens(inputs, prompt=prompt, task=task)
        if "text" not in self.modality_config:
            raise ModelError(
                f"this model reads {sorted(self.modality_config)}, not plain texts "
                f"(modality_config in {CONFIG_FILES[0]})"
            )
        if "message" in self.modality_config:
            raise ModelError(
                "this model reads chat messages (modality_config in "
                f"{CONFIG_FILES[0]}), which only CrossEncoder makes of texts; name only the "
                "modality text there, if it was trained on plain texts"
            )
        limit = {"query": self.query_length, "document": self.document_length}.get(task or "")
        text = text_options(self.processing_kwargs)
        limit = text.get("max_length") or limit or self.max_seq_length
        if text.get("truncation") in UNCUT:
            limit = position_limit(self.model)
        special = text.get("add_special_tokens", True)
        with _lower_cased(self.tokenizer) if self.do_lower_case else nullcontext():
            tokenize = partial(tokenize_ragged, self.tokenizer, special_tokens=special)
            tokens = tokenize(with_prompt(inputs, prompt), limit)
            if prompt:  # its own length, without a special token at its end, as pooling skips it
                ids = tokenize([prompt], limit).ids
                ends_special = len(ids) > 0 and int(ids[-1]) in self.tokenizer.all_special_ids
                tokens = replace(tokens, prompt_length=len(ids) - int(ends_special))
        return tokens

    def collate(self, tokens: Tokens, rows: np.ndarray) -> Features:
        """``input_ids``, ``attention_mask`` and, where tokens have them, ``token_type_ids``."""
        padded = pad(tokens, rows, self.pad_token_id, side=self.tokenizer.padding_side, least=1)
        return {key: torch.from_numpy(value) for key, value in padded.items()}

    def pack(self, tokens: Tokens, rows: np.ndarray, size: int, device: torch.device) -> Features:
        """As `collate`, without padding: see ``layout`` in `Features`."""
        packed, layout = pack(tokens, rows, size, pad_id=self.pad_token_id, device=device)
        return {**packed, "layout": layout}


@contextmanager
def _lower_cased(tokenizer: Any) -> Iterator[None]:  # noqa: ANN401
    """Within this context, which no other thread may enter, a tokenizer lower-cases first."""
    with exclusive_tokenizer(tokenizer) as rust, ExitStack() as stack:
        if rust is None:
            stack.callback(setattr, tokenizer, "do_lower_case", tokenizer.do_lower_case)
            tokenizer.do_lower_case = True
        else:
            own = rust.normalizer
            stack.callback(setattr, rust, "normalizer", own)
            steps = list(own) if isinstance(own, Normalizers) else [own] if own else []  # type: ignore[call-overload]  # iterable, but not typed so
            rust.normalizer = Normalizers([Lowercase(), *steps])
        yield
