"""Settings of a `Transformer`: which its folder may give, and what they say of texts."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, cast, get_args, get_type_hints

from stx_core.errors import ModelError
from stx_core.models.folder import Json
from stx_core.models.messages import MessageFormat
from stx_core.models.modules.backbone import folder_arguments
from stx_core.models.modules.module import LoadOptions
from stx_core.models.settings import check_settings, fits, shown

# The newest name first; the others are of the library's first years.
CONFIG_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


class Modality(TypedDict, total=False):
    """Call of the backbone for a kind of input: its method, and what is taken of the output."""

    method: str
    method_output_name: str | list[str | int] | None
    format: str | None


class TransformerSettings(TypedDict, total=False):
    """Settings that a config file of any age may give."""

    transformer_task: str
    modality_config: Mapping[str, Modality] | None
    module_output_name: str | None
    max_seq_length: int | None
    do_lower_case: bool | None
    query_length: int | None
    document_length: int | None
    processing_kwargs: Mapping[str, Json] | None
    query_expansion: Mapping[str, Json] | None
    unpad_inputs: bool | None
    tokenizer_name_or_path: str | None
    model_kwargs: Mapping[str, Json] | None
    processor_kwargs: Mapping[str, Json] | None
    config_kwargs: Mapping[str, Json] | None
    model_args: Mapping[str, Json] | None
    tokenizer_args: Mapping[str, Json] | None
    config_args: Mapping[str, Json] | None


class TextOptions(TypedDict, total=False):
    """Options of tokenising texts. The second half changes no number, only the shape of a batch."""

    max_length: int
    truncation: bool | str
    add_special_tokens: bool
    padding_side: Literal["left", "right"]
    padding: bool | int | str | None
    pad_to_multiple_of: bool | int | str | None
    return_tensors: bool | int | str | None
    return_attention_mask: bool | None
    return_token_type_ids: bool | None
    verbose: bool | None
    logits_to_keep: int


# A folder names a method of the backbone; these compute, others save, load or upload.
_METHODS = re.compile(r"forward|get_\w+_features")

# Groups of ``processing_kwargs``: the first two speak of texts.
_GROUPS = dict.fromkeys(
    ("text", "common", "audio", "image", "video", "chat_template"), Mapping[str, Json] | None
)
_TEXT_HINTS = get_type_hints(TextOptions)
_CUT, UNCUT = (True, "longest_first", "only_first", None), (False, "do_not_truncate")


def checked_settings(
    config: Mapping[str, Json], folder: Path, options: LoadOptions
) -> tuple[TransformerSettings, LoadOptions]:
    """Settings of a config file that can be followed, and how its checkpoint is opened.

    Args:
        config: settings, keys as in ``sentence_bert_config.json``.
        folder: the checkpoint.
        options: its arguments win over those in `config`.

    Raises:
        ModelError: a setting is unknown, of another type, or asks for what is not supported.
    """
    where = folder / CONFIG_FILES[0]
    check_settings(config, get_type_hints(TransformerSettings), where)
    merged = replace(
        options,
        model_kwargs=folder_arguments(config, "model_kwargs", "model_args", where=where)
        | options.model_kwargs,
        processor_kwargs=folder_arguments(config, "processor_kwargs", "tokenizer_args", where=where)
        | options.processor_kwargs,
        config_kwargs=folder_arguments(config, "config_kwargs", "config_args", where=where)
        | options.config_kwargs,
    )
    settings = cast(TransformerSettings, dict(config))
    _check_modalities(settings.get("modality_config"), where)
    if settings.get("query_expansion"):
        raise ModelError(f"{where}: query_expansion belongs to multi-vector models")
    tokenizer_folder = settings.get("tokenizer_name_or_path")
    if tokenizer_folder is not None:
        raise ModelError(f"{where}: tokenizer_name_or_path {tokenizer_folder!r} is not supported")
    if "model_max_length" in merged.processor_kwargs:
        settings["max_seq_length"] = merged.processor_kwargs["model_max_length"]
    return settings, merged


def text_options(processing: Mapping[str, Any]) -> TextOptions:
    """Options of tokenising texts, of all groups that speak of them.

    Raises:
        ModelError: an option is unknown or of another type; each changes what a model computes.
    """
    check_settings(processing, _GROUPS, "processing_kwargs")
    options = {**(processing.get("common") or {}), **(processing.get("text") or {})}
    check_settings(options, _TEXT_HINTS, "processing_kwargs of texts")
    if options.get("truncation") not in (*_CUT, *UNCUT) or options.get("max_length", 1) < 1:
        raise ModelError(f"processing_kwargs of texts: {shown(options)} cannot be followed")
    return cast(TextOptions, options)


def takes_output(modalities: Mapping[str, Mapping[str, Any]] | None, field: str) -> bool:
    """True where any modality takes this field of the backbone's output."""
    return any(
        field in ([path] if isinstance(path, str) else list(path or ()))
        for call in (modalities or {}).values()
        for path in (call.get("method_output_name"),)
    )


def _check_modalities(config: Mapping[str, Modality] | None, where: Path) -> None:
    """The text and message entries must name a method that computes."""
    if config is None:
        return
    for modality in ("text", "message"):
        if (call := config.get(modality)) is None:
            continue
        if not _METHODS.fullmatch(str(call.get("method"))):
            raise ModelError(
                f"{where}: modality_config of {modality} names method {call.get('method')!r}; "
                f"allowed are forward and get_..._features"
            )
        if (kind := call.get("format")) not in (None, "auto", *get_args(MessageFormat)):
            raise ModelError(f"{where}: modality_config: format {shown(kind)} is unknown")
        path = call.get("method_output_name")
        if not fits(path, str | list[str | int] | None):
            raise ModelError(
                f"{where}: modality_config of {modality} takes {shown(path)} of the method's "
                "output, which is no name and no list of names"
            )
    if not {"text", "message"} & set(config):
        raise ModelError(f"{where}: the model reads {sorted(config)}, but not text")
