"""What every module of a model folder has in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeGuard, runtime_checkable

import numpy as np
from torch import Tensor, nn

from stx_core.errors import ModelError
from stx_core.inference.tokens import Pair, Tokens
from stx_core.models.folder import load_weights, read_json, save_weights, write_json

if TYPE_CHECKING:
    from stx_core.models.modules.transformer import Transformer

Features = dict[str, Any]
"""What flows from module to module. Keys, named as in Sentence Transformers (B inputs, L tokens of
the longest, D width):

    input_ids, attention_mask, token_type_ids   (B, L) int64
    input_ids, offsets    (T,) and (B,) int64 instead, where order and padding do not matter: the
                          ids of all inputs, and where each input starts
    layout                `Layout` of a packed batch: no padding and no attention_mask, ids (1, T),
                          and features of tokens (T, ...) instead of (B, L, ...)
    head_inputs, head     of a packed batch behind a masked-LM head: (T, H), and the linear layer
                          that makes vocabulary logits of them, instead of token_embeddings
    max_active_dims       int, what a sparse embedding keeps; absent or None: all, or k
    prompt_length         int, leading tokens that pooling leaves out; absent: none
    token_embeddings      (B, L, D) float; vocabulary logits (B, L, V) behind a masked-LM head
    all_layer_embeddings  list of (B, L, D), only when a module asks for hidden states
    token_weights_sum     (B,) float, replaces the mask sum of mean pooling
    sentence_embedding    (B, D) float
    causal_logits         (B, V) float, logits of the last token
    scores                (B, K) float
"""


@dataclass(frozen=True)
class LoadOptions:
    """How a model folder may be opened. Safe by default: no pickle, no foreign code."""

    model_kwargs: dict[str, Any] = field(default_factory=dict)
    processor_kwargs: dict[str, Any] = field(default_factory=dict)
    config_kwargs: dict[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    allow_pickle: bool = False
    cache_folder: str | None = None
    local_files_only: bool = False
    token: str | bool | None = None


class Module(nn.Module):
    """A step of a model: features in, features out, loaded from and saved to one folder.

    A subclass with plain settings and weights only names its `config_keys`; the constructor takes
    them as arguments and keeps each as an attribute of the same name. `config_renames` maps key
    names of older folders to them.
    """

    config_file: ClassVar[str] = "config.json"
    config_keys: ClassVar[tuple[str, ...]] = ()
    config_renames: ClassVar[dict[str, str]] = {}
    is_transformer: ClassVar[bool] = False

    @classmethod
    def from_folder(cls, folder: Path, options: LoadOptions) -> Self:
        """Build the module from its folder: settings, then weights.

        Raises:
            ModelError: a setting is unknown or missing, or the weights' names or shapes differ
                from the module's.
        """
        try:
            module = cls(**cls.read_config(folder))
        except (TypeError, ValueError) as error:
            if isinstance(error, ModelError):
                raise
            where = folder / cls.config_file
            raise ModelError(f"{where}: settings do not fit {cls.__name__}: {error}") from error
        if module.state_dict():
            module.fill(load_weights(folder, allow_pickle=options.allow_pickle), folder)
        return module

    @classmethod
    def read_config(cls, folder: Path) -> dict[str, Any]:
        """Constructor arguments from the folder's config file, older key names mapped to ours."""
        config = read_json(folder / cls.config_file)
        return {cls.config_renames.get(key, key): value for key, value in config.items()}

    def fill(self, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Load weights, each key of which must match.

        Raises:
            ModelError: keys or shapes differ; the message names them.
        """
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            name = type(self).__name__
            raise ModelError(f"{folder}: weights do not fit {name}: {error}") from error

    def config(self) -> dict[str, Any]:
        """Settings as they are saved."""
        return {key: getattr(self, key) for key in self.config_keys}

    def save(self, folder: Path) -> None:
        """Write settings and weights (safetensors) into an existing folder."""
        write_json(folder / self.config_file, self.config())
        if weights := self.state_dict():
            save_weights(folder, weights)

    def forward(self, features: Features) -> Features:
        """Read and add features. The keys are listed at `Features`."""
        raise TypeError(f"{type(self).__name__} does not define forward")


def is_transformer(module: object) -> "TypeGuard[Transformer]":
    """Whether a module is a `Transformer`; models without one need not load transformers for it."""
    return isinstance(module, Module) and module.is_transformer


@runtime_checkable
class InputModule(Protocol):
    """The first module of a model: it also turns texts into tokens, and tokens into features."""

    max_seq_length: int | None

    def tokenize(
        self, inputs: Sequence[str] | Sequence[Pair], *, prompt: str = "", task: str | None = None
    ) -> Tokens:
        """Ragged tokens of N inputs, prompt included, truncated to `max_seq_length`."""

    def collate(self, tokens: Tokens, rows: np.ndarray) -> Features:
        """Features of one batch, torch tensors on the CPU."""
