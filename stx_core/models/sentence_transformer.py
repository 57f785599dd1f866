"""Dense embeddings: a text becomes one vector of fixed width."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypedDict, Unpack, get_args

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from stx_core.choices import check_choice, check_count
from stx_core.errors import InputError
from stx_core.inference.packing import to_host
from stx_core.inference.tokens import Tokens
from stx_core.models.containers import Precision, all_features, in_container, token_embeddings
from stx_core.models.device import one_device
from stx_core.models.inputs import read_texts
from stx_core.models.modules.module import Features, LoadOptions
from stx_core.models.modules.normalize import Normalize
from stx_core.models.modules.pooling import Pooling
from stx_core.models.older_names import given, older_names
from stx_core.models.options import ConfigKey, ModelOptions, RunOptions
from stx_core.models.results import Embedded
from stx_core.models.text_encoder import TextEncoder, Texts
from stx_core.quantization import quantize_embeddings
from stx_core.similarity import SimilarityFunction

logger = logging.getLogger(__name__)

OutputValue = Literal["sentence_embedding", "token_embeddings"]

Encoded = np.ndarray | torch.Tensor | list[torch.Tensor] | list[Features] | Features

# Published without the setting that they were trained with: the prompt is not pooled.
_INSTRUCTORS = ("hkunlp/instructor-base", "hkunlp/instructor-large", "hkunlp/instructor-xl")


class EncodeOptions(TypedDict, total=False):
    """Keyword arguments of `SentenceTransformer.encode` beside texts and prompt."""

    batch_size: int | None
    show_progress_bar: bool | None
    output_value: OutputValue | None
    precision: Precision
    convert_to_numpy: bool
    convert_to_tensor: bool
    device: str | torch.device | None
    normalize_embeddings: bool
    truncate_dim: int | None
    pool: None
    chunk_size: None
    processing_kwargs: Mapping[str, Any] | None
    token_budget: int | None


class SentenceTransformer(TextEncoder):
    """A dense encoder from a folder or the hub.

    A plain transformers checkpoint gets mean pooling, a causal language model last-token pooling.

    Args:
        model_name_or_path: a local folder, or a name on the hub.
        similarity_fn_name: cosine, dot, euclidean or manhattan; default: what the folder says,
            else cosine.
        truncate_dim: leading dimensions to keep; default: what the folder says, else all.
        **options: see `TextModel`.
    """

    # Where other programs look for it, see there.
    __module__ = "stx_core.sentence_transformers"
    model_type: ClassVar[str] = "SentenceTransformer"
    default_huggingface_organization: ClassVar[str] = "sentence-transformers"
    default_similarity: ClassVar[SimilarityFunction] = SimilarityFunction.COSINE
    config_keys: ClassVar[tuple[ConfigKey, ...]] = ("similarity_fn_name", "truncate_dim")

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        similarity_fn_name: str | SimilarityFunction | None = None,
        truncate_dim: int | None = None,
        **options: Unpack[ModelOptions],
    ) -> None:
        super().__init__(model_name_or_path, similarity_fn_name=similarity_fn_name, **options)
        if truncate_dim is None:
            truncate_dim = self.saved_config.get("truncate_dim")
        self.truncate_dim = truncate_dim
        name = str(model_name_or_path)
        if name in _INSTRUCTORS:
            self.set_pooling_include_prompt(False)
        elif "instructor" in name.rpartition("/")[2].lower() and any(
            isinstance(part, Pooling) and part.include_prompt for part in self.modules()
        ):
            logger.warning(
                "%s pools the prompt, INSTRUCTOR models are trained without: "
                "call set_pooling_include_prompt(False) if it is one",
                name,
            )

    @classmethod
    def default_modules(cls, folder: Path, options: LoadOptions) -> Sequence[nn.Module]:
        """Backbone and pooling: of the last token for causal language models, else mean.

        Raises:
            ModelError: the checkpoint lacks weights that the backbone needs.
        """
        from stx_core.models.modules.transformer import Transformer

        transformer = Transformer.from_checkpoint(folder, options)
        config = transformer.model.config
        architecture = (getattr(config, "architectures", None) or [""])[0]
        causal = architecture.endswith("ForCausalLM") and getattr(config, "is_causal", True)
        mode = "lasttoken" if causal else "mean"
        return [transformer, Pooling(transformer.get_embedding_dimension(), mode)]

    # --- Encoding --------------------------------------------------------------------------------

    @older_names(sentences="inputs")
    def encode(
        self,
        inputs: Texts,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: OutputValue | None = "sentence_embedding",
        precision: Precision = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: None = None,
        chunk_size: None = None,
        *,
        task: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
        token_budget: int | None = None,
        **arguments: Any,  # noqa: ANN401
    ) -> Encoded:
        """Encode texts.

        Args:
            inputs: one text or N of them, or N pairs of texts: list, tuple, numpy array, column,
                series, iterator. Older name: ``sentences``.
            prompt_name: name of the prompt to put before each text.
            prompt: the prompt itself; wins over `prompt_name`.
            batch_size: texts of one batch at most; None: as many as the token budget allows.
            show_progress_bar: None shows it when info messages are logged.
            output_value: "token_embeddings" for one (L, D) tensor per text; None for all features
                of each text, as dicts, of which ``sentence_embedding`` is truncated. Both stay on
                the device and are not normalised; the `convert_to` arguments do not count.
            precision: what to quantise the whole result to. int8 and uint8 take their ranges from
                this very result: for a corpus, use `embed` and fixed ranges. Token
                embeddings share one range, and become numpy arrays.
            convert_to_numpy: an array on the CPU.
            convert_to_tensor: a tensor on the device; wins over `convert_to_numpy`. With neither, a
                list of tensors.
            device: move the model there first.
            normalize_embeddings: divide by the L2 norm in float32, after truncation.
            truncate_dim: leading dimensions to keep, of the model's last module: a vector that was
                normalised inside the model is shorter than 1 then.
            pool: only None: a call runs in this process.
            chunk_size: only None.
            task: "query" or "document", the route of a model that has several.
            processing_kwargs: for this call, see `Transformer`.
            token_budget: tokens of one batch, padding counted; None: what suits the device.
            **arguments: of modules of this model, see `get_model_kwargs`.

        Returns:
            (N, D), in the model's number format (bfloat16 becomes float32 in numpy); (D,) for one
            text; shape (0,) for no texts.

        Raises:
            InputError: an input is no text, or does not fit into memory.
            ValueError: an argument is unknown or not possible.
        """
        check_choice("output_value", output_value, get_args(OutputValue), none=True)
        check_choice("precision", precision, get_args(Precision), none=True)
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
        if output_value != "sentence_embedding":
            items = self._per_text(tokens, output_value, truncate_dim, running=running)
            if precision is not None and precision != "float32":
                if output_value is None:
                    raise ValueError(
                        f"precision {precision!r} needs output_value, None gives all features"
                    )
                # One range for the token embeddings of all texts.
                items = list(quantize_embeddings(items, precision)) if items else items
            return items[0] if single else items
        to_numpy = convert_to_numpy and not convert_to_tensor
        result, failed = self._embeddings(
            tokens,
            truncate_dim,
            normalize_embeddings,
            to_cpu=to_numpy,
            running=running,
            # numpy has no bfloat16.
            dtype=torch.float32 if to_numpy and self.dtype == torch.bfloat16 else None,
        )
        for row, reason in failed.items():
            raise InputError(f"input {row}: {reason}")
        embeddings = in_container(result, precision, to_numpy=to_numpy, to_tensor=convert_to_tensor)
        return embeddings[0] if single else embeddings

    @older_names(sentences="inputs")
    def encode_query(
        self,
        inputs: Texts,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Encoded:
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
    ) -> Encoded:
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
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Embedded:
        """Encode texts for a corpus: the numbers of `encode`, with counts beside them.

        Args:
            texts: N texts, or what `corpus_tokens` made of them: then prompts are in it.
            prompt: text to put before each text.
            prompt_name: name of that prompt.
            task: "query" or "document": the prompt and the route of `encode_query` or
                `encode_document`. None: those of `encode`.
            token_budget: tokens of one batch, padding counted; None: what suits the device.
            normalize_embeddings: divide by the L2 norm, after truncation.
            truncate_dim: leading dimensions to keep.

        Returns:
            (N, D) float32. Where they are normalised, by the argument or by the model's last
            module, norms are 1 to within 1e-6 whatever the model computes in. A text that does not
            fit into memory is a zero row with a reason in ``failed``.
        """
        tokens = self.corpus_tokens(texts, prompt=prompt, prompt_name=prompt_name, task=task)
        result, failed = self._embeddings(
            tokens,
            truncate_dim,
            normalize_embeddings,
            to_cpu=True,
            running=RunOptions(token_budget=token_budget),
            dtype=torch.float32,
        )
        values = result.numpy()
        return Embedded(values, tokens.lengths.astype(np.int32), tokens.truncated, failed=failed)

    def _embeddings(
        self,
        tokens: Tokens,
        truncate_dim: int | None,
        normalize_embeddings: bool,
        *,
        to_cpu: bool,
        running: RunOptions,
        dtype: torch.dtype | None = None,
    ) -> tuple[torch.Tensor, dict[int, str]]:
        """(N, D) in `dtype` or the model's own, in input order; rows that failed are zero."""
        width = self.truncate_dim if truncate_dim is None else truncate_dim
        check_count("truncate_dim", width)
        ends_normalized = width is None and isinstance(self[-1], Normalize)

        def collect(features: Features) -> Callable[[], torch.Tensor]:
            value = features["sentence_embedding"][:, :width]
            target_dtype = dtype or value.dtype
            is_half = value.dtype in (torch.bfloat16, torch.float16)
            # A norm that was computed in a half format is off by its rounding, up to 0.4 %.
            if normalize_embeddings or (ends_normalized and is_half):
                value = normalize(value.float() if is_half else value, p=2, dim=1)
            value = value.to(target_dtype)
            return to_host(value) if to_cpu else lambda: value

        result, failed = self.run_in_order(tokens, collect, missing=0, **running)
        if result is None:
            full = self.get_embedding_dimension() or 0
            device = torch.device("cpu") if to_cpu else self.device
            result = torch.zeros((len(tokens), min(width or full, full)), device=device)
        return result, failed

    def _per_text(
        self,
        tokens: Tokens,
        output_value: str | None,
        truncate_dim: int | None,
        *,
        running: RunOptions,
    ) -> list[Any]:
        """Token embeddings, or all features, of each text."""
        width = self.truncate_dim if truncate_dim is None else truncate_dim
        check_count("truncate_dim", width)

        def split(features: Features) -> list[Any]:
            if output_value is not None:
                return token_embeddings(features)
            features["sentence_embedding"] = features["sentence_embedding"][..., :width]
            return all_features(features)

        items: list[Any] = [None] * len(tokens)
        for rows, output in self.run(tokens, split, **(running | RunOptions(packed=False))):
            if isinstance(output, InputError):
                raise InputError(f"input {rows[0]}: {output}")
            for row, item in zip(rows, output, strict=True):
                items[row] = item
        return items

    # --- What the model is -----------------------------------------------------------------------

    def get_embedding_dimension(self) -> int | None:
        """D, after truncation; None where no module knows it."""
        widths = (super().get_embedding_dimension(), self.truncate_dim)
        return min((width for width in widths if width is not None), default=None)

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Within this context embeddings keep the leading `truncate_dim` dimensions."""
        before = self.truncate_dim
        self.truncate_dim = truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    truncate_sentence_embeddings = truncate_embeddings
    """Older name of `truncate_embeddings`."""

    @classmethod
    def load(cls, input_path: str | Path) -> Self:
        """Older form of the constructor."""
        return cls(input_path)
