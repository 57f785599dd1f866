"""What dense, sparse and cross-encoder models share: modules in a row that read texts."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import nn

from stx_core.errors import InputError, ModelError
from stx_core.inference.encode import default_token_budget, run_batches
from stx_core.inference.linear import WORTH_ORDERING, OrderedWeights, fast_linear
from stx_core.inference.packing import filled
from stx_core.inference.tokens import Pair, Tokens
from stx_core.inference.trial import trial_tokens, why_not_packed
from stx_core.machine import keep_pages
from stx_core.models.backends import check_backend
from stx_core.models.contents import MODULES
from stx_core.models.device import as_device, default_device, progress_bar, to_device
from stx_core.models.folder import reading, resolve_folder
from stx_core.models.inputs import Unread, read_texts, tokenizing, unread
from stx_core.models.loading import load_modules, read_model_config
from stx_core.models.model_card import ModelCardData, read_card
from stx_core.models.module_row import ModuleRow, is_transformer
from stx_core.models.modules.module import Features, LoadOptions
from stx_core.models.modules.own_readers import own_reader, read_with
from stx_core.models.prompts import choose_prompts, task_prompt_name
from stx_core.models.running import Trials, get_ready, one_at_a_time, training_kept_on_failure

logger = logging.getLogger(__name__)

PROCESSING = "processing_kwargs"

Output = TypeVar("Output")

# What the last module of a model gives for each input.
_RESULTS = ("sentence_embedding", "scores")


class TextModel(ModuleRow):
    """Modules in a row; the first one reads texts.

    Args:
        model_name_or_path: a local folder, or a name on the hub. A folder without ``modules.json``
            is a plain transformers checkpoint and gets the modules of `default_modules`.
        modules: modules of a model without a folder; beside a name they are left out of account.
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
        use_auth_token: older name of `token`.
        model_card_data: what the README of the saved model says.
        backend: only "torch".

    Attributes:
        reproducible: fill every packed batch to the token budget, so that the numbers of an input
            do not depend on the inputs beside it. Never saved.

    Raises:
        ModelError: the folder cannot be loaded, or would not compute what it was trained for.
    """

    model_type: ClassVar[str]
    default_huggingface_organization: ClassVar[str]
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
        use_auth_token: str | bool | None = None,
        model_card_data: ModelCardData | None = None,
        backend: str = "torch",
    ) -> None:
        super().__init__()
        named = model_name_or_path not in (None, "")
        if not named and modules is None:
            raise ValueError("give either model_name_or_path or modules")
        if named and modules is not None:
            logger.warning("modules come from %s, those given are not used", model_name_or_path)
        if processor_kwargs is not None and tokenizer_kwargs is not None:
            raise ValueError("tokenizer_kwargs is the older name of processor_kwargs: give one")
        if token is not None and use_auth_token is not None:
            raise ValueError("use_auth_token is the older name of token: give one")
        check_backend(backend)
        self.backend = backend
        self.trust_remote_code = trust_remote_code
        self.model_card_data = model_card_data or ModelCardData(local_files_only=local_files_only)
        self.model_card_text: str | None = None
        self.saved_config: dict[str, Any] = {}
        self.module_kwargs: dict[str, list[str]] = {}
        self.reproducible = False
        self._trials = Trials()
        # Tokens that `run` has put into batches so far, the places of these with their padding, and
        # the tokens that only filled packed batches up to a round number. Models without a
        # transformer have no padding, and count nothing.
        self.tokens_run = self.places_run = self.fill_run = 0
        if model_name_or_path not in (None, ""):
            options = LoadOptions(
                model_kwargs=dict(model_kwargs or {}),
                processor_kwargs=dict(processor_kwargs or tokenizer_kwargs or {}),
                config_kwargs=dict(config_kwargs or {}),
                trust_remote_code=trust_remote_code,
                allow_pickle=allow_pickle,
                cache_folder=cache_folder,
                local_files_only=local_files_only,
                token=use_auth_token if token is None else token,
            )
            modules = self._load(model_name_or_path, revision, options)
        self._add_modules(modules or {})
        self._follow_first_dtype()
        if "device_map" not in (model_kwargs or {}):
            self.to(as_device(device or default_device()))
        self.prompts, self.default_prompt_name = choose_prompts(
            self.default_prompts, self.saved_config, prompts, default_prompt_name
        )
        self.model_card_data.register_model(self)
        self.eval()

    def _load(
        self, name_or_path: str | Path, revision: str | None, options: LoadOptions
    ) -> Sequence[nn.Module] | Mapping[str, nn.Module]:
        folder = resolve_folder(
            name_or_path,
            default_org=self.default_huggingface_organization,
            revision=revision,
            token=options.token,
            cache_folder=options.cache_folder,
            local_files_only=options.local_files_only,
            allow_pickle=options.allow_pickle,
        )
        if not Path(name_or_path).expanduser().is_dir():
            self.model_card_data.set_base_model(str(name_or_path), revision)
        with reading(folder, "this model cannot be loaded"):
            options = options.within(folder)
            self.saved_config = read_model_config(folder, self.model_type)
            if not (folder / MODULES).is_file():
                return self.default_modules(folder, options)
            modules, self.module_kwargs = load_modules(folder, options)
            self.model_card_text = read_card(folder)
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
        first = self[0]
        if not any(hasattr(first, name) for name in ("to_tokens", "preprocess", "tokenize")):
            raise ModelError(
                f"the first module must read texts (preprocess or tokenize), "
                f"{type(first).__name__} does not"
            )

    def _follow_first_dtype(self) -> None:
        """A half-precision backbone gets half-precision heads, as in the reference (trap 2)."""
        first = next(self[0].parameters(), None)
        if first is not None and first.is_floating_point():
            for module in list(self)[1:]:
                module.to(first.dtype)

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
        self,
        inputs: Sequence[str] | Sequence[Pair],
        *,
        prompt: str = "",
        task: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
    ) -> Tokens:
        """Tokenise N texts, or pairs of texts, without padding."""
        first = self.input_module
        with tokenizing(inputs):
            own = first.processing(processing_kwargs)
            tokens = first.to_tokens(inputs, prompt=prompt, task=task, **own)
        return replace(tokens, task=task)

    def read(
        self,
        inputs: Sequence[str] | Sequence[Pair],
        prompt: str,
        task: str | None,
        options: Mapping[str, Any] | None = None,
    ) -> Tokens:
        """What `run` needs of N inputs: their tokens.

        Where `preprocess` or `tokenize` is the user's own, of a subclass or of the first module,
        the inputs as they are: it reads them batch by batch.

        Args:
            inputs: N texts or pairs.
            prompt: text to put before each.
            task: the route of a model that has several.
            options: further arguments of `preprocess`.
        """
        if self._own_reader() is not None:
            known = {} if task is None else {"task": task}
            return unread(list(inputs), prompt or None, task, known | dict(options or {}))
        own = {key: value for key, value in (options or {}).items() if key == PROCESSING}
        return self.to_tokens(inputs, prompt=prompt, task=task, **own)

    def _own_reader(self) -> Callable[..., Features] | None:
        """A `preprocess` or `tokenize` that is not of this package, if inputs go through one."""
        return own_reader(self) or own_reader(self[0])

    def collate(self, tokens: Tokens, rows: np.ndarray) -> Features:
        """Features of the chosen inputs, on the CPU."""
        if not isinstance(tokens, Unread):
            return self._with_side(self.input_module.collate(tokens, rows), tokens)
        chosen = [tokens.inputs[row] for row in rows]
        reader = self._own_reader()
        if reader is None:
            raise ModelError("the model had a preprocess of its own when it was given these inputs")
        features = read_with(reader, chosen, tokens.prompt, tokens.options)
        return self._with_side(dict(features), tokens)

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
        **options: Any,  # noqa: ANN401
    ) -> Features:
        """Tokenise N texts, or pairs, into the features of one padded batch, on the CPU.

        Args:
            inputs: N texts or pairs; a single one stands in a list too.
            prompt: text to put before each.
            task: the route of a model that has several.
            **options: of the first module.

        Raises:
            InputError: an input is no text.
        """
        if isinstance(inputs, str):
            raise InputError("preprocess reads a list of texts, got one str: put it into a list")
        listed, _ = read_texts(inputs)
        reader = own_reader(self[0])
        if reader is not None:
            known = {} if task is None else {"task": task}
            return dict(read_with(reader, listed, prompt, known | options))
        own = {key: value for key, value in options.items() if key == PROCESSING}
        tokens = self.to_tokens(listed, prompt=prompt or "", task=task, **own)
        return self.collate(tokens, np.arange(len(tokens)))

    def tokenize(
        self,
        texts: Sequence[str] | Sequence[Pair],
        **options: Any,  # noqa: ANN401
    ) -> Features:
        """Older name of `preprocess`."""
        return self.preprocess(texts, **options)

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
        arguments: Mapping[str, Any] | None = None,
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
            arguments: further ones of `forward`, for modules that know them.
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
        target = self.device if device is None else as_device(device)
        options = {"max_rows": batch_size, "in_flight": 2 if target.type == "cuda" else 1}
        progress = progress_bar(len(tokens), show_progress_bar)
        return self._run(
            tokens, collect, target, token_budget, packed, extra, arguments, progress, options
        )

    def _run(
        self,
        tokens: Tokens,
        collect: Callable[[Features], Output],
        target: torch.device,
        token_budget: int | None,
        packed: bool,
        extra: Mapping[str, Any] | None,
        arguments: Mapping[str, Any] | None,
        progress: Callable[[int], None] | None,
        options: Mapping[str, Any],
    ) -> Iterator[tuple[np.ndarray, Output | InputError]]:
        if target.type == "cpu":
            keep_pages()
        with training_kept_on_failure(self):
            get_ready(self, target, self.device)
            unread = isinstance(tokens, Unread)
            packed = packed and not unread and self.why_padded(tokens.task) is None
            budget = token_budget or self.default_token_budget(target)
            worth_it = self.reproducible or int(tokens.lengths.sum()) >= WORTH_ORDERING
            weights = OrderedWeights() if worth_it else None

            def forward(rows: np.ndarray) -> Output:
                used = int(tokens.lengths[rows].sum())
                least = budget if self.reproducible else 0
                size = filled(max(least, used), budget) if packed else None
                with one_at_a_time(self):
                    get_ready(self, target, self.device)
                    if not unread:
                        self._count(tokens.lengths[rows], size)
                    try:
                        features = self._features_of(tokens, rows, size, extra, arguments, weights)
                        return collect(features)
                    except KeyError as error:
                        raise self._lacks(error) from error

            yield from run_batches(
                tokens.lengths,
                forward,
                token_budget=budget,
                packed=packed,
                progress=progress,
                **options,
            )

    def _count(self, lengths: np.ndarray, size: int | None) -> None:
        if is_transformer(self[0]):
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
        arguments: Mapping[str, Any] | None = None,
        weights: OrderedWeights | None = None,
    ) -> Features:
        """The last module's features of a batch: packed into `size` tokens, or padded for None."""
        first = self[0]
        if size is not None and is_transformer(first):
            features = self._with_side(first.pack(tokens, rows, size, self.device), tokens)
        else:
            features = self.collate(tokens, rows)
        on_device = to_device(features | dict(extra or {}), self.device)
        with fast_linear(self.dtype, self.device, None if size is None else weights):
            found: Features = self(on_device, **(arguments or {}))
        return found

    def why_padded(self, task: str | None = None) -> str | None:
        """Why batches are padded; None where they are packed.

        The first call for a task, and the first one after something was changed in the model, runs
        a few made-up inputs both ways, see `why_not_packed`. Where hooks of users are inside, or
        compiled modules, batches are as in Sentence Transformers: padded.

        Args:
            task: "query" or "document", for models that route by it.
        """
        first, side = self[0], getattr(self.tokenizer, "padding_side", None)
        key = (task, self.dtype, self.device, side, getattr(first, "unpad_inputs", None))
        # On made-up inputs all that can fail is the model.
        failing = reading(type(self).__name__, "its modules do not fit together")
        with one_at_a_time(self), failing:
            return self._trials.why_padded(self, key, lambda: self._try_packed(task))

    def _try_packed(self, task: str | None) -> str | None:
        first = self[0]
        if not is_transformer(first):
            return f"{type(first).__name__} has no attention"
        if first.unpad_inputs is False:
            return "unpad_inputs is False"
        vocabulary = getattr(first.backbone.config.get_text_config(), "vocab_size", None)
        if vocabulary is None:
            return f"{type(first.backbone).__name__} reads characters, not a vocabulary"
        special = first.tokenizer.all_special_ids
        tokens = replace(trial_tokens(vocabulary, special, first.position_limit), task=task)
        rows = np.arange(len(tokens))
        weights = OrderedWeights()

        def result(size: int | None) -> torch.Tensor:
            features = self._features_of(tokens, rows, size, None, None, weights)
            name = next((name for name in _RESULTS if name in features), None)
            if name is None:
                raise self._lacks(_RESULTS[0])
            found: torch.Tensor = features[name]
            return found

        size = filled(int(tokens.lengths.sum()), default_token_budget(self.device))
        return why_not_packed(lambda: result(size), lambda: result(None))

    def _lacks(self, feature: object) -> ModelError:
        names = ", ".join(type(module).__name__ for module in self)
        return ModelError(
            f"{type(self).__name__}: none of its modules ({names}) gives {feature}; token "
            "embeddings, for example, become a sentence embedding by Pooling"
        )

    def default_token_budget(self, device: str | torch.device | None = None) -> int:
        """Tokens of one batch that suit the model on a device, by default its own."""
        return default_token_budget(self.device if device is None else torch.device(device))
