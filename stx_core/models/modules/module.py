"""Base classes of the modules that a model folder names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from stx_core.errors import ModelError
from stx_core.inference.tokens import Pair, Tokens
from stx_core.models.backends import check_backend
from stx_core.models.contents import check_contents
from stx_core.models.folder import (
    JsonObject,
    inside,
    load_weights,
    read_json,
    reading,
    resolve_folder,
    save_weights,
    short,
    write_json,
)
from stx_core.models.settings import check_settings, check_sizes

Features = dict[str, Any]
"""Values that flow from module to module. Keys, named as in Sentence Transformers (B inputs, L
tokens of the longest, D width):

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
    """Permissions and arguments for opening a folder; safe by default: no pickle, no code."""

    model_kwargs: dict[str, Any] = field(default_factory=dict)
    processor_kwargs: dict[str, Any] = field(default_factory=dict)
    config_kwargs: dict[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    allow_pickle: bool = False
    cache_folder: str | None = None
    local_files_only: bool = False
    token: str | bool | None = None
    root: Path | None = None
    """The model's own folder, once it is known that nothing leaves it."""

    def within(self, folder: Path) -> Self:
        """The same for what lies in a model's folder, see `check_contents`.

        Raises:
            ModelError: something that would be read leaves the folder.
        """
        check_contents(
            folder, allow_pickle=self.allow_pickle, trust_remote_code=self.trust_remote_code
        )
        return replace(self, root=folder)


_OLDER_NAMES = {
    "get_sentence_embedding_dimension": "get_embedding_dimension",
    "get_word_embedding_dimension": "get_embedding_dimension",
}


class Module(nn.Module):
    """A step of a model: features in, features out, loaded from and saved to one folder.

    A subclass with plain settings and weights only names its `config_keys`; the constructor takes
    them as arguments and keeps each as an attribute of the same name. `config_key_renames` maps key
    names of older folders to them.
    """

    config_file_name: ClassVar[str] = "config.json"
    config_keys: ClassVar[tuple[str, ...]] = ()
    config_key_renames: ClassVar[dict[str, str]] = {}
    is_transformer: ClassVar[bool] = False

    @classmethod
    def from_folder(cls, folder: Path, options: LoadOptions) -> Self:
        """Build the module from its folder: settings, then weights.

        Raises:
            ModelError: a setting is unknown or missing, or the weights' names or shapes differ
                from the module's.
        """
        settings = cls.checked_config(folder)
        with reading(folder / cls.config_file_name, f"settings do not fit {cls.__name__}"):
            with torch.device("meta"):
                has_weights = bool(cls(**settings).state_dict())
            if not has_weights:
                return cls(**settings)
        weights = load_weights(folder, allow_pickle=options.allow_pickle)
        return cls.of_weights(settings, weights, folder)

    @classmethod
    def of_weights(
        cls, settings: Mapping[str, Any], weights: Mapping[str, Tensor], folder: Path
    ) -> Self:
        """A module with these settings and weights.

        Raises:
            ModelError: they do not fit together.
        """
        with reading(folder / cls.config_file_name, f"settings do not fit {cls.__name__}"):
            # Shapes alone first: settings could ask for more memory than there is.
            with torch.device("meta"):
                cls(**settings).fill(weights, folder, assign=True)
            module = cls(**settings)
            module.fill(weights, folder)
        return module

    @classmethod
    def load(
        cls,
        model_name_or_path: str | Path,
        subfolder: str = "",
        token: str | bool | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        backend: str = "torch",
        *,
        allow_pickle: bool = False,
    ) -> Self:
        """Load the module alone, as `save` wrote it.

        Args:
            model_name_or_path: a local folder, or a name on the hub.
            subfolder: folder of the module in there, such as ``1_Pooling``.
            token: access token of the hub.
            cache_folder: where downloads are kept.
            revision: branch, tag or commit on the hub.
            local_files_only: never use the network.
            trust_remote_code: let transformers run code of the folder for a backbone.
            model_kwargs: arguments of a backbone.
            processor_kwargs: arguments of its tokenizer.
            config_kwargs: overrides of its config.
            backend: only "torch".
            allow_pickle: load ``.bin`` weights.

        Raises:
            ModelError: the folder is missing, or does not hold this module.
        """
        folder = resolve_folder(
            model_name_or_path,
            default_org=None,
            revision=revision,
            token=token,
            cache_folder=cache_folder,
            local_files_only=local_files_only,
            allow_pickle=allow_pickle,
        )
        check_backend(backend)
        settings = LoadOptions(
            dict(model_kwargs or {}),
            dict(processor_kwargs or {}),
            dict(config_kwargs or {}),
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            cache_folder=cache_folder,
            local_files_only=local_files_only,
            token=token,
        )
        return cls.from_folder(
            inside(folder, subfolder) if subfolder else folder, settings.within(folder)
        )

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Older names of methods, as long as the module has the newer one."""
        newer = _OLDER_NAMES.get(name)
        if newer is not None and hasattr(type(self), newer):
            return getattr(self, newer)
        return super().__getattr__(name)

    @classmethod
    def read_config(cls, folder: Path) -> dict[str, Any]:
        """Constructor arguments from the folder's config file, older key names mapped to ours."""
        config = read_json(folder / cls.config_file_name)
        return {cls.config_key_renames.get(key, key): value for key, value in config.items()}

    @classmethod
    def checked_config(cls, folder: Path, settings: type | None = None) -> dict[str, Any]:
        """The same, once types and sizes of all settings are known to be possible.

        Args:
            folder: of the module.
            settings: a TypedDict of what the folder may give; None: the constructor's arguments.

        Raises:
            ModelError: a setting is unknown, of another type, or larger than in any model.
        """
        where = f"{folder / cls.config_file_name}: settings do not fit {cls.__name__}"
        config = cls.read_config(folder)
        hints = get_type_hints(cls.__init__ if settings is None else settings)
        check_settings(config, {name: hints[name] for name in hints if name != "return"}, where)
        check_sizes(config, where)
        return config

    def fill(self, weights: Mapping[str, Tensor], folder: Path, *, assign: bool = False) -> None:
        """Load weights, each key of which must match.

        Args:
            weights: tensors by name.
            folder: where they are from, for errors.
            assign: take the tensors themselves instead of their values.

        Raises:
            ModelError: keys or shapes differ; the message names them.
        """
        try:
            self.load_state_dict(weights, assign=assign)
        except RuntimeError as error:
            name = type(self).__name__
            raise ModelError(f"{folder}: weights do not fit {name}: {short(error)}") from error

    def get_config_dict(self) -> JsonObject:
        """Settings as they are saved."""
        return {key: getattr(self, key) for key in self.config_keys}

    def save(
        self,
        output_path: str | Path,
        *args: Any,  # noqa: ANN401
        safe_serialization: bool = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Write settings and weights (safetensors) into a folder, made where it is missing.

        Further arguments are those that modules of Sentence Transformers pass on; they do nothing.

        Raises:
            ValueError: `safe_serialization` is False; pickled weights are never written.
        """
        folder = Path(output_path)
        refuse_to_pickle(safe_serialization)
        folder.mkdir(parents=True, exist_ok=True)
        self.write_files(folder)

    def write_files(self, folder: Path) -> None:
        """Write settings and weights into an existing folder: what `save` does in the end."""
        write_json(folder / self.config_file_name, self.get_config_dict())
        if weights := self.state_dict():
            save_weights(folder, weights)

    def forward(self, features: Features) -> Features:
        """Read and add features. The keys are listed at `Features`."""
        raise TypeError(f"{type(self).__name__} does not define forward")


def refuse_to_pickle(safe_serialization: bool) -> None:
    """Check that weights are to be saved as safetensors.

    Raises:
        ValueError: they are not; pickled weights are never written.
    """
    if not safe_serialization:
        raise ValueError("safe_serialization=False would write pickles; only safetensors are")


class InputModule(Module):
    """The first module of a model: it also turns texts into tokens, and tokens into features.

    Attributes:
        max_seq_length: tokens that the model reads of an input; None for no limit.
        modalities: kinds of input that it reads.
        takes_processing: whether `to_tokens` takes ``processing_kwargs``, of a tokenizer.
    """

    takes_processing: ClassVar[bool] = False

    max_seq_length: int | None

    @property
    def modalities(self) -> list[str]:
        """Kinds of input that the module reads."""
        return ["text"]

    def processing(self, processing_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
        """Arguments of `to_tokens` for a call's `processing_kwargs`; none for other modules."""
        takes = processing_kwargs is not None and self.takes_processing
        return {"processing_kwargs": processing_kwargs} if takes else {}

    def to_tokens(
        self, inputs: Sequence[str] | Sequence[Pair], *, prompt: str = "", task: str | None = None
    ) -> Tokens:
        """Ragged tokens of N inputs, prompt included, truncated to `max_seq_length`."""
        raise TypeError(f"{type(self).__name__} does not define to_tokens")

    def collate(self, tokens: Tokens, rows: np.ndarray) -> Features:
        """Features of one batch, torch tensors on the CPU."""
        raise TypeError(f"{type(self).__name__} does not define collate")

    def preprocess(
        self,
        inputs: Sequence[str] | Sequence[Pair],
        prompt: str | None = None,
        task: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Features:
        """Tokenise N inputs into the features of one padded batch, on the CPU.

        Options that other kinds of input modules know do nothing.
        """
        own = self.processing(processing_kwargs)
        tokens = self.to_tokens(inputs, prompt=prompt or "", task=task, **own)
        features = self.collate(tokens, np.arange(len(tokens)))
        if tokens.prompt_length:
            features["prompt_length"] = tokens.prompt_length
        return features

    def tokenize(
        self,
        texts: Sequence[str] | Sequence[Pair],
        **options: Any,  # noqa: ANN401
    ) -> Features:
        """Older name of `preprocess`."""
        return self.preprocess(texts, **options)
