"""Loading of a transformers checkpoint: every weight it needs is there, none of its code is run."""

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer

from stx_core.errors import ModelError
from stx_core.models.contents import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Base,
    adapter_base,
    weight_files,
)
from stx_core.models.folder import (
    PICKLED_WEIGHTS,
    SAFE_WEIGHTS,
    Json,
    JsonObject,
    read_json,
    reading,
    refuse_pickle,
)
from stx_core.models.modules.module import LoadOptions
from stx_core.models.settings import check_settings, check_sizes, shown

TASKS = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
}
"""Task that the backbone is loaded for -> class of transformers that loads it."""

# Encoder-decoder models of which only the encoder embeds text, by model_type.
_ENCODERS = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "longt5": "LongT5EncoderModel",
    "switch_transformers": "SwitchTransformersEncoderModel",
    "t5gemma": "T5GemmaEncoderModel",
}

# What a folder may set of how its own backbone is loaded. Everything else is the caller's choice:
# where files come from, what code runs, on which devices.
_FOLDER_MAY_SET: Mapping[str, Mapping[str, Any]] = {
    "model_kwargs": {
        "add_pooling_layer": bool,
        "attn_implementation": str,
        "dtype": str | None,
        "ignore_mismatched_sizes": bool,
        "low_cpu_mem_usage": bool,
        "output_attentions": bool,
        "output_hidden_states": bool,
        "reference_compile": bool | None,
        "rotary_scaling_factor": float | None,
        "torch_dtype": str | None,
        "unpad_inputs": bool | None,
        "use_cache": bool,
        "use_memory_efficient_attention": bool | None,
    },
    "processor_kwargs": {
        **dict.fromkeys(
            (
                "add_bos_token", "add_eos_token", "add_prefix_space", "add_special_tokens",
                "clean_up_tokenization_spaces", "do_basic_tokenize", "do_lower_case",
                "fix_mistral_regex", "keep_accents", "legacy", "remove_space",
                "split_special_tokens", "strip_accents", "tokenize_chinese_chars",
                "trim_offsets", "use_fast",
            ),
            bool | None,
        ),
        **dict.fromkeys(
            (
                "bos_token", "chat_template", "cls_token", "eos_token", "mask_token", "pad_token",
                "sep_token", "unk_token",
            ),
            str | None,
        ),
        "additional_special_tokens": list[str],
        "extra_special_tokens": list[str],
        "model_input_names": list[str],
        "model_max_length": float | None,
        "padding_side": str,
        "truncation_side": str,
    },
}  # fmt: skip

# Besides what its config.json has already.
_CONFIG_MAY_SET = dict.fromkeys(
    ("num_labels", "output_attentions", "output_hidden_states", "problem_type", "use_cache"), Any
)

# What a config says of code and files, not of the model.
_NOT_OF_THE_MODEL = ("auto_map", "model_type", "transformers_weights", "quantization_config")

# Adapters that name further adapters, or prompts that are trained and need a loop of their own.
_OTHER_ADAPTERS = frozenset(
    (
        "XLORA",
        "ADAPTION_PROMPT",
        "CPT",
        "CARTRIDGE",
        "MULTITASK_PROMPT_TUNING",
        "PREFIX_TUNING",
        "PROMPT_TUNING",
        "P_TUNING",
    )
)


def folder_arguments(
    config: Mapping[str, Json], new_name: str, old_name: str, where: Path
) -> JsonObject:
    """A group of loading arguments in a module config, under its new or old name.

    ``trust_remote_code`` is dropped: a folder cannot decide that it is trusted.

    Raises:
        ModelError: the group sets what is for the caller to set, such as code and files to load.
    """
    group = config.get(new_name) or config.get(old_name)
    arguments = dict(group) if isinstance(group, Mapping) else {}
    arguments.pop("trust_remote_code", None)
    allowed = _FOLDER_MAY_SET.get(new_name)
    if allowed is None:
        path = where.parent / "config.json"
        own = read_json(path) if path.is_file() else {}
        allowed = {key: Any for key in own if key not in _NOT_OF_THE_MODEL} | _CONFIG_MAY_SET
    if refused := sorted(set(arguments) - set(allowed)):
        raise ModelError(
            f"{where}: {new_name} may not set {', '.join(map(shown, refused))}; a folder may set "
            f"{', '.join(sorted(allowed))}, the rest is an argument of whoever loads it"
        )
    check_settings(arguments, allowed, f"{where}: {new_name}")
    check_sizes(arguments, where)
    _refuse_kernels(arguments, where)
    return arguments


def _refuse_kernels(settings: Any, where: Path) -> None:  # noqa: ANN401  (JSON)
    """An attention implementation "org/name" is code that transformers would download and run."""
    if not isinstance(settings, Mapping):
        return
    for key, value in settings.items():
        names_kernel = isinstance(value, str) and not value.replace("_", "").isalnum()
        if (
            "implementation" in key
            and value is not None
            and (names_kernel or not isinstance(value, str))
        ):
            raise ModelError(f"{where}: {key} {shown(value)} names foreign code, which is not run")
        _refuse_kernels(value, where)


def _code_in(config: Any) -> Any:  # noqa: ANN401  (JSON)
    """The first ``auto_map`` of a config or of its parts; None for none."""
    if not isinstance(config, Mapping):
        return None
    return config.get("auto_map") or next(filter(None, map(_code_in, config.values())), None)


def load_config(folder: Path, options: LoadOptions) -> Any:  # noqa: ANN401  (transformers is untyped)
    """The backbone's config, without key-value cache: nothing here generates text.

    Raises:
        ModelError: the folder has no config that transformers knows, or it names code of its own.
    """
    path = folder / "config.json"
    raw = read_json(path)
    check_sizes(raw, path)
    if not options.trust_remote_code:
        _refuse_kernels(raw, path)
        if code := _code_in(raw):
            raise ModelError(
                f"{path} names model code of its own ({shown(code)}), which is not run, and "
                f"without it the model may compute something else; if you have read that code "
                f"and trust it, pass trust_remote_code=True"
            )
    if raw.get("use_pretrained_backbone"):
        raise ModelError(f"{path}: use_pretrained_backbone would fetch other weights from the hub")
    with reading(path, "transformers cannot read this config"):
        config = AutoConfig.from_pretrained(
            folder,
            trust_remote_code=options.trust_remote_code,
            local_files_only=True,
            **options.config_kwargs,
        )
        _switch_cache_off(config, options.config_kwargs)
    return config


def _switch_cache_off(config: Any, given: Mapping[str, Any]) -> None:  # noqa: ANN401
    if hasattr(config, "use_cache"):
        config.use_cache = given.get("use_cache", False)
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            _switch_cache_off(part, given.get(name) or given)


def load_backbone(
    folder: Path, task: str, options: LoadOptions, *, needs_pooler: bool = False
) -> Any:  # noqa: ANN401  (transformers is untyped)
    """Load a checkpoint, or an adapter on its base checkpoint.

    Args:
        folder: the checkpoint.
        task: key of `TASKS`; encoder-decoder models give their encoder for feature extraction.
        options: how it may be opened.
        needs_pooler: the pooler's output is used, so its weights must be there.

    Raises:
        ModelError: weights are missing or do not fit, so that parts would be untrained.
    """
    if task not in TASKS:
        raise ModelError(f"{folder}: transformer_task {task!r} is unknown; known: {sorted(TASKS)}")
    if options.root is None:
        options = options.within(folder)
    if (folder / ADAPTER_CONFIG).is_file() and importlib.util.find_spec("peft") is None:
        raise ModelError(f"{folder} is a PEFT adapter, and peft is not installed: pip install peft")
    base = adapter_base(
        folder,
        token=options.token,
        cache_folder=options.cache_folder,
        local_files_only=options.local_files_only,
        allow_pickle=options.allow_pickle,
    )
    if base is not None:
        return _load_adapter(folder, base, task, options=options, needs_pooler=needs_pooler)
    files = weight_files(folder)
    # The first of them is a pickle, or an index of pickles.
    pickled = bool(files) and files[0].startswith(PICKLED_WEIGHTS)
    if pickled or not (files or any(folder.glob("*.safetensors"))):
        refuse_pickle(folder, SAFE_WEIGHTS, allow_pickle=options.allow_pickle)
    for name in files:
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name} is missing; the weights are not complete")
    config = load_config(folder, options)
    name = TASKS[task]
    if task == "feature-extraction" and config.model_type in _ENCODERS:
        name = _ENCODERS[config.model_type]
        config.is_encoder_decoder = False
    with reading(folder, f"transformers cannot load it as {name}"):
        arguments = {
            "trust_remote_code": options.trust_remote_code,
            "local_files_only": True,  # what is not in the folder is not hashed
            "use_safetensors": not pickled,
            "weights_only": True,
        } | options.model_kwargs
        if "torch_dtype" in arguments:
            arguments.setdefault("dtype", arguments.pop("torch_dtype"))
        if "dtype" in arguments:
            arguments["dtype"] = parse_dtype(arguments["dtype"])
        model, info = getattr(transformers, name).from_pretrained(
            folder, config=config, output_loading_info=True, **arguments
        )
        _check_complete(info, folder, name, needs_pooler=needs_pooler)
    return model


def parse_dtype(value: str | torch.dtype | None) -> str | torch.dtype | None:
    """A dtype, or its name such as "bfloat16" or "torch.float16"; "auto" and None stay.

    Raises:
        ModelError: the name is not a floating-point dtype of torch.
    """
    if not isinstance(value, str) or value == "auto":
        return value
    dtype = getattr(torch, value.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ModelError(f"dtype {value!r} is unknown; use float32, bfloat16, float16 or auto")
    return dtype


def _check_complete(
    info: Mapping[str, Any], folder: Path, name: str, *, needs_pooler: bool
) -> None:
    """Refuse what transformers only warns about: weights that it has made up."""
    # BERT and its relatives have a pooler that mean pooling never reads.
    missing = sorted(
        key for key in info["missing_keys"] if needs_pooler or "pooler" not in key.split(".")
    )
    mismatched = [str(key) for key in info.get("mismatched_keys") or ()]
    if missing or mismatched:
        keys = missing + mismatched
        shown = ", ".join(keys[:8]) + (f", and {len(keys) - 8} more" if len(keys) > 8 else "")
        raise ModelError(
            f"{folder}: the checkpoint lacks {len(keys)} weights that {name} needs, so it would "
            f"be partly untrained: {shown}"
        )


def _load_adapter(
    folder: Path, base: Base, task: str, options: LoadOptions, *, needs_pooler: bool
) -> Any:  # noqa: ANN401
    path = folder / ADAPTER_CONFIG
    config = read_json(path)
    check_sizes(config, path)
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind.upper() in _OTHER_ADAPTERS:
        raise ModelError(f"{path}: adapters of peft_type {shown(kind)} cannot be loaded")
    if not options.allow_pickle and not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{folder / ADAPTER_WEIGHTS} is missing; allow_pickle=True permits .bin")
    model = load_backbone(base.folder, task, _options_of(base, options), needs_pooler=needs_pooler)
    with reading(path, "peft cannot load this adapter"):
        info = model.load_adapter(str(folder), adapter_kwargs={"local_files_only": True})
        if info is not None:  # older versions of transformers give no account
            keys = {"missing_keys": info.missing_keys, "mismatched_keys": info.mismatched_keys}
            _check_complete(keys, folder, "the adapter", needs_pooler=True)
    return model


def _options_of(base: Base, options: LoadOptions) -> LoadOptions:
    """Only code in the model's own folder was read by whoever trusts it."""
    if base.is_inside:
        return options
    return replace(options, trust_remote_code=False, root=None)


def load_tokenizer(folder: Path, options: LoadOptions) -> Any:  # noqa: ANN401  (untyped)
    """The tokenizer of a folder; that of the base where an adapter brings none.

    Raises:
        ModelError: there is none that transformers can load, or it has no vocabulary.
    """
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        base = adapter_base(
            folder,
            token=options.token,
            cache_folder=options.cache_folder,
            local_files_only=options.local_files_only,
        )
        if base is not None:
            return load_tokenizer(base.folder, _options_of(base, options))
    if options.root is None:
        options = options.within(folder)
    if path.is_file() and _code_in(read_json(path)) and not options.trust_remote_code:
        raise ModelError(f"{path} names tokenizer code of its own (auto_map), which is not run")
    with reading(folder, "transformers cannot load the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            folder,
            trust_remote_code=options.trust_remote_code,
            local_files_only=True,
            **options.processor_kwargs,
        )
        _check_vocabulary(tokenizer, folder)
    return tokenizer


def _check_vocabulary(tokenizer: Any, folder: Path) -> None:  # noqa: ANN401  (untyped)
    """Refuse what transformers makes up where files are missing: a vocabulary of special tokens.

    Raises:
        ModelError: the files that this kind of tokenizer is built of are not there.
    """
    files: dict[str, str] = getattr(tokenizer, "vocab_files_names", {})
    if not files or (folder / "tokenizer.json").is_file():  # bytes or characters: nothing to read
        missing = []
    else:
        needed = [name for key, name in files.items() if key in _VOCABULARY_FILES]
        missing = [name for name in needed if not (folder / name).is_file()]
    if any(folder.glob("tokenizer.*")) or any(folder.glob("*tekken.json")):
        missing = []  # of another age or library, which transformers converts
    if missing or (files and len(tokenizer) <= len(tokenizer.all_special_tokens)):
        raise ModelError(
            f"{folder} has no vocabulary for its {type(tokenizer).__name__}: "
            f"{' and '.join(missing) or 'tokenizer.json'} is missing or empty; fetch the tokenizer "
            "that the model was trained with"
        )


_VOCABULARY_FILES = ("vocab_file", "merges_file", "vocab", "spm_file", "source_spm")
