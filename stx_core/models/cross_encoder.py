"""The model that reads two texts together and scores how well they match."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from torch import nn

from stx_core.errors import InputError, ModelError
from stx_core.inference.tokens import Pair, Tokens
from stx_core.models.folder import read_json
from stx_core.models.loading import CONFIG
from stx_core.models.messages import message_format, tokenize_as_messages
from stx_core.models.modules.dense import ACTIVATIONS, Dense, load_activation
from stx_core.models.modules.logit_score import LogitScore
from stx_core.models.modules.module import Features, LoadOptions
from stx_core.models.modules.transformer import Transformer
from stx_core.models.text_model import ModelOptions, TextModel

# N pairs of a call, B of a batch, K labels

Activation = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Scored:
    """What a model computed for N pairs, with the counts that a corpus keeps beside it.

    Attributes:
        scores: (N,) float32, or (N, K) for K > 1 labels; NaN for failed rows.
        n_tokens: (N,) int32, tokens that the model read of both texts, special tokens counted.
        truncated: (N,) bool, the pair had more tokens than that.
        failed: row -> reason, for pairs that do not fit into memory even alone.
    """

    scores: np.ndarray
    n_tokens: np.ndarray
    truncated: np.ndarray
    failed: dict[int, str] = field(default_factory=dict)


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
        **options: see `TextModel`.

    Raises:
        ModelError: the folder cannot be loaded, or it has no trained scoring head.
    """

    model_type: ClassVar[str] = "CrossEncoder"
    default_org: ClassVar[str] = "cross-encoder"

    activation_fn: Activation

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Activation | None = None,
        **options: Unpack[ModelOptions],
    ) -> None:
        super().__init__(model_name_or_path, **options)
        if num_labels is not None and num_labels != self.num_labels:
            raise ModelError(
                f"num_labels={num_labels} was asked for, the model has {self.num_labels}; a head "
                "of another size would be untrained"
            )
        if max_length is not None:
            self.max_seq_length = max_length
        self.activation_fn = activation_fn or self._saved_activation()

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        # An nn.Module set the usual way would become one more step of the model.
        if name == "activation_fn":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @classmethod
    def default_modules(cls, folder: Path, options: LoadOptions) -> Sequence[nn.Module]:
        """Modules for a plain checkpoint: a sequence classifier, or a causal reranker.

        Raises:
            ModelError: the checkpoint is neither, so its scoring head would be untrained.
        """
        architecture = str((read_json(folder / "config.json").get("architectures") or [""])[0])
        if architecture.endswith("ForSequenceClassification"):
            return [_read_as_messages(_transformer(folder, options, "sequence-classification"))]
        if architecture.endswith("ForCausalLM"):
            transformer = _read_as_messages(_transformer(folder, options, "text-generation"))
            yes, no = (_token_id(transformer.tokenizer, word, folder) for word in ("yes", "no"))
            return [transformer, LogitScore(yes, no)]
        raise ModelError(
            f"{folder}: the checkpoint is a {architecture or 'model of unknown architecture'}, "
            "which has no trained scoring head; as a CrossEncoder it would give untrained scores. "
            "Use a *ForSequenceClassification checkpoint"
        )

    # --- What the model is -----------------------------------------------------------------------

    @property
    def model(self) -> Any:  # noqa: ANN401  (transformers is untyped)
        """The backbone with its head."""
        return self.transformers_model

    @property
    def config(self) -> Any:  # noqa: ANN401
        """The backbone's config."""
        return self.transformers_model.config

    @property
    def num_labels(self) -> int:
        """Scores per pair."""
        for module in reversed(list(self)):
            if isinstance(module, LogitScore):
                return 1
            if isinstance(module, Dense) and module.module_output_name == "scores":
                return module.out_features
            if isinstance(module, Transformer) and module.module_output_name == "scores":
                return int(module.model.config.num_labels)
        names = [type(module).__name__ for module in self]
        raise ModelError(f"none of the modules {names} gives scores; a CrossEncoder needs a head")

    @property
    def max_length(self) -> int | None:
        """Older name of `max_seq_length`."""
        return self.max_seq_length

    @max_length.setter
    def max_length(self, value: int | None) -> None:
        self.max_seq_length = value

    def _saved_activation(self) -> Activation:
        """The activation of the folder, in the places of all ages, newest first (trap 3)."""
        backbone = getattr(self.transformers_model, "config", None)
        block = getattr(backbone, "sentence_transformers", None) or {}
        places = (
            (self.saved_config.get("activation_fn"), f"{CONFIG}: activation_fn"),
            (block.get("activation_fn"), "config.json: sentence_transformers.activation_fn"),
            (
                getattr(backbone, "sbert_ce_default_activation_function", None),
                "config.json: sbert_ce_default_activation_function",
            ),
        )
        for path, where in places:
            if path is not None:
                return load_activation(path, where)
        return nn.Sigmoid() if self.num_labels == 1 else nn.Identity()

    def model_config(self) -> dict[str, Any]:
        """Settings of the whole model as they are saved."""
        return super().model_config() | {"activation_fn": _class_path(self.activation_fn)}

    # --- Scoring ---------------------------------------------------------------------------------

    def to_tokens(
        self, inputs: Sequence[str] | Sequence[Pair], *, prompt: str = "", task: str | None = None
    ) -> Tokens:
        """Tokenise N pairs; as chat messages where the model was trained on those."""
        first = self[0]
        if not (isinstance(first, Transformer) and "message" in first.modality_config):
            return super().to_tokens(inputs, prompt=prompt, task=task)
        return tokenize_as_messages(
            first.tokenizer,
            _pairs(inputs),
            prompt=prompt,
            max_length=first.max_seq_length,
            content=first.modality_config["message"].get("format", "auto"),
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
        tokens = self.to_tokens(_pairs(pairs), prompt=self.resolve_prompt(prompt, prompt_name))
        scores, failed = self._scores(tokens, activation_fn, token_budget=token_budget)
        return Scored(
            scores.float().numpy(), tokens.lengths.astype(np.int32), tokens.truncated, failed
        )

    def predict(
        self,
        inputs: Sequence[Any] | np.ndarray,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
    ) -> np.ndarray | np.float32 | torch.Tensor | list[torch.Tensor]:
        """Score one pair, or N pairs.

        Args:
            inputs: (query, document), or N of them.
            prompt_name: name of a saved prompt.
            prompt: text before the first text of each pair.
            batch_size: pairs of one batch at most; None: as many as the token budget allows.
            show_progress_bar: None shows it when info messages are logged.
            activation_fn: instead of the model's own, for this call.
            apply_softmax: make the scores of several labels sum to 1, after the activation.
            convert_to_numpy: (N,) float32 or, for K labels, (N, K); of one pair without the N.
            convert_to_tensor: the same as a tensor on the model's device; wins over numpy. With
                neither, a list of N tensors.
            device: move the model there first.

        Raises:
            InputError: a pair is not two texts, or does not fit into memory.
            ValueError: `batch_size` is not positive, or there is no such prompt.
        """
        single = _is_one_pair(inputs)
        pairs = _pairs([inputs] if single else inputs)
        scores, failed = self._scores(
            self.to_tokens(pairs, prompt=self.resolve_prompt(prompt, prompt_name)),
            activation_fn,
            apply_softmax=bool(apply_softmax),
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            device=device,
        )
        for row, reason in failed.items():
            raise InputError(f"pair {row}: {reason}; shorten it or lower max_seq_length")
        if not pairs:  # no batch has shown how many scores a pair has
            scores = torch.empty(0)
        if convert_to_tensor:
            return scores.to(self.device)[0] if single else scores.to(self.device)
        if convert_to_numpy:
            array = scores.float().numpy() if pairs else np.array([])
            return array[0] if single else array
        rows = list(scores.to(self.device))
        return rows[0] if single else rows

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        device: str | torch.device | None = None,
    ) -> list[dict[str, Any]]:
        """Order documents by their score with a query, best first, ties as they came.

        Args:
            query: one text.
            documents: N texts.
            top_k: keep this many; None keeps all.
            return_documents: add the text of each document.
            prompt_name: see `predict`, as for the other arguments.
            prompt: see `predict`.
            batch_size: see `predict`.
            show_progress_bar: see `predict`.
            activation_fn: see `predict`.
            device: see `predict`.

        Returns:
            ``{"corpus_id": int, "score": float}``, and ``"text"``, per document.

        Raises:
            ValueError: the model has more than one label.
        """
        if self.num_labels != 1:
            raise ValueError(
                f"rank needs a model with 1 label, this one has {self.num_labels}; use predict and "
                "order by the label that you want"
            )
        texts = list(documents)
        scores = self.predict(
            [(query, text) for text in texts],
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            activation_fn,
            convert_to_tensor=True,
            device=device,
        )
        rows = [
            {"corpus_id": row, "score": float(score)}
            | ({"text": texts[row]} if return_documents else {})
            for row, score in enumerate(scores)
        ]
        return sorted(rows, key=lambda row: row["score"], reverse=True)[:top_k]

    def _scores(
        self,
        tokens: Tokens,
        activation_fn: Activation | None,
        *,
        apply_softmax: bool = False,
        **running: Any,  # noqa: ANN401  (the arguments of `run`)
    ) -> tuple[torch.Tensor, dict[int, str]]:
        """Scores (N,) or (N, K) on the CPU, in input order, and the reasons of rows without."""
        activation = activation_fn or self.activation_fn
        one_label = self.num_labels == 1

        def collect(features: Features) -> torch.Tensor:
            return _finish(features["scores"], activation, one_label, apply_softmax).cpu()

        scores = torch.full((len(tokens),) if one_label else (len(tokens), self.num_labels), np.nan)
        failed = {}
        for rows, output in self.run(tokens, collect, **running):
            if isinstance(output, InputError):
                failed[int(rows[0])] = str(output)
            else:
                scores[torch.from_numpy(rows)] = output.to(scores.dtype)
        return scores, failed


def _finish(
    logits_BK: torch.Tensor, activation: Activation, one_label: bool, apply_softmax: bool
) -> torch.Tensor:
    """Logits to scores, (B,) for one label, else (B, K), at least single precision."""
    if torch.finfo(logits_BK.dtype).bits < 32:
        logits_BK = logits_BK.float()  # half precision would round good documents to ties
    scores = activation(logits_BK)
    if one_label:
        return scores.squeeze(-1)
    return scores.softmax(dim=1) if apply_softmax else scores


def _class_path(activation: Activation) -> str:
    path = f"{type(activation).__module__}.{type(activation).__name__}"
    if path not in ACTIVATIONS or repr(activation) != repr(ACTIVATIONS[path]()):
        raise ModelError(
            f"the activation {activation!r} cannot be saved: a folder stores only the class name, "
            "of a torch.nn activation with its default settings"
        )
    return path


def _is_one_pair(inputs: Any) -> bool:  # noqa: ANN401  (whatever a caller gives)
    if isinstance(inputs, np.ndarray):
        return inputs.ndim == 1 and inputs.size > 0
    return len(inputs) > 0 and isinstance(inputs[0], str)


def _pairs(inputs: Any) -> list[Pair]:  # noqa: ANN401
    """N pairs of texts as tuples.

    Raises:
        InputError: an item is not two texts.
    """
    pairs = []
    for row, item in enumerate(inputs.tolist() if isinstance(inputs, np.ndarray) else inputs):
        pair = tuple(item) if isinstance(item, list | tuple | np.ndarray) else (item,)
        if len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            kinds = ", ".join(type(part).__name__ for part in pair)
            raise InputError(f"pair {row} must be two texts (query, document), got ({kinds})")
        pairs.append(pair)
    return pairs
