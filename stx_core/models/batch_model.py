"""Running of a model: texts to tokens, tokens to batches, packed or padded, batches to features."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, Unpack

import numpy as np
import torch

from stx_core.errors import InputError, ModelError
from stx_core.inference.encode import default_token_budget, run_batches
from stx_core.inference.linear import WORTH_ORDERING, OrderedWeights, fast_linear
from stx_core.inference.packing import filled, to_device
from stx_core.inference.tokens import Pair, Tokens
from stx_core.inference.trial import trial_tokens, why_not_packed
from stx_core.machine import keep_pages
from stx_core.models.device import as_device, progress_bar
from stx_core.models.folder import reading
from stx_core.models.inputs import Unread, read_texts, tokenizing, unread
from stx_core.models.module_row import ModuleRow, is_transformer
from stx_core.models.modules.lengths import position_limit
from stx_core.models.modules.module import Features
from stx_core.models.modules.own_readers import own_reader, read_with
from stx_core.models.options import RunOptions
from stx_core.models.running import Trials, get_ready, one_at_a_time, training_kept_on_failure

PROCESSING = "processing_kwargs"

Output = TypeVar("Output")

# What the last module of a model gives for each input.
_RESULTS = ("sentence_embedding", "scores")


class BatchModel(ModuleRow):
    """Modules in a row that compute batches of texts, as many texts at a time as memory allows.

    Attributes:
        reproducible: fill every packed batch to the token budget, so that the numbers of an input
            do not depend on the inputs beside it. Never saved.
        tokens_run: tokens that `run` has put into batches so far. Models without a transformer
            have no padding, and count nothing.
        places_run: the places of these tokens with their padding.
        fill_run: tokens that only filled packed batches up to a round number.
        on_batch: called after each batch of `run` with the share of the call's tokens that is done,
            and their number, 0 where they are not counted.
    """

    on_batch: Callable[[float, int], None] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.reproducible = False
        self.tokens_run = self.places_run = self.fill_run = 0
        self._trials = Trials()

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
        """Tokens of N inputs, as `run` needs them.

        Where `preprocess` or `tokenize` is the user's own, of a subclass or of the first module,
        the inputs as they are: it reads them batch by batch.

        Args:
            inputs: N texts or pairs.
            prompt: text to put before each.
            task: the route of a model that has several.
            options: further arguments of `preprocess`.
        """
        if own_reader(self) or own_reader(self[0]):
            given = {} if task is None else {"task": task}
            return unread(list(inputs), prompt or None, task, options=given | dict(options or {}))
        own = {key: value for key, value in (options or {}).items() if key == PROCESSING}
        return self.to_tokens(inputs, prompt=prompt, task=task, **own)

    def collate(self, tokens: Tokens, rows: np.ndarray, size: int | None = None) -> Features:
        """Features of the chosen inputs, on the CPU: packed into `size` tokens, padded for None."""
        first = self[0]
        if isinstance(tokens, Unread):
            chosen = [tokens.inputs[row] for row in rows]
            reader = own_reader(self) or own_reader(first)
            if reader is None:
                raise ModelError(
                    "the model had a preprocess of its own when it was given these inputs"
                )
            features = dict(read_with(reader, chosen, tokens.prompt, options=tokens.options))
        elif size is not None and is_transformer(first):
            features = first.pack(tokens, rows, size, device=self.device)
        else:
            features = self.input_module.collate(tokens, rows)
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
            given = {} if task is None else {"task": task}
            return dict(read_with(reader, listed, prompt, options=given | options))
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
        return self._batches(
            tokens,
            collect,
            self.device if device is None else as_device(device),
            batch_size=batch_size,
            token_budget=token_budget,
            progress=progress_bar(len(tokens), show_progress_bar),
            extra=extra,
            arguments=arguments,
            packed=packed,
        )

    def _batches(
        self,
        tokens: Tokens,
        collect: Callable[[Features], Output],
        target: torch.device,
        *,
        batch_size: int | None,
        token_budget: int | None,
        progress: Callable[[int], None] | None,
        extra: Mapping[str, Any] | None,
        arguments: Mapping[str, Any] | None,
        packed: bool,
    ) -> Iterator[tuple[np.ndarray, Output | InputError]]:
        if target.type == "cpu":
            keep_pages()
        with training_kept_on_failure(self):
            get_ready(self, target, self.device)
            unread = isinstance(tokens, Unread)
            counts = is_transformer(self[0]) and not unread
            packed = packed and not unread and self.why_padded(tokens.task) is None
            budget = token_budget or self.default_token_budget(target)
            n_all = int(tokens.lengths.sum())
            worth_it = self.reproducible or n_all >= WORTH_ORDERING
            weights = OrderedWeights() if worth_it else None
            n_done = 0

            def forward(rows: np.ndarray) -> Output:
                nonlocal n_done
                lengths = tokens.lengths[rows]
                n_tokens = int(lengths.sum())
                least = budget if self.reproducible else 0
                size = filled(max(least, n_tokens), budget) if packed else None
                with one_at_a_time(self):
                    get_ready(self, target, self.device)
                    if counts:
                        self.tokens_run += n_tokens
                        padded = len(lengths) * int(lengths.max())
                        self.places_run += padded if size is None else n_tokens
                        self.fill_run += 0 if size is None else size - n_tokens
                    try:
                        features = self._features_of(
                            tokens, rows, size, extra=extra, arguments=arguments, weights=weights
                        )
                        output = collect(features)
                    except KeyError as error:
                        raise self._lacks(error) from error
                n_done += n_tokens
                if self.on_batch is not None:
                    self.on_batch(n_done / max(1, n_all), n_done if counts else 0)
                return output

            yield from run_batches(
                tokens.lengths,
                forward,
                token_budget=budget,
                max_rows=batch_size,
                packed=packed,
                progress=progress,
                in_flight=2 if target.type == "cuda" else 1,
            )

    def run_in_order(
        self,
        tokens: Tokens,
        collect: Callable[[Features], Callable[[], torch.Tensor]],
        *,
        missing: float,
        **running: Unpack[RunOptions],
    ) -> tuple[torch.Tensor | None, dict[int, str]]:
        """Run all inputs, and put what was collected into one tensor, in the order of the inputs.

        Args:
            tokens: N inputs.
            collect: of a batch, a function that gives (B, ...) once it has been computed.
            missing: value of the rows that do not fit into memory; 0 where numbers are integers.
            **running: see `run`.

        Returns:
            (N, ...), None where no batch was computed; and row -> reason for the missing ones.
        """
        result: torch.Tensor | None = None
        failed: dict[int, str] = {}
        for rows, output in self.run(tokens, collect, **running):
            if isinstance(output, InputError):
                failed[int(rows[0])] = str(output)
                continue
            part = output()
            if result is None:
                value = missing if part.is_floating_point() else 0
                result = part.new_full((len(tokens), *part.shape[1:]), value)
            result[torch.from_numpy(rows).to(result.device)] = part
        return result, failed

    @torch.inference_mode()
    def _features_of(
        self,
        tokens: Tokens,
        rows: np.ndarray,
        size: int | None,
        *,
        extra: Mapping[str, Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
        weights: OrderedWeights | None = None,
    ) -> Features:
        """The last module's features of a batch: packed into `size` tokens, or padded for None."""
        features = self.collate(tokens, rows, size) | dict(extra or {})
        on_device = {
            key: to_device(value, self.device) if isinstance(value, torch.Tensor) else value
            for key, value in features.items()
        }
        with fast_linear(self.dtype, self.device, None if size is None else weights):
            output: Features = self(on_device, **(arguments or {}))
        return output

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
        longest = position_limit(first.model)
        tokens = replace(trial_tokens(vocabulary, special, longest), task=task)
        rows = np.arange(len(tokens))
        weights = OrderedWeights()

        def result(size: int | None) -> torch.Tensor:
            features = self._features_of(tokens, rows, size, weights=weights)
            name = next((name for name in _RESULTS if name in features), None)
            if name is None:
                raise self._lacks(_RESULTS[0])
            output: torch.Tensor = features[name]
            return output

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
