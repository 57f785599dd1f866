"""Base of dense and sparse encoders: one embedding per text, and its similarity to others."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import torch

from stx_core.choices import check_choice
from stx_core.errors import ModelError
from stx_core.inference.tokens import Tokens
from stx_core.models.inputs import Unread, read_texts
from stx_core.models.modules.pooling import Pooling
from stx_core.models.modules.router import Router
from stx_core.models.options import ConfigKey, ModelOptions
from stx_core.models.text_model import TextModel
from stx_core.similarity import Embeddings, SimilarityFunction, named_similarity

Texts = str | Iterable[str] | Iterable[Sequence[str]] | np.ndarray
"""One text, or N texts or pairs of texts, in any container that has an order."""


TASKS = ("query", "document")


class TextEncoder(TextModel):
    """A model that gives one embedding per text.

    Args:
        model_name_or_path: a local folder, or a name on the hub.
        similarity_fn_name: default: what the folder says, else `default_similarity`.
        **options: see `TextModel`.
    """

    default_prompts: ClassVar[tuple[str, ...]] = TASKS
    SUPPORTED_SIMILARITY_FN_NAMES: ClassVar[tuple[str, ...]] = tuple(
        SimilarityFunction.possible_values()
    )
    default_similarity: ClassVar[SimilarityFunction]
    config_keys: ClassVar[tuple[ConfigKey, ...]] = ("similarity_fn_name",)

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        similarity_fn_name: str | SimilarityFunction | None = None,
        **options: Unpack[ModelOptions],
    ) -> None:
        super().__init__(model_name_or_path, **options)
        saved = self.saved_config.get("similarity_fn_name")
        # A name that is none of these (a multi-vector model's) counts as none.
        if saved not in SimilarityFunction.possible_values():
            saved = None
        self.similarity_fn_name = similarity_fn_name or saved or self.default_similarity

    def corpus_tokens(
        self,
        texts: Sequence[str] | Tokens,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        task: str | None = None,
    ) -> Tokens:
        """The tokens that `embed` reads, for those who tokenise elsewhere; arguments as there.

        Raises:
            ModelError: a `preprocess` of the user's own makes the tokens: `encode` can use it.
            ValueError: `task` is neither "query" nor "document", and no route of the model.
        """
        if isinstance(texts, Tokens):
            return texts
        if task is not None:
            tasks = list(TASKS)
            for router in (part for part in self if isinstance(part, Router)):
                mapped = [name for name, _ in router.route_mappings if name is not None]
                tasks += [*router.sub_modules, *mapped]
            check_choice("task", task, dict.fromkeys(tasks))
            prompt_name = self.prompt_name_for(task, prompt, prompt_name)
        listed, _ = read_texts(texts)
        tokens = self.read(listed, self.resolve_prompt(prompt, prompt_name), task)
        if isinstance(tokens, Unread):
            raise ModelError(
                f"{type(self).__name__} makes its tokens by a preprocess or tokenize of its own, "
                "which counts none: use encode"
            )
        return tokens

    def is_singular_input(self, inputs: Any) -> bool:  # noqa: ANN401
        """True for one text, False for a list of them.

        Raises:
            InputError: it is neither.
        """
        return read_texts(inputs)[1]

    # --- Similarity ------------------------------------------------------------------------------

    @property
    def similarity_fn_name(self) -> str:
        """Name of the similarity: cosine, dot, euclidean or manhattan."""
        return self._similarity_fn.value

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: str | SimilarityFunction) -> None:
        self._similarity_fn = named_similarity(value)

    def similarity(self, embeddings1: Embeddings, embeddings2: Embeddings) -> torch.Tensor:
        """Scores of all pairs, (N, M)."""
        score = SimilarityFunction.to_similarity_fn(self._similarity_fn)
        return score(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Embeddings, embeddings2: Embeddings) -> torch.Tensor:
        """Scores row by row, (N,)."""
        score = SimilarityFunction.to_similarity_pairwise_fn(self._similarity_fn)
        return score(embeddings1, embeddings2)

    # --- What the model is -----------------------------------------------------------------------

    def get_embedding_dimension(self) -> int | None:
        """Width of an embedding; None where no module knows it, or not until the first text."""
        for module in reversed(list(self)):
            width: int | None = getattr(module, "get_embedding_dimension", lambda: None)()
            if width is not None:
                return width
        return None

    def get_sentence_embedding_dimension(self) -> int | None:
        """Older name of `get_embedding_dimension`."""
        return self.get_embedding_dimension()

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Set whether pooling counts the tokens of the prompt."""
        for module in self.modules():
            if isinstance(module, Pooling):
                module.include_prompt = include_prompt
