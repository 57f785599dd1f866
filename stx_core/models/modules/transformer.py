"""The backbone: tokenizer and transformers model, texts in, token embeddings or scores out."""

from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import torch

from stx_core.choices import check_choice
from stx_core.errors import ModelError
from stx_core.inference.backbones import as_packed, position_ids
from stx_core.inference.exclusive import exclusive_tokenizer, lock_of
from stx_core.inference.wrapped import backbone_of, field_of
from stx_core.inference.wrapped import call as call_model
from stx_core.models.alias import Alias
from stx_core.models.backends import check_backend
from stx_core.models.folder import Json, JsonObject, read_json, reading, write_json
from stx_core.models.modules.backbone import load_backbone, load_tokenizer
from stx_core.models.modules.checkpoints import checkpoint_folder, options_of
from stx_core.models.modules.lengths import length_limit, position_limit
from stx_core.models.modules.module import Features, LoadOptions
from stx_core.models.modules.transformer_settings import (
    CONFIG_FILES,
    checked_settings,
    takes_output,
    text_options,
)
from stx_core.models.modules.transformer_texts import TextReader
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


class Transformer(TextReader):
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
            wins over a truncation that is baked into ``tokenizer.json``.
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
            options, revision = options_of(
                model_kwargs, processor_kwargs, config_kwargs, cache_dir=cache_dir
            )
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
            tokenizer, self.backbone.config, position_limit(model), given=max_seq_length
        )
        self.do_lower_case = do_lower_case
        if transformer_task == "text-generation":
            # The last position must be a real token: it is the only one whose logits are kept.
            tokenizer.padding_side = "left"
        tokenizer.padding_side = text.get("padding_side", tokenizer.padding_side)
        if getattr(self.backbone.config, "pad_token_id", 0) is None:
            # Decoders that classify look for the last token before padding.
            self.backbone.config.pad_token_id = self.pad_token_id

    auto_model = Alias[Any]("model")
    """Older name of `model`."""

    config = Alias[Any]("backbone.config")
    """Settings of the backbone, as transformers keeps them."""

    # --- Files -----------------------------------------------------------------------------------

    @classmethod
    def from_folder(cls, folder: Path, options: LoadOptions) -> Self:
        """Load backbone, tokenizer and settings of any generation."""
        return cls.from_checkpoint(folder, options, cls.read_config(folder))

    @classmethod
    def from_checkpoint(
        cls, folder: Path, options: LoadOptions, config: Mapping[str, Json] | None = None
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
        task = settings.get("transformer_task", cls.default_task)
        modality_config = settings.get("modality_config")
        needs_pooler = takes_output(modality_config, "pooler_output")
        model = load_backbone(folder, task, merged, needs_pooler=needs_pooler)
        tokenizer = load_tokenizer(folder, merged)
        with reading(folder / CONFIG_FILES[0], "its settings do not fit the backbone"):
            return cls(
                model,
                tokenizer,
                transformer_task=cast(TransformerTask, task),
                modality_config=modality_config,
                module_output_name=settings.get("module_output_name"),
                max_seq_length=settings.get("max_seq_length"),
                do_lower_case=bool(settings.get("do_lower_case")),
                query_length=settings.get("query_length"),
                document_length=settings.get("document_length"),
                processing_kwargs=settings.get("processing_kwargs"),
            )

    @classmethod
    def read_config(cls, folder: Path) -> dict[str, Any]:
        """Settings from the first config file that exists and says something; {} without one."""
        paths = (folder / name for name in CONFIG_FILES)
        return next((config for p in paths if p.is_file() and (config := read_json(p))), {})

    def get_config_dict(self) -> JsonObject:
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

    # --- Forward ---------------------------------------------------------------------------------

    @property
    def backbone(self) -> Any:  # noqa: ANN401  (transformers is untyped)
        """The model of transformers, which `model` may have wrapped: an adapter, a compiled one."""
        return backbone_of(self.model)

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
        for example, would be an error for some backbones. Threads take turns.
        """
        backbone = self.backbone
        with nullcontext() if torch.compiler.is_compiling() else lock_of(backbone):
            if "layout" in features:
                layout = features["layout"]
                inputs: Features = {
                    name: features[name]
                    for name in ("input_ids", "token_type_ids")
                    if name in features
                }
                inputs["position_ids"] = position_ids(backbone, features["input_ids"], layout)
                with as_packed(backbone, layout, self.transformer_task) as read:
                    _, value = self._call(inputs, {"logits_to_keep": layout.last})
                if self.transformer_task == "fill-mask":
                    features["head_inputs"] = value[0]
                    features["head"] = backbone.get_output_embeddings()
                else:
                    features[self.module_output_name] = read(value)
                return features
            causal = self.transformer_task == "text-generation"
            output, value = self._call(features, {"logits_to_keep": 1} if causal else {})
            features[self.module_output_name] = value[:, -1] if causal else value
            if getattr(backbone.config, "output_hidden_states", False):
                features["all_layer_embeddings"] = output["hidden_states"]
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
