"""Settings of a `Transformer`: which its folder may give, and what they say of texts."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from stx_core.errors import ModelError
from stx_core.models.messages import MessageFormat
from stx_core.models.modules.backbone import folder_arguments
from stx_core.models.modules.module import LoadOptions
from stx_core.models.settings import check_settings, fits, shown

# The newest name first; the others are of the library's first years.
CONFIG_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

_Groups = dict[str, Any] | None

# What a config file may say, of any age.
_FILE: dict[str, Any] = {
    "transformer_task": str,
    "modality_config": dict[str, dict[str, Any]] | None,
    "module_output_name": str | None,
    "max_seq_length": int | None,
    "do_lower_case": bool | None,
    "query_length": int | None,
    "document_length": int | None,
    "processing_kwargs": dict[str, Any] | None,
    "query_expansion": dict[str, Any] | None,
    "unpad_inputs": bool | None,
    "tokenizer_name_or_path": str | None,
    **dict.fromkeys(("model_kwargs", "processor_kwargs", "config_kwargs"), _Groups),
    **dict.fromkeys(("model_args", "tokenizer_args", "config_args"), _Groups),
}

# A folder names a method of the backbone; these compute, others save, load or upload.
_METHODS = re.compile(r"forward|get_\w+_features")

# Of ``processing_kwargs``: groups for other inputs than texts, and options that change no number,
# as they only shape the batch in which a text comes.
_OTHER_GROUPS = ("audio", "image", "video", "chat_template")
_TEXT_OPTIONS: dict[str, Any] = {
    "max_length": int,
    "truncation": bool | str,
    "add_special_tokens": bool,
    "padding_side": Literal["left", "right"],
    **dict.fromkeys(("padding", "pad_to_multiple_of", "return_tensors"), bool | int | str | None),
    **dict.fromkeys(("return_attention_mask", "return_token_type_ids", "verbose"), bool | None),
    "logits_to_keep": int,
}
_CUT, UNCUT = (True, "longest_first", "only_first", None), (False, "do_not_truncate")


def checked_settings(
    config: Mapping[str, Any], folder: Path, options: LoadOptions
) -> tuple[dict[str, Any], LoadOptions]:
    """Constructor arguments of a config file, and how its checkpoint is opened.

    Args:
        config: settings, keys as in ``sentence_bert_config.json``.
        folder: the checkpoint.
        options: its arguments win over those in `config`.

    Raises:
        ModelError: a setting is unknown, of another type, or asks for what is not supported.
    """
    settings = dict(config)
    where = folder / CONFIG_FILES[0]
    check_settings(settings, _FILE, where)
    merged = replace(
        options,
        model_kwargs=folder_arguments(settings, "model_kwargs", "model_args", where)
        | options.model_kwargs,
        processor_kwargs=folder_arguments(settings, "processor_kwargs", "tokenizer_args", where)
        | options.processor_kwargs,
        config_kwargs=folder_arguments(settings, "config_kwargs", "config_args", where)
        | options.config_kwargs,
    )
    _check_modalities(settings.get("modality_config"), where)
    if settings.pop("query_expansion", None):
        raise ModelError(f"{where}: query_expansion belongs to multi-vector models")
    settings.pop("unpad_inputs", None)  # how to run, not what to compute
    tokenizer_folder = settings.pop("tokenizer_name_or_path", None)
    if tokenizer_folder is not None:
        raise ModelError(f"{where}: tokenizer_name_or_path {tokenizer_folder!r} is not supported")
    if "model_max_length" in merged.processor_kwargs:
        settings["max_seq_length"] = merged.processor_kwargs["model_max_length"]
    return settings, merged


def text_options(processing: Mapping[str, Any]) -> dict[str, Any]:
    """How texts are tokenised, of all groups that speak of them.

    Raises:
        ModelError: an option is unknown or of another type; each changes what a model computes.
    """
    groups = ("text", "common", *_OTHER_GROUPS)
    check_settings(processing, dict.fromkeys(groups, dict[str, Any] | None), "processing_kwargs")
    options = {**(processing.get("common") or {}), **(processing.get("text") or {})}
    check_settings(options, _TEXT_OPTIONS, "processing_kwargs of texts")
    if options.get("truncation") not in (*_CUT, *UNCUT) or options.get("max_length", 1) < 1:
        raise ModelError(f"processing_kwargs of texts: {shown(options)} cannot be followed")
    return options


def takes_output(modalities: Mapping[str, Mapping[str, Any]] | None, field: str) -> bool:
    """Whether any modality takes this field of what the backbone gives."""
    return any(
        field in ([path] if isinstance(path, str) else list(path or ()))
        for call in (modalities or {}).values()
        for path in (call.get("method_output_name"),)
    )


def _check_modalities(
    config: Any,  # noqa: ANN401  (from a file)
    where: Path,
) -> None:
    """The text and message entries must name a method that computes."""
    if config is None:
        return
    for modality in ("text", "message"):
        call = config.get(modality)
        if call is not None and not _METHODS.fullmatch(str(call.get("method"))):
            raise ModelError(
                f"{where}: modality_config of {modality} names method {call.get('method')!r}; "
                f"allowed are forward and get_..._features"
            )
        if (kind := (call or {}).get("format")) not in (None, "auto", *get_args(MessageFormat)):
            raise ModelError(f"{where}: modality_config: format {shown(kind)} is unknown")
        path = (call or {}).get("method_output_name")
        if not fits(path, str | list[str | int] | None):
            raise ModelError(
                f"{where}: modality_config of {modality} takes {shown(path)} of the method's "
                "output, which is no name and no list of names"
            )
    if not {"text", "message"} & set(config):
        raise ModelError(f"{where}: the model reads {sorted(config)}, but not text")
