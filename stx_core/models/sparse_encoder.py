"""Sparse encoders (SPLADE, CSR, inference-free): a text to weights of a few of many dimensions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from stx_core.errors import InputError, ModelError
from stx_core.inference.tokens import Tokens
from stx_core.models.device import one_device
from stx_core.models.folder import read_json
from stx_core.models.inputs import read_texts
from stx_core.models.modules.module import Features, LoadOptions
from stx_core.models.modules.sparse_auto_encoder import SparseAutoEncoder
from stx_core.models.modules.splade_pooling import SpladePooling
from stx_core.models.older_names import given, older_names
from stx_core.models.options import ConfigKey, ModelOptions, RunOptions
from stx_core.models.results import Embedded
from stx_core.models.sparse_tensors import decode, intersection, sparsity
from stx_core.models.text_encoder import TextEncoder, Texts
from stx_core.search.sparse_rows import SparseRows, compress, in_order, keep_top, to_coo
from stx_core.similarity import SimilarityFunction

# SPLADE holds the logits of a whole batch, tokens x vocabulary. 2 GiB are 17,000 tokens of BERT's
# vocabulary in float32: they fill a GPU, and 250,000 entries (XLM-R) still leave 2,000 tokens.
_LOGITS_BYTES = 2 << 30


class EncodeOptions(TypedDict, total=False):
    """Keyword arguments of `SparseEncoder.encode` beside text and prompt."""

    batch_size: int | None
    show_progress_bar: bool | None
    convert_to_tensor: bool
    convert_to_sparse_tensor: bool
    save_to_cpu: bool
    device: str | torch.device | None
    max_active_dims: int | None
    pool: None
    chunk_size: None
    processing_kwargs: Mapping[str, Any] | None
    token_budget: int | None


class SparseEncoder(TextEncoder):
    """A sparse encoder from a folder or the hub.

    A plain masked-LM checkpoint becomes a SPLADE model (max, relu). What would need new weights,
    a dense model for example, is refused.

    Args:
        model_name_or_path: a local folder, or a name on the hub.
        similarity_fn_name: default: what the folder says, else "dot".
        max_active_dims: dimensions that stay non-zero per text; default: what the folder says,
            else k of a sparse autoencoder, else no limit.
        **options: see `TextModel`.
    """

    # Where other programs look for it, see there.
    __module__ = "stx_core.sentence_transformers"
    model_type: ClassVar[str] = "SparseEncoder"
    default_huggingface_organization: ClassVar[str] = "sparse-encoder"
    default_similarity: ClassVar[SimilarityFunction] = SimilarityFunction.DOT
    config_keys: ClassVar[tuple[ConfigKey, ...]] = ("similarity_fn_name", "max_active_dims")

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        similarity_fn_name: str | SimilarityFunction | None = None,
        max_active_dims: int | None = None,
        **options: Unpack[ModelOptions],
    ) -> None:
        super().__init__(model_name_or_path, similarity_fn_name=similarity_fn_name, **options)
        if max_active_dims is None:
            max_active_dims = self.saved_config.get("max_active_dims")
        self.max_active_dims = max_active_dims

    @property
    def max_active_dims(self) -> int | None:
        """Dimensions that stay non-zero per text; unless set, k of a sparse autoencoder."""
        k = (module.k for module in self.modules() if isinstance(module, SparseAutoEncoder))
        return next(k, None) if self._max_active_dims is None else self._max_active_dims

    @max_active_dims.setter
    def max_active_dims(self, value: int | None) -> None:
        self._max_active_dims = _positive(value)

    @classmethod
    def default_modules(cls, folder: Path, options: LoadOptions) -> Sequence[nn.Module]:
        """SPLADE (max, relu) on a masked-LM checkpoint.

        Raises:
            ModelError: the checkpoint has no masked-LM head: a sparse one would be untrained.
        """
        architectures = read_json(folder / "config.json").get("architectures") or []
        if not any(name.endswith("ForMaskedLM") for name in architectures):
            raise ModelError(
                f"{folder} is a plain checkpoint of {architectures or 'an unknown architecture'}: "
                f"SparseEncoder needs a *ForMaskedLM one, any other would get an untrained head; "
                f"give a trained sparse encoder, or open it with SentenceTransformer"
            )
        from stx_core.models.modules.transformer import Transformer

        transformer = Transformer.from_checkpoint(
            folder, options, {"transformer_task": "fill-mask"}
        )
        return [transformer, SpladePooling("max", "relu")]

    # --- Encoding --------------------------------------------------------------------------------

    @older_names(sentences="inputs")
    def encode(
        self,
        inputs: Texts,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = True,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: str | torch.device | None = None,
        max_active_dims: int | None = None,
        pool: None = None,
        chunk_size: None = None,
        *,
        task: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
        token_budget: int | None = None,
        **arguments: Any,  # noqa: ANN401
    ) -> Tensor | list[Tensor]:
        """Encode texts.

        Args:
            inputs: one text or N of them: list, tuple, numpy array, column, series, iterator.
                Older name: ``sentences``.
            prompt_name: name of the prompt to put before each text.
            prompt: the prompt itself; wins over `prompt_name`.
            batch_size: texts of one batch at most; None: as many as the token budget allows.
            show_progress_bar: None shows it when info messages are logged.
            convert_to_tensor: one tensor, else a list with one tensor per text.
            convert_to_sparse_tensor: COO tensors, else dense ones, which take N x V numbers.
            save_to_cpu: leave the result on the CPU instead of the model's device.
            device: move the model there first.
            max_active_dims: dimensions that stay non-zero per text; None: as the model says.
            pool: only None: a call runs in this process.
            chunk_size: only None.
            task: "query" or "document", the route of a model that has several.
            processing_kwargs: for this call, see `Transformer`.
            token_budget: tokens of one batch, padding counted; None: what suits the model.
            **arguments: of modules of this model, see `get_model_kwargs`.

        Returns:
            (N, V) in the model's number format, coalesced COO by default; (V,) for one text;
            shape (0,) for no texts.

        Raises:
            InputError: an input is no text, or does not fit into memory.
            ValueError: an argument is unknown or not possible.
        """
        texts, single = read_texts(inputs)
        self.check_arguments("encode", arguments)
        tokens = self.read(
            texts,
            self.resolve_prompt(prompt, prompt_name),
            task,
            options=given(processing_kwargs=processing_kwargs) | arguments,
        )
        running = RunOptions(
            batch_size=batch_size,
            token_budget=token_budget,
            show_progress_bar=show_progress_bar,
            device=one_device(device, pool, chunk_size),
            arguments=arguments | given(task=task),
        )
        embedded = self._embed(tokens, max_active_dims, running)
        for row, reason in embedded.failed.items():
            raise InputError(f"input {row}: {reason}")
        result = torch.zeros(0).to_sparse()
        if texts:
            rows, width = embedded.values, self.get_embedding_dimension()
            if not isinstance(rows, SparseRows) or width is None:
                raise ModelError("no module of this model knows the dimension of its embeddings")
            result = to_coo(rows, width, self.dtype or torch.float32)
        result = result if convert_to_sparse_tensor else result.to_dense()
        result = result if save_to_cpu else result.to(self.device)
        if single:
            return result[0]
        return result if convert_to_tensor else list(result)

    @older_names(sentences="inputs")
    def encode_query(
        self,
        inputs: Texts,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Tensor | list[Tensor]:
        """`encode` with the prompt "query", unless one is given, along the route "query"."""
        name = self.prompt_name_for("query", prompt, prompt_name)
        return self.encode(inputs=inputs, prompt_name=name, prompt=prompt, task="query", **options)

    @older_names(sentences="inputs")
    def encode_document(
        self,
        inputs: Texts,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Tensor | list[Tensor]:
        """`encode` with the prompt "document", unless one is given, along the route "document"."""
        name = self.prompt_name_for("document", prompt, prompt_name)
        return self.encode(
            inputs=inputs, prompt_name=name, prompt=prompt, task="document", **options
        )

    def embed(
        self,
        texts: Sequence[str] | Tokens,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        task: str | None = None,
        token_budget: int | None = None,
        max_active_dims: int | None = None,
    ) -> Embedded:
        """Encode texts for a corpus: the numbers of `encode`, as rows, with counts beside them.

        No (N, V) matrix is made: each batch is compressed at once.

        Args:
            texts: N texts, or what `corpus_tokens` made of them: then prompts are in it.
            prompt: text to put before each text.
            prompt_name: name of that prompt.
            task: "query" or "document": the prompt and the route of `encode_query` or
                `encode_document`. None: those of `encode`.
            token_budget: tokens of one batch, padding counted; None: what suits the model.
            max_active_dims: dimensions that stay non-zero per text; None: as the model says.

        Returns:
            `SparseRows`, float32. A text that does not fit into memory has an empty row and a
            reason in ``failed``.
        """
        tokens = self.corpus_tokens(texts, prompt=prompt, prompt_name=prompt_name, task=task)
        return self._embed(tokens, max_active_dims, RunOptions(token_budget=token_budget))

    def _embed(self, tokens: Tokens, max_active_dims: int | None, running: RunOptions) -> Embedded:
        k = _positive(max_active_dims) or self.max_active_dims

        def collect(features: Features) -> SparseRows:
            embeddings = features["sentence_embedding"]
            return compress(embeddings if k is None else keep_top(embeddings, k))

        # An autoencoder keeps k dimensions itself, and may be asked for more than usual.
        running = running | RunOptions(extra={"max_active_dims": k})
        parts: list[tuple[np.ndarray, SparseRows]] = []
        failed: dict[int, str] = {}
        for rows, output in self.run(tokens, collect, **running):
            if isinstance(output, InputError):
                failed[int(rows[0])] = str(output)
            else:
                parts.append((rows, output))
        values = in_order(parts, len(tokens))
        return Embedded(values, tokens.lengths.astype(np.int32), tokens.truncated, failed=failed)

    def default_token_budget(self, device: str | torch.device | None = None) -> int:
        """Tokens that suit the device, or fewer where vocabulary logits would fill its memory.

        Those are only made where batches are padded.
        """
        budget = super().default_token_budget(device)
        width = self.get_embedding_dimension()
        if not self._splade_poolings() or width is None or self.why_padded() is None:
            return budget
        bytes_per_token = width * (self.dtype or torch.float32).itemsize
        return max(1, min(budget, _LOGITS_BYTES // bytes_per_token))

    # --- Looking into embeddings -----------------------------------------------------------------

    sparsity = staticmethod(sparsity)
    get_sparsity_stats = staticmethod(sparsity)
    intersection = staticmethod(intersection)

    def decode(
        self, embeddings: Tensor, top_k: int | None = None
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """Active dimensions as (token, weight), heaviest first.

        Args:
            embeddings: (V,) or (N, V), sparse or dense.
            top_k: tokens per text at most.

        Returns:
            A list for (V,), a list of lists for (N, V).
        """
        rows = decode(embeddings, self.tokenizer.convert_ids_to_tokens, top_k)
        return rows[0] if embeddings.ndim == 1 else rows

    # --- What the model is -----------------------------------------------------------------------

    @property
    def splade_pooling_chunk_size(self) -> int | None:
        """Tokens of each sequence that SPLADE pools at a time; None for all. Never saved."""
        return next((pooling.chunk_size for pooling in self._splade_poolings()), None)

    @splade_pooling_chunk_size.setter
    def splade_pooling_chunk_size(self, value: int | None) -> None:
        poolings = self._splade_poolings()
        if not poolings:
            raise ModelError("this model has no SpladePooling, so it takes no chunk size")
        for pooling in poolings:
            pooling.chunk_size = _positive(value)

    def _splade_poolings(self) -> list[SpladePooling]:
        return [module for module in self.modules() if isinstance(module, SpladePooling)]


def _positive(value: int | None) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"a positive integer or None is needed, got {value!r}")
    return value
