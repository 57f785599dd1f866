"""The model that reads two texts together and scores how well they match."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from torch import nn

from stx_core.choices import check_count
from stx_core.errors import InputError, ModelError
from stx_core.inference.packing import to_host
from stx_core.inference.tokens import Pair, Tokens
from stx_core.models.alias import Alias
from stx_core.models.device import one_device
from stx_core.models.float32_linear import keep_in_float32
from stx_core.models.inputs import Unread, read_only_texts, read_pairs
from stx_core.models.messages import tokenize_as_messages
from stx_core.models.module_row import is_transformer
from stx_core.models.modules.activations import Activation
from stx_core.models.modules.dense import Dense
from stx_core.models.modules.logit_score import LogitScore
from stx_core.models.modules.module import Features, LoadOptions
from stx_core.models.older_names import given, older_names
from stx_core.models.options import ModelOptions, ModelSettings, RunOptions
from stx_core.models.plain_scorer import content_format, load_plain_scorer
from stx_core.models.results import Ranked, Scored
from stx_core.models.score_activation import activation_settings, named_activation, to_scores
from stx_core.models.text_model import TextModel

# N pairs of a call, B of a batch, K labels


class CrossEncoder(TextModel):
    """Scores pairs of texts: relevance for one label, one score per class for several.

    Args:
        model_name_or_path: a local folder, or a name on the hub; short names belong to the
            organisation ``cross-encoder``.
        num_labels: labels that the model must have; another number is an error, since its head
            would be untrained.
        max_length: tokens per pair at most; None: what the folder says.
        activation_fn: applied to the logits; None: what the folder says, else sigmoid for one
            label and nothing for several.
        device: see `TextModel`.
        classifier_dropout: of the backbone's config, for training.
        keep_in_fp32_modules: see `set_keep_in_fp32_modules`; None: what the folder says.
        **options: see `TextModel`.

    Raises:
        ModelError: the folder cannot be loaded, or it has no trained scoring head.
    """

    # Where other programs look for it, see there.
    __module__ = "stx_core.sentence_transformers"
    model_type: ClassVar[str] = "CrossEncoder"
    default_huggingface_organization: ClassVar[str] = "cross-encoder"

    activation_fn: Activation

    @older_names(
        model_name="model_name_or_path",
        automodel_args="model_kwargs",
        tokenizer_args="processor_kwargs",
        config_args="config_kwargs",
        cache_dir="cache_folder",
        default_activation_function="activation_fn",
    )
    def __init__(  # type: ignore[misc]  # device: by position too, as it once was
        self,
        model_name_or_path: str | Path | None = None,
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Activation | None = None,
        device: str | torch.device | None = None,
        *,
        classifier_dropout: float | None = None,
        keep_in_fp32_modules: Sequence[str] | None = None,
        **options: Unpack[ModelOptions],
    ) -> None:
        if classifier_dropout is not None:
            config = options.get("config_kwargs") or {}
            options["config_kwargs"] = {**config, "classifier_dropout": classifier_dropout}
        super().__init__(model_name_or_path, device=device, **options)
        if num_labels is not None and num_labels != self.num_labels:
            raise ModelError(
                f"num_labels={num_labels} was asked for, the model has {self.num_labels}; a head "
                "of another size would be untrained"
            )
        if max_length is not None:
            self.max_seq_length = max_length
        if activation_fn is None:
            activation_fn = self.get_default_activation_fn()
        self.activation_fn = activation_fn
        if keep_in_fp32_modules is None:
            keep_in_fp32_modules = self.saved_config.get("keep_in_fp32_modules")
        self.set_keep_in_fp32_modules(keep_in_fp32_modules or [])

    def set_keep_in_fp32_modules(self, module_names: Sequence[str]) -> None:
        """Let linear layers, and no others, compute and return float32; saved with the model.

        Args:
            module_names: their paths, such as ``0.model.classifier``.

        Raises:
            ModelError: a path names no plain linear layer.
        """
        keep_in_float32(self, module_names)
        self.keep_in_fp32_modules = list(module_names)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        # An nn.Module set the usual way would become one more step of the model.
        if name == "activation_fn":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @classmethod
    def default_modules(cls, folder: Path, options: LoadOptions) -> Sequence[nn.Module]:
        """Modules for a plain checkpoint, see `load_plain_scorer`."""
        return load_plain_scorer(folder, options)

    # --- What the model is -----------------------------------------------------------------------

    model = Alias[Any]("transformers_model")
    """The backbone with its head."""

    max_length = Alias[int | None]("max_seq_length", settable=True)
    """Older name of `max_seq_length`."""

    default_activation_function = Alias[Activation]("activation_fn")
    """Older name of `activation_fn`."""

    @property
    def num_labels(self) -> int:
        """Scores per pair."""
        for module in reversed(list(self)):
            if isinstance(module, LogitScore):
                return 1
            if isinstance(module, Dense) and module.module_output_name == "scores":
                return module.out_features
            if is_transformer(module) and module.module_output_name == "scores":
                return int(module.backbone.config.num_labels)
        names = [type(module).__name__ for module in self]
        raise ModelError(f"none of the modules {names} gives scores; a CrossEncoder needs a head")

    def get_default_activation_fn(self) -> Activation:
        """The activation of the folder, else sigmoid for one label and nothing for several."""
        backbone = getattr(getattr(self[0], "backbone", None), "config", None)
        named = named_activation(self.saved_config, backbone)
        return named or (nn.Sigmoid() if self.num_labels == 1 else nn.Identity())

    def is_singular_input(self, inputs: Any) -> bool:  # noqa: ANN401
        """True for one pair, False for N pairs.

        Raises:
            InputError: it is neither.
        """
        return read_pairs(inputs)[1]

    def model_config(self) -> ModelSettings:
        """Settings of the whole model as they are saved."""
        config = super().model_config() | activation_settings(self.activation_fn)
        if self.keep_in_fp32_modules:
            config["keep_in_fp32_modules"] = self.keep_in_fp32_modules
        return config

    # --- Scoring ---------------------------------------------------------------------------------

    def to_tokens(
        self,
        inputs: Sequence[str] | Sequence[Pair],
        *,
        prompt: str = "",
        task: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
    ) -> Tokens:
        """Tokenise N pairs; as chat messages where the model was trained on those."""
        first = self[0]
        if not (is_transformer(first) and "message" in first.modality_config):
            own = given(processing_kwargs=processing_kwargs)
            return super().to_tokens(inputs, prompt=prompt, task=task, **own)
        first = first.processing_by(processing_kwargs)
        return tokenize_as_messages(
            first.tokenizer,
            read_pairs(inputs)[0],
            prompt=prompt,
            max_length=first.max_seq_length,
            content=content_format(first),
            template_kwargs=first.processing_kwargs.get("chat_template"),
        )

    def score(
        self,
        pairs: Sequence[Pair],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        token_budget: int | None = None,
        activation_fn: Activation | None = None,
    ) -> Scored:
        """Score N pairs, and count what was read: what `predict` gives, for pipelines.

        Pairs of all queries share batches of like length; the order of the input is kept.

        Args:
            pairs: N times (query, document).
            prompt: text before the first text of each pair; None: by `prompt_name` or the default.
            prompt_name: name of a saved prompt.
            token_budget: tokens of one batch, padding counted; None: what suits the device.
            activation_fn: instead of the model's own, for this call.

        Raises:
            InputError: a pair is not two texts.
        """
        tokens = self.read(read_pairs(pairs)[0], self.resolve_prompt(prompt, prompt_name), None)
        if isinstance(tokens, Unread):
            raise ModelError(
                f"{type(self).__name__} makes its tokens by a preprocess or tokenize of its own, "
                "which counts none: use predict"
            )
        scores, failed = self._scores(tokens, activation_fn, token_budget=token_budget)
        n_tokens = tokens.lengths.astype(np.int32)
        return Scored(scores.float().numpy(), n_tokens, tokens.truncated, failed=failed)

    @older_names("num_workers", sentences="inputs", activation_fct="activation_fn")
    def predict(
        self,
        inputs: Iterable[Any] | np.ndarray,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        pool: None = None,
        chunk_size: None = None,
        *,
        task: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
        **arguments: Any,  # noqa: ANN401
    ) -> np.ndarray | np.float32 | torch.Tensor | list[torch.Tensor]:
        """Score one pair, or N pairs.

        Args:
            inputs: (query, document), or N of them: a list, tuple, (N, 2) array, column, ``zip``
                or other iterator. Older name: ``sentences``.
            prompt_name: name of a saved prompt.
            prompt: text before the first text of each pair.
            batch_size: pairs of one batch at most; None: as many as the token budget allows.
            show_progress_bar: None shows it when info messages are logged.
            activation_fn: instead of the model's own, for this call: from logits (B, K) to scores
                of any shape (B, ...). Older name: ``activation_fct``.
            apply_softmax: make the scores of several labels sum to 1, after the activation.
            convert_to_numpy: (N,) float32 or, for K labels, (N, K); of one pair without the N.
                An activation of another shape decides it.
            convert_to_tensor: the same as a tensor on the model's device; wins over numpy. With
                neither, a list of N tensors.
            device: move the model there first.
            pool: only None: a call runs in this process.
            chunk_size: only None.
            task: the route of a model that has several.
            processing_kwargs: for this call, see `Transformer`.
            **arguments: of modules of this model, see `get_model_kwargs`.

        Raises:
            InputError: a pair is not two texts, or does not fit into memory.
            ValueError: `batch_size` is not positive, there is no such prompt or argument, or the
                activation does not give one result for each pair.
        """
        pairs, single = read_pairs(inputs)
        self.check_arguments("predict", arguments)
        options = given(processing_kwargs=processing_kwargs) | arguments
        tokens = self.read(pairs, self.resolve_prompt(prompt, prompt_name), task, options=options)
        scores, failed = self._scores(
            tokens,
            activation_fn,
            apply_softmax=bool(apply_softmax),
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            device=one_device(device, pool, chunk_size),
            arguments=arguments | given(task=task),
        )
        for row, reason in failed.items():
            raise InputError(f"pair {row}: {reason}; shorten it or lower max_seq_length")
        if not pairs:  # the reference gives (0,), whatever the number of labels
            scores = scores.flatten()
        result: np.ndarray | torch.Tensor | list[torch.Tensor]
        if convert_to_tensor:
            result = scores.to(self.device)
        elif convert_to_numpy:
            result = scores.float().numpy()
        else:
            result = list(scores.to(self.device))
        return result[0] if single else result

    @older_names(
        "num_workers",
        "apply_softmax",
        "convert_to_numpy",
        "convert_to_tensor",
        activation_fct="activation_fn",
    )
    def rank(
        self,
        query: str,
        documents: Iterable[str] | np.ndarray,
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        device: str | torch.device | None = None,
        pool: None = None,
        chunk_size: None = None,
    ) -> list[Ranked]:
        """Order documents by their score with a query, best first, ties as they came.

        Args:
            query: one text.
            documents: N texts, in any container that has an order.
            top_k: keep this many; None keeps all.
            return_documents: add the text of each document.
            prompt_name: see `predict`, as for all that follow.
            prompt: text before the query.
            batch_size: pairs of one batch at most.
            show_progress_bar: None shows it when info messages are logged.
            activation_fn: instead of the model's own.
            device: move the model there first.
            pool: only None.
            chunk_size: only None.

        Returns:
            ``{"corpus_id": int, "score": float}``, and ``"text"``, per document.

        Raises:
            InputError: the query or a document is no text.
            ValueError: the model has more than one label, or `top_k` is negative.
        """
        check_count("top_k", top_k, least=0)
        if not isinstance(query, str):
            raise InputError(f"query must be one text, got {type(query).__name__}")
        if self.num_labels != 1:
            raise ValueError(
                f"rank needs a model with 1 label, this one has {self.num_labels}; use predict and "
                "order by the label that you want"
            )
        texts = read_only_texts(documents, "documents")
        scores = self.predict(
            inputs=[(query, text) for text in texts],
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            activation_fn=activation_fn,
            convert_to_tensor=True,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        )
        if not isinstance(scores, torch.Tensor) or scores.ndim != 1:
            raise ValueError("rank needs one score for each document: check activation_fn")
        ranking: list[Ranked] = []
        for row in scores.argsort(descending=True, stable=True)[:top_k].tolist():
            ranking.append({"corpus_id": row, "score": float(scores[row])})
            if return_documents:
                ranking[-1]["text"] = texts[row]
        return ranking

    def _scores(
        self,
        tokens: Tokens,
        activation_fn: Activation | None,
        *,
        apply_softmax: bool = False,
        **running: Unpack[RunOptions],
    ) -> tuple[torch.Tensor, dict[int, str]]:
        """Scores (N, ...) on the CPU, in input order, and the reasons of rows without: NaN."""
        activation = self.activation_fn if activation_fn is None else activation_fn
        one_label = self.num_labels == 1

        def collect(features: Features) -> Callable[[], torch.Tensor]:
            logits = features["scores"]
            return to_host(
                to_scores(logits, activation, one_label=one_label, apply_softmax=apply_softmax)
            )

        scores, failed = self.run_in_order(tokens, collect, missing=torch.nan, **running)
        if scores is None:
            width = () if one_label else (self.num_labels,)
            scores = torch.full((len(tokens), *width), torch.nan)
        return scores, failed
