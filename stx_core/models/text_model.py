"""What dense, sparse and cross-encoder models share: modules in a row that read texts."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypedDict, TypeVar

import numpy as np
import torch
from torch import nn

from stx_core.errors import InputError, ModelError
from stx_core.inference.encode import default_token_budget, run_batches
from stx_core.inference.linear import fast_linear
from stx_core.inference.machine import keep_pages
from stx_core.inference.packing import filled
from stx_core.inference.tokens import Pair, Tokens
from stx_core.inference.trial import trial_tokens, why_not_packed
from stx_core.models.device import default_device, progress_bar, to_device
from stx_core.models.folder import resolve_folder
from stx_core.models.loading import MODULES, load_modules, read_model_config, save_model
from stx_core.models.modules.module import Features, InputModule, LoadOptions, is_transformer
from stx_core.models.prompts import choose_prompts, task_prompt_name

logger = logging.getLogger(__name__)

Output = TypeVar("Output")

# What the last module of a model gives for each input.
_RESULTS = ("sentence_embedding", "scores")


class ModelOptions(TypedDict, total=False):
    """Keyword arguments that every model takes; see `TextModel`."""

    modules: Sequence[nn.Module] | Mapping[str, nn.Module] | None
    device: str | torch.device | None
    prompts: Mapping[str, str] | None
    default_prompt_name: str | None
    cache_folder: str | None
    trust_remote_code: bool
    revision: str | None
    local_files_only: bool
    token: str | bool | None
    model_kwargs: Mapping[str, Any] | None
    processor_kwargs: Mapping[str, Any] | None
    tokenizer_kwargs: Mapping[str, Any] | None
    config_kwargs: Mapping[str, Any] | None
    allow_pickle: bool


class RunOptions(TypedDict, total=False):
    """Keyword arguments of `TextModel.run`."""

    batch_size: int | None
    token_budget: int | None
    show_progress_bar: bool | None
    device: str | torch.device | None
    extra: Mapping[str, Any] | None
    packed: bool


class TextModel(nn.Sequential):
    """Modules in a row; the first one reads texts.

    Args:
        model_name_or_path: a local folder, or a name on the hub. A folder without ``modules.json``
            is a plain transformers checkpoint and gets the modules of `default_modules`.
        modules: modules to use instead of a folder's.
        device: where to compute; default: `default_device`.
        prompts: texts to put before inputs, by name. They override saved ones name by name.
        default_prompt_name: prompt to use when a call names none.
        cache_folder: where downloads are kept.
        trust_remote_code: let transformers run code of the folder for the backbone. Code for
            modules is never run.
        revision: branch, tag or commit on the hub.
        local_files_only: never use the network.
        token: access token of the hub.
        model_kwargs: arguments of the backbone, such as ``dtype``. Without one, the backbone has
            the dtype that its checkpoint was saved in; later modules follow it.
        processor_kwargs: arguments of the tokenizer.
        tokenizer_kwargs: older name of `processor_kwargs`.
        config_kwargs: overrides of the backbone's config.
        allow_pickle: load ``.bin`` weights, with an unpickler that only builds tensors.

    Attributes:
        reproducible: fill every packed batch to the token budget, so that the numbers of an input
            do not depend on the inputs beside it. Never saved.

    Raises:
        ModelError: the folder cannot be loaded, or would not compute what it was trained for.
    """

    model_type: ClassVar[str]
    default_org: ClassVar[str]
    default_prompts: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        modules: Sequence[nn.Module] | Mapping[str, nn.Module] | None = None,
        device: str | torch.device | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__()
        if (model_name_or_path is None) == (modules is None):
            raise ValueError("give either model_name_or_path or modules, and not both")
        if processor_kwargs is not None and tokenizer_kwargs is not None:
            raise ValueError("tokenizer_kwargs is the older name of processor_kwargs: give one")
        self.saved_config: dict[str, Any] = {}
        self.module_kwargs: dict[str, list[str]] = {}
        self.reproducible = False
        self._why_padded: dict[tuple[Any, ...], str | None] = {}
        # Tokens that `run` has put into batches so far, the places of these with their padding, and
        # the tokens that only filled packed batches up to a round number. Models without a
        # transformer have no padding, and count nothing.
        self.tokens_run = self.places_run = self.fill_run = 0
        if model_name_or_path is not None:
            options = LoadOptions(
                model_kwargs=dict(model_kwargs or {}),
                processor_kwargs=dict(processor_kwargs or tokenizer_kwargs or {}),
                config_kwargs=dict(config_kwargs or {}),
                trust_remote_code=trust_remote_code,
                allow_pickle=allow_pickle,
                cache_folder=cache_folder,
                local_files_only=local_files_only,
                token=token,
            )
            modules = self._load(model_name_or_path, revision, options)
        self._add_modules(modules or {})
        self._follow_first_dtype()
        if "device_map" not in (model_kwargs or {}):
            self.to(device or default_device())
        self.prompts, self.default_prompt_name = choose_prompts(
            self.default_prompts, self.saved_config, prompts, default_prompt_name
        )
        self.eval()

    def _load(
        self, name_or_path: str | Path, revision: str | None, options: LoadOptions
    ) -> Sequence[nn.Module] | Mapping[str, nn.Module]:
        folder = resolve_folder(
            name_or_path,
            default_org=self.default_org,
            revision=revision,
            token=options.token,
            cache_folder=options.cache_folder,
            local_files_only=options.local_files_only,
            allow_pickle=options.allow_pickle,
        )
        self.saved_config = read_model_config(folder, self.model_type)
        if not (folder / MODULES).is_file():
            return self.default_modules(folder, options)
        modules, self.module_kwargs = load_modules(folder, options)
        return modules

    @classmethod
    def default_modules(cls, folder: Path, options: LoadOptions) -> Sequence[nn.Module]:
        """Modules for a plain transformers checkpoint.

        Raises:
            ModelError: the checkpoint lacks weights that this type of model needs.
        """
        raise ModelError(f"{folder} has no {MODULES}, and {cls.__name__} has no default modules")

    def _add_modules(self, modules: Sequence[nn.Module] | Mapping[str, nn.Module]) -> None:
        named = modules if isinstance(modules, Mapping) else dict(enumerate(modules))
        if not named:
            raise ValueError(f"{type(self).__name__} needs at least one module, got none")
        for name, module in named.items():
            self.add_module(str(name), module)
        if not isinstance(self[0], InputModule):
            raise ModelError(
                f"the first module must read texts (tokenize, collate, max_seq_length), "
                f"{type(self[0]).__name__} does not"
            )

    def _follow_first_dtype(self) -> None:
        """A half-precision backbone gets half-precision heads, as in the reference (trap 2)."""
        first = next(self[0].parameters(), None)
        if first is not None and first.is_floating_point():
            for module in list(self)[1:]:
                module.to(first.dtype)

    # --- What the model is -----------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        tensor = next(self.parameters(), next(self.buffers(), None))
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def dtype(self) -> torch.dtype | None:
        """Number format of the first weights; None for a model without weights."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), None)

    @property
    def input_module(self) -> InputModule:
        """The first module, which reads texts."""
        first = self[0]
        if not isinstance(first, InputModule):
            raise ModelError(f"the first module, {type(first).__name__}, does not read texts")
        return first

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401  (each kind of input module has another)
        """The tokenizer of the first module."""
        return getattr(self.input_module, "tokenizer", None)

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:  # noqa: ANN401
        self.input_module.tokenizer = value

    @property
    def transformers_model(self) -> Any:  # noqa: ANN401  (transformers is untyped)
        """The backbone, or None for a model without one."""
        return getattr(self[0], "model", None)

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that the model reads of an input, special tokens counted; None: no limit."""
        return self.input_module.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        self.input_module.max_seq_length = value

    def get_max_seq_length(self) -> int | None:
        """Older name of `max_seq_length`."""
        return self.max_seq_length

    def get_model_kwargs(self) -> list[str]:
        """Extra keyword arguments that this model's modules take, such as ``task``."""
        listed = {name for names in self.module_kwargs.values() for name in names}
        own = {name for module in self for name in getattr(module, "forward_kwargs", ())}
        return sorted(listed | own)

    # --- Prompts ---------------------------------------------------------------------------------

    def resolve_prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """The text to put before inputs: `prompt`, else by name, else the default prompt, else "".

        Raises:
            ValueError: there is no prompt of that name.
        """
        if prompt is not None:
            if prompt_name is not None:
                logger.warning("both prompt and prompt_name %r are given: prompt wins", prompt_name)
            return prompt
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(
                f"prompt_name {name!r} is not a prompt; there are {list(self.prompts)}"
            )
        return self.prompts[name]

    def prompt_name_for(self, task: str, prompt: str | None, prompt_name: str | None) -> str | None:
        """The caller's prompt name, else that of the task, see `task_prompt_name`."""
        if prompt is not None or prompt_name is not None:
            return prompt_name
        return task_prompt_name(task, self.prompts)

    # --- Running ---------------------------------------------------------------------------------

    def to_tokens(
        self, inputs: Sequence[str] | Sequence[Pair], *, prompt: str = "", task: str | None = None
    ) -> Tokens:
        """Tokenise N texts, or pairs of texts, without padding."""
        tokens = self.input_module.to_tokens(inputs, prompt=prompt, task=task)
        return replace(tokens, task=task)

    def collate(self, tokens: Tokens, rows: np.ndarray) -> Features:
        """Features of the chosen inputs, on the CPU."""
        return self._with_side(self.input_module.collate(tokens, rows), tokens)

    def _with_side(self, features: Features, tokens: Tokens) -> Features:
        if tokens.task is not None:
            features["task"] = tokens.task
        if tokens.prompt_length:
            features["prompt_length"] = tokens.prompt_length
        return features

    def preprocess(
        self,
        inputs: Sequence[str] | Sequence[Pair],
        prompt: str | None = None,
        task: str | None = None,
    ) -> Features:
        """Tokenise N texts, or pairs, into the features of one padded batch, on the CPU."""
        tokens = self.to_tokens(inputs, prompt=prompt or "", task=task)
        return self.collate(tokens, np.arange(len(tokens)))

    def tokenize(self, texts: Sequence[str] | Sequence[Pair]) -> Features:
        """Older name of `preprocess`."""
        return self.preprocess(texts)

    def run(
        self,
        tokens: Tokens,
        collect: Callable[[Features], Output],
        *,
        batch_size: int | None = None,
        token_budget: int | None = None,
        show_progress_bar: bool | None = False,
        device: str | torch.device | None = None,
        extra: Mapping[str, Any] | None = None,
        packed: bool = True,
    ) -> Iterator[tuple[np.ndarray, Output | InputError]]:
        """Run all inputs in batches of like length, under inference mode.

        Packed, without padding, where the model can do that: see `why_padded`.

        Args:
            tokens: N inputs, from `to_tokens`.
            collect: takes what one batch needs out of the last module's features, (B, ...); it
                may run again, in parts, when memory runs out.
            batch_size: inputs of one batch at most; None: as many as the token budget allows.
            token_budget: tokens of one batch, padding counted; None: what suits the device.
            show_progress_bar: None shows it when info messages are logged.
            device: move the model there first.
            extra: features beside the tokens that modules read, such as ``max_active_dims``.
            packed: False pads in any case, for features of tokens, (B, L, ...).

        Returns:
            An iterator over row numbers, (B,) int64, with what `collect` gave for them, or with an
            InputError for a row that does not fit into memory even alone. Every row comes once.

        Raises:
            ValueError: `batch_size` or `token_budget` is not positive.
        """
        for name, value in (("batch_size", batch_size), ("token_budget", token_budget)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.eval()
        target = self._move(device)
        if target.type == "cpu":
            keep_pages()
        packed = packed and self.why_padded(tokens.task) is None
        budget = token_budget or self.default_token_budget(target)

        def forward(rows: np.ndarray) -> Output:
            used = int(tokens.lengths[rows].sum())
            least = budget if self.reproducible else 0
            size = filled(max(least, used), budget) if packed else None
            self._count(tokens.lengths[rows], size)
            return collect(self._features_of(tokens, rows, size, extra))

        return run_batches(
            tokens.lengths,
            forward,
            token_budget=budget,
            max_rows=batch_size,
            packed=packed,
            in_flight=2 if target.type == "cuda" else 1,
            progress=progress_bar(len(tokens), show_progress_bar),
        )

    def _count(self, lengths: np.ndarray, size: int | None) -> None:
        if is_transformer(self.input_module):
            n_tokens = int(lengths.sum())
            self.tokens_run += n_tokens
            if size is None:
                self.places_run += len(lengths) * int(lengths.max())
            else:
                self.places_run += n_tokens
                self.fill_run += size - n_tokens

    @torch.inference_mode()
    def _features_of(
        self,
        tokens: Tokens,
        rows: np.ndarray,
        size: int | None,
        extra: Mapping[str, Any] | None = None,
    ) -> Features:
        """The last module's features of a batch: packed into `size` tokens, or padded for None."""
        first = self.input_module
        if size is not None and is_transformer(first):
            features = self._with_side(first.pack(tokens, rows, size, self.device), tokens)
        else:
            features = self.collate(tokens, rows)
        on_device = to_device(features | dict(extra or {}), self.device)
        with nullcontext() if size is None else fast_linear(self.dtype, self.device):
            found: Features = self(on_device)
        return found

    def why_padded(self, task: str | None = None) -> str | None:
        """Why batches are padded; None where they are packed.

        The first call for a task runs a few made-up inputs both ways, see `why_not_packed`.

        Args:
            task: "query" or "document", for models that route by it.
        """
        key = (task, self.dtype, self.device)
        if key not in self._why_padded:
            self._why_padded[key] = self._try_packed(task)
        return self._why_padded[key]

    def _try_packed(self, task: str | None) -> str | None:
        first = self[0]
        if not is_transformer(first):
            return f"{type(first).__name__} has no attention"
        vocabulary = first.model.config.get_text_config().vocab_size
        special = first.tokenizer.all_special_ids
        tokens = replace(trial_tokens(vocabulary, special, self.max_seq_length), task=task)
        rows = np.arange(len(tokens))

        def result(size: int | None) -> torch.Tensor:
            features = self._features_of(tokens, rows, size)
            found: torch.Tensor = features[next(name for name in _RESULTS if name in features)]
            return found

        size = filled(int(tokens.lengths.sum()), default_token_budget(self.device))
        return why_not_packed(lambda: result(size), lambda: result(None))

    def default_token_budget(self, device: str | torch.device | None = None) -> int:
        """Tokens of one batch that suit the model on a device, by default its own."""
        return default_token_budget(self.device if device is None else torch.device(device))

    def _move(self, device: str | torch.device | None) -> torch.device:
        """Move the model unless it is there; "cuda" and "cuda:0" may name the same device."""
        if device is None:
            return self.device
        target = torch.empty(0, device=device).device
        if target != self.device:
            self.to(target)
        return target

    # --- Saving ----------------------------------------------------------------------------------

    def model_config(self) -> dict[str, Any]:
        """Settings of the whole model as they are saved; subclasses add theirs."""
        import transformers

        return {
            "model_type": self.model_type,
            "__version__": {"transformers": transformers.__version__, "pytorch": torch.__version__},
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
        }

    def save_pretrained(self, path: str | Path, safe_serialization: bool = True) -> None:
        """Write the model into a folder that Sentence Transformers 6 can load too.

        Raises:
            ValueError: `safe_serialization` is False; pickled weights are never written.
            ModelError: a module is not of a known type.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization=False would write pickles; only safetensors are")
        modules = {name: module for name, module in self.named_children()}
        save_model(Path(path), modules, self.module_kwargs, self.model_config())
