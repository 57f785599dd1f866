"""Sparse encoders (SPLADE, CSR, inference-free): a text to weights of a few of many dimensions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from stx_core.errors import InputError, ModelError
from stx_core.inference.encode import default_token_budget
from stx_core.models.folder import read_json
from stx_core.models.modules.module import Features, LoadOptions
from stx_core.models.modules.pooling import Pooling
from stx_core.models.modules.sparse_auto_encoder import SparseAutoEncoder
from stx_core.models.modules.splade_pooling import SpladePooling
from stx_core.models.modules.transformer import Transformer
from stx_core.models.sparse_rows import compress, in_order, keep_top, to_coo
from stx_core.models.sparse_tensors import decode, intersection, sparsity
from stx_core.models.text_model import Embedded, ModelOptions, SparseRows, TextModel
from stx_core.similarity import Embeddings, SimilarityFunction

# SPLADE holds the logits of a whole batch, tokens x vocabulary. 2 GiB are 17,000 tokens of BERT's
# vocabulary in float32: they fill a GPU, and 250,000 entries (XLM-R) still leave 2,000 tokens.
_LOGITS_BYTES = 2 << 30


class SparseEncoder(TextModel):
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

    model_type: ClassVar[str] = "SparseEncoder"
    default_org: ClassVar[str] = "sparse-encoder"
    default_prompts: ClassVar[tuple[str, ...]] = ("query", "document")

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        similarity_fn_name: str | SimilarityFunction | None = None,
        max_active_dims: int | None = None,
        **options: Unpack[ModelOptions],
    ) -> None:
        super().__init__(model_name_or_path, **options)
        self._similarity_fn_name: str | None = None
        saved = self.saved_config.get("similarity_fn_name")
        # A name that this class does not know (a multi-vector model's) counts as none.
        known = saved if saved in SimilarityFunction.possible_values() else None
        self.similarity_fn_name = similarity_fn_name or known
        if max_active_dims is None:
            max_active_dims = self.saved_config.get("max_active_dims")
        if max_active_dims is None:
            k = (module.k for module in self.modules() if isinstance(module, SparseAutoEncoder))
            max_active_dims = next(k, None)
        self.max_active_dims = _positive(max_active_dims)

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
        transformer = Transformer.from_plain_folder(folder, options, task="fill-mask")
        return [transformer, SpladePooling("max", "relu")]

    # --- Encoding --------------------------------------------------------------------------------

    def encode(
        self,
        inputs: str | Sequence[str] | np.ndarray,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = True,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: str | torch.device | None = None,
        max_active_dims: int | None = None,
        *,
        task: str | None = None,
        token_budget: int | None = None,
    ) -> Tensor | list[Tensor]:
        """Encode texts.

        Args:
            inputs: one text or N of them.
            prompt_name: name of the prompt to put before each text.
            prompt: the prompt itself; wins over `prompt_name`.
            batch_size: texts of one batch at most; None: as many as the token budget allows.
            show_progress_bar: None shows it when info messages are logged.
            convert_to_tensor: one tensor, else a list with one tensor per text.
            convert_to_sparse_tensor: COO tensors, else dense ones, which take N x V numbers.
            save_to_cpu: leave the result on the CPU instead of the model's device.
            device: move the model there first.
            max_active_dims: dimensions that stay non-zero per text; None: as the model says.
            task: "query" or "document", the route of a model that has several.
            token_budget: tokens of one batch, padding counted; None: what suits the model.

        Returns:
            (N, V) in the model's number format, coalesced COO by default; (V,) for one text;
            shape (0,) for no texts.

        Raises:
            InputError: an input is no text, or does not fit into memory.
            ValueError: no prompt has that name, or a number is not positive.
        """
        single = isinstance(inputs, str)
        texts = [inputs] if single else list(inputs)
        embedded = self._embed(
            texts,
            prompt=self.resolve_prompt(prompt, prompt_name),
            task=task,
            max_active_dims=max_active_dims,
            batch_size=batch_size,
            token_budget=token_budget,
            show_progress_bar=show_progress_bar,
            device=device,
        )
        for row, reason in embedded.failed.items():
            raise InputError(f"input {row}: {reason}")
        result = self._as_tensor(embedded, convert_to_sparse_tensor)
        result = result if save_to_cpu else result.to(self.device)
        if single:
            return result[0]
        return result if convert_to_tensor else list(result)

    def encode_query(self, inputs: str | Sequence[str] | np.ndarray, **kwargs: Any) -> Any:
        """`encode` with the prompt "query", unless one is given, along the route "query"."""
        return self._encode_as("query", inputs, **kwargs)

    def encode_document(self, inputs: str | Sequence[str] | np.ndarray, **kwargs: Any) -> Any:
        """`encode` with the prompt "document", unless one is given, along the route "document"."""
        return self._encode_as("document", inputs, **kwargs)
