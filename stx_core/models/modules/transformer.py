"""The backbone: tokenizer and transformers model, texts in, token embeddings or scores out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers

from stx_core.choices import check_choice
from stx_core.errors import ModelError
from stx_core.inference.backbones import as_packed, position_ids
from stx_core.inference.exclusive import exclusive_tokenizer, lock_of
from stx_core.inference.packing import pack
from stx_core.inference.tokens import UNLIMITED, Pair, Tokens, pad
from stx_core.inference.tokens import tokenize as tokenize_ragged
from stx_core.inference.wrapped import backbone_of, field_of
from stx_core.inference.wrapped import call as call_model
from stx_core.models.backends import check_backend
from stx_core.models.folder import read_json, reading, write_json
from stx_core.models.modules.backbone import (
    load_backbone,
    load_tokenizer,
)
from stx_core.models.modules.checkpoints import checkpoint_folder, options_of
from stx_core.models.modules.lengths import check_length, length_limit, position_limit
from stx_core.models.modules.module import Features, InputModule, LoadOptions
from stx_core.models.modules.transformer_settings import (
    CONFIG_FILES,
    UNCUT,
    checked_settings,
    takes_output,
    text_options,
)
from stx_core.models.older_names import older_names

# Task -> field of the backbone's output, name of the feature that this module writes.
TransformerTask = Literal[
    "feature-extraction", "fill-mask", "sequence-classification", "text-generation"
]
_OUTPUTS: dict[TransformerTask, tuple[str, str]] = {
    "feature-extraction": ("last_hidden_state", "token_embeddings"),
    "fill-mask": ("logits", "token_embeddings"),
    "sequence-classification": ("logits", "scores"),
    "text-generation": ("logits", "causal_logits"),
}


class Transformer(InputModule):
    """A transformers model with its tokenizer.

    Args:
        model_name_or_path: a local folder or a name on the hub of a checkpoint. Or a backbone that
            is loaded for `transformer_task` already; then with its tokenizer.
        tokenizer: the tokenizer of a loaded backbone.
        transformer_task: ``feature-extraction`` (token embeddings), ``fill-mask`` (vocabulary
            logits as token embeddings), ``sequence-classification`` (scores) or
            ``text-generation`` (logits of the last token).
        modality_config: modality -> ``method`` of the backbone and ``method_output_name``. Only
            ``text`` and ``message`` (chat messages, for rerankers) are used.
        module_output_name: feature to write; default: what the task gives.
        max_seq_length: tokens per input at most; default: what tokenizer and backbone allow. It
            wins over a truncation that is baked into ``tokenizer.json`` (trap 9).
        do_lower_case: lower-case texts before the tokenizer's own normalisation. The tokenizer
            itself stays as it is.
        query_length: overrides `max_seq_length` for the task "query".
        document_length: overrides it for the task "document".
        model_kwargs: arguments of the backbone, such as ``dtype``, where a checkpoint is loaded.
        processor_kwargs: arguments of its tokenizer.
        config_kwargs: overrides of its config.
        cache_dir: where downloads are kept.
        backend: only "torch".
        unpad_inputs: False runs every batch padded. Never saved.
        tokenizer_name_or_path: another folder for the tokenizer.
        query_expansion: only None: it belongs to multi-vector models.
        processing_kwargs: how inputs are tokenised. Under ``text`` or ``common``: ``max_length``,
            ``truncation``, ``add_special_tokens`` and ``padding_side``, and what changes no number;
            under ``chat_template``: variables of the template.
    """

    default_task: ClassVar[TransformerTask] = "feature-extraction"
    saved_as: ClassVar[str] = "Transformer"
    is_transformer: ClassVar[bool] = True
    takes_processing: ClassVar[bool] = True

    @older_names(
        model_args="model_kwargs", tokenizer_args="processor_kwargs", config_args="config_kwargs"
    )
    def __init__(
        self,
        model_name_or_path: Any,  # noqa: ANN401
        tokenizer: Any = None,  # noqa: ANN401  (transformers has no common typed interface)
        *,
        transformer_task: TransformerTask | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        cache_dir: str | None = None,
        backend: str = "torch",
        unpad_inputs: bool | None = None,
        tokenizer_name_or_path: str | Path | None = None,
        query_expansion: None = None,
        modality_config: Mapping[str, Mapping[str, Any]] | None = None,
        module_output_name: str | None = None,
        max_seq_length: int | None = None,
        do_lower_case: bool = False,
        query_length: int | None = None,
        document_length: int | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_backend(backend)
        if query_expansion is not None:
            raise ModelError("query_expansion belongs to multi-vector models")
        transformer_task = transformer_task or self.default_task
        check_choice("transformer_task", transformer_task, _OUTPUTS)
        field, output_name = _OUTPUTS[transformer_task]
        model = model_name_or_path
        if isinstance(model, str | Path):
            options, revision = options_of(model_kwargs, processor_kwargs, config_kwargs, cache_dir)
            needs_pooler = takes_output(modality_config, "pooler_output")
            folder = checkpoint_folder(model, options, revision)
            model = load_backbone(folder, transformer_task, options, needs_pooler=needs_pooler)
            if tokenizer_name_or_path is not None:
                folder = checkpoint_folder(tokenizer_name_or_path, options)
            tokenizer = load_tokenizer(folder, options) if tokenizer is None else tokenizer
            max_seq_length = options.processor_kwargs.get("model_max_length", max_seq_length)
        if tokenizer is None:
            raise ValueError("a loaded backbone needs its tokenizer: Transformer(model, tokenizer)")
        self.unpad_inputs = unpad_inputs
        self.model = model
        self.tokenizer = tokenizer
        self.transformer_task = transformer_task
        self.modality_config = dict(
            modality_config or {"text": {"method": "forward", "method_output_name": field}}
        )
        self.module_output_name = module_output_name or output_name
        self.query_length = query_length
        self.document_length = document_length
        self.processing_kwargs = dict(processing_kwargs or {})
        text = text_options(self.processing_kwargs)
        self.tokenizer.model_max_length = length_limit(
            tokenizer, self.backbone.config, self.position_limit, given=max_seq_length
        )
        self.do_lower_case = do_lower_case
        if transformer_task == "text-generation":
            # The last position must be a real token: it is the only one whose logits are kept.
            tokenizer.padding_side = "left"
        tokenizer.padding_side = text.get("padding_side", tokenizer.padding_side)
        if getattr(self.backbone.config, "pad_token_id", 0) is None:
            # Decoders that classify look for the last token before padding.
            self.backbone.config.pad_token_id = self.pad_token_id

    @property
    def auto_model(self) -> Any:  # noqa: ANN401
        """Older name of `model`."""
        return self.model

    @property
    def processor(self) -> Any:  # noqa: ANN401
        """The tokenizer: what makes inputs of texts."""
        return self.tokenizer

    @processor.setter
    def processor(self, value: Any) -> None:  # noqa: ANN401
        self.tokenizer = value

    @property
    def config(self) -> Any:  # noqa: ANN401
        """Settings of the backbone, as transformers keeps them."""
        return self.backbone.config

    @property
    def modalities(self) -> list[str]:
        """Kinds of input that the module reads."""
        return [str(modality) for modality in self.modality_config]

    # --- Files -----------------------------------------------------------------------------------

    @classmethod
    def from_folder(cls, folder: Path, options: LoadOptions) -> Self:
        """Load backbone, tokenizer and settings of any generation."""
        return cls.from_checkpoint(folder, options, cls.read_config(folder))

    @classmethod
    def from_checkpoint(
        cls, folder: Path, options: LoadOptions, config: dict[str, Any] | None = None
    ) -> Self:
        """Load a checkpoint with given settings instead of those of its folder.

        Args:
            folder: the checkpoint.
            options: how it may be opened; its arguments win over those in `config`.
            config: settings, keys as in ``sentence_bert_config.json``.

        Raises:
            ModelError: the checkpoint or the settings cannot be used.
        """
        settings, merged = checked_settings(config or {}, folder, options)
        task = settings.setdefault("transformer_task", cls.default_task)
        needs_pooler = takes_output(settings.get("modality_config"), "pooler_output")
        model = load_backbone(folder, task, merged, needs_pooler=needs_pooler)
        tokenizer = load_tokenizer(folder, merged)
        with reading(folder / CONFIG_FILES[0], "its settings do not fit the backbone"):
            return cls(model, tokenizer, **settings)

    @classmethod
    def read_config(cls, folder: Path) -> dict[str, Any]:
        """Settings from the first config file that exists and says something; {} without one."""
        paths = (folder / name for name in CONFIG_FILES)
        return next((config for p in paths if p.is_file() and (config := read_json(p))), {})

    def get_config_dict(self) -> dict[str, Any]:
        """Settings as they are saved. The length is in the tokenizer's own, as since 6.0."""
        optional = {
            "do_lower_case": self.do_lower_case,
            "query_length": self.query_length,
            "document_length": self.document_length,
            "processing_kwargs": self.processing_kwargs,
        }
        return {
            "transformer_task": self.transformer_task,
            "modality_config": self.modality_config,
            "module_output_name": self.module_output_name,
        } | {key: value for key, value in optional.items() if value}

    def write_files(self, folder: Path) -> None:
        """Write backbone (safetensors), tokenizer and settings."""
        self.model.save_pretrained(folder)
        with exclusive_tokenizer(self.tokenizer) as rust:
            if rust is not None:
                # What a batch was cut and padded to is not part of the model.
                rust.no_truncation()
                rust.no_padding()
            self.tokenizer.save_pretrained(folder)
        write_json(folder / CONFIG_FILES[0], self.get_config_dict())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy of the module as it is between two batches of other threads."""
        with lock_of(self.backbone):
            copied = type(self).__new__(type(self))
            memo[id(self)] = copied
            state = self.__getstate__()  # type: ignore[no-untyped-call]
            copied.__setstate__(deepcopy(state, memo))  # type: ignore[no-untyped-call]
        return copied

    # --- Texts to features -----------------------------------------------------------------------

    @property
    def backbone(self) -> Any:  # noqa: ANN401  (transformers is untyped)
        """The model of transformers, which `model` may have wrapped: an adapter, a compiled one."""
        return backbone_of(self.model)

    @property
    def max_seq_length(self) -> int | None:
        """Tokens per input at most, special tokens counted; None: no limit."""
        limit = self.tokenizer.model_max_length
        return None if limit is None or limit >= UNLIMITED else int(limit)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        positions = self.position_limit
        if value is None:
            value = UNLIMITED if positions is None else positions
        elif positions is not None and value > positions:
            raise ValueError(f"max_seq_length {value} is more than the {positions} positions of it")
        check_length(value, self.tokenizer)
        self.tokenizer.model_max_length = value

    @property
    def position_limit(self) -> int | None:
        """Rows of a learned position table that inputs can use; None: positions are computed."""
        return position_limit(self.model)

    @property
    def pad_token_id(self) -> int:
        """Id that fills up batches; a decoder's tokenizer without one lends its end token."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0

    def processing_by(self, processing_kwargs: Mapping[str, Any] | None) -> Self:
        """This module with further `processing_kwargs`, group by group; weights are shared.

        Raises:
            ModelError: an option is unknown or of another type.
        """
        if not processing_kwargs:
            return self
        text_options(processing_kwargs)
        merged = {
            group: {**(self.processing_kwargs.get(group) or {}), **(options or {})}
            for group, options in processing_kwargs.items()
        }
        other = copy(self)
        other.processing_kwargs = self.processing_kwargs | merged
        return other

    def to_tokens(
        self,
        inputs: Sequence[str] | Sequence[Pair],
        *,
        prompt: str = "",
        task: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
    ) -> Tokens:
        """Ragged tokens of N texts or pairs. A prompt goes before a text, or a pair's first text.

        A chat template that the tokenizer may have is not used (trap 10).

        Args:
            inputs: N texts or pairs.
            prompt: text to put before each.
            task: "query" or "document", which may have a length of its own.
            processing_kwargs: for this call, over those of the module, group by group.

        Raises:
            ModelError: the model reads chat messages only, or an option is unknown.
        """
        if processing_kwargs:
            other = self.processing_by(processing_kwargs)
            return other.to_tokens(inputs, prompt=prompt, task=task)
        if "text" not in self.modality_config:
            raise ModelError(
                f"this model reads {sorted(self.modality_config)}, not plain texts "
                f"(modality_config in {CONFIG_FILES[0]})"
            )
        if "message" in self.modality_config:
            raise ModelError(
                "this model reads chat messages (modality_config in "
                f"{CONFIG_FILES[0]}), which only CrossEncoder makes of texts; name only the "
                "modality text there, if it was trained on plain texts"
            )
        limit = {"query": self.query_length, "document": self.document_length}.get(task or "")
        text = text_options(self.processing_kwargs)
        limit = text.get("max_length") or limit or self.max_seq_length
        if text.get("truncation") in UNCUT:
            limit = self.position_limit
        with _lower_cased(self.tokenizer) if self.do_lower_case else nullcontext():
            tokens = self._tokenize(_with_prompt(inputs, prompt), limit)
            if prompt:
                tokens = replace(tokens, prompt_length=self._prompt_length(prompt, limit))
        return tokens

    def _tokenize(self, inputs: Sequence[str] | Sequence[Pair], limit: int | None) -> Tokens:
        special = text_options(self.processing_kwargs).get("add_special_tokens", True)
        return tokenize_ragged(self.tokenizer, inputs, limit, special_tokens=special)

    def _prompt_length(self, prompt: str, limit: int | None) -> int:
        """Tokens of the prompt alone, without a special token at its end (trap 11)."""
        ids = self._tokenize([prompt], limit).ids
        ends_special = len(ids) > 0 and int(ids[-1]) in self.tokenizer.all_special_ids
        return len(ids) - int(ends_special)

    def collate(self, tokens: Tokens, rows: np.ndarray) -> Features:
        """``input_ids``, ``attention_mask`` and, where tokens have them, ``token_type_ids``."""
        padded = pad(tokens, rows, self.pad_token_id, self.tokenizer.padding_side, least=1)
        return {key: torch.from_numpy(value) for key, value in padded.items()}

    def pack(self, tokens: Tokens, rows: np.ndarray, size: int, device: torch.device) -> Features:
        """As `collate`, without padding: see ``layout`` in `Features`."""
        packed, layout = pack(tokens, rows, size, self.pad_token_id, device)
        return {**packed, "layout": layout}

    # --- Forward ---------------------------------------------------------------------------------

    def get_embedding_dimension(self) -> int:
        """Width of what this module writes."""
        config = self.backbone.config.get_text_config()
        if self.transformer_task == "fill-mask":
            return int(config.vocab_size)
        projected = getattr(self.backbone.config, "projection_dim", None)
        if self.module_output_name == "sentence_embedding" and projected:
            return int(projected)
        return int(config.hidden_size)

    def forward(self, features: Features) -> Features:
        """Add the feature `module_output_name`, see `Features`.

        Only arguments that the backbone's method declares are passed to it: ``token_type_ids``,
        for example, would be an error for some (trap 24). Threads take turns.
        """
        if torch.compiler.is_compiling():
            return self._forward(features)
        with lock_of(self.backbone):
            return self._forward(features)

    def _forward(self, features: Features) -> Features:
        if "layout" in features:
            return self._forward_packed(features)
        causal = self.transformer_task == "text-generation"
        output, value = self._call(features, {"logits_to_keep": 1} if causal else {})
        features[self.module_output_name] = value[:, -1] if causal else value
        if getattr(self.backbone.config, "output_hidden_states", False):
            features["all_layer_embeddings"] = output["hidden_states"]
        return features

    def _forward_packed(self, features: Features) -> Features:
        layout = features["layout"]
        given = {"input_ids", "token_type_ids"} & set(features)
        inputs = {name: features[name] for name in given}
        backbone = self.backbone
        inputs["position_ids"] = position_ids(backbone, features["input_ids"], layout)
        with as_packed(backbone, layout, self.transformer_task) as read:
            _, value = self._call(inputs, {"logits_to_keep": layout.last})
        if self.transformer_task == "fill-mask":
            features["head_inputs"], features["head"] = value[0], backbone.get_output_embeddings()
        else:
            features[self.module_output_name] = read(value)
        return features

    def _call(self, inputs: Features, options: Mapping[str, Any]) -> tuple[Any, torch.Tensor]:
        """The backbone's output, and of it what this module gives on."""
        call = self.modality_config.get("text") or self.modality_config["message"]
        path = call.get("method_output_name")
        steps = [path] if isinstance(path, str) else list(path or ())
        arguments = {**inputs, **options, "return_dict": True}
        if "hidden_states" in steps:
            arguments["output_hidden_states"] = True
        output = call_model(self.model, call["method"], arguments)
        value = output
        try:
            for step in steps:
                value = field_of(value, step)
        except (KeyError, IndexError, TypeError, AttributeError):
            value = None
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"method_output_name {path!r} (modality_config in {CONFIG_FILES[0]}) is no tensor "
                f"of what {call['method']} of {type(self.model).__name__} gives: {list(output)}"
            )
        return output, value


class MLMTransformer(Transformer):
    """A backbone with its masked-LM head, as sparse models up to 5.3 name it."""

    default_task: ClassVar[TransformerTask] = "fill-mask"


def _with_prompt(
    inputs: Sequence[str] | Sequence[Pair], prompt: str
) -> Sequence[str] | Sequence[Pair]:
    if not prompt:
        return inputs
    return [
        prompt + item if isinstance(item, str) else (prompt + item[0], item[1]) for item in inputs
    ]  # type: ignore[return-value]  # a list of one kind in is a list of one kind out


@contextmanager
def _lower_cased(tokenizer: Any) -> Iterator[None]:  # noqa: ANN401
    """Within this context, which no other thread may enter, a tokenizer lower-cases first."""
    with exclusive_tokenizer(tokenizer) as rust, ExitStack() as stack:
        if rust is None:
            stack.callback(setattr, tokenizer, "do_lower_case", tokenizer.do_lower_case)
            tokenizer.do_lower_case = True
        else:
            own = rust.normalizer
            stack.callback(setattr, rust, "normalizer", own)
            steps = list(own) if isinstance(own, Normalizers) else [own] if own else []  # type: ignore[call-overload]  # iterable, but not typed so
            rust.normalizer = Normalizers([Lowercase(), *steps])
        yield
