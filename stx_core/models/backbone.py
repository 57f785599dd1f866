"""Loading of a transformers checkpoint: every weight it needs is there, none of its code is run."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from stx_core.errors import ModelError
from stx_core.models.folder import SAFE_WEIGHTS, read_json, refuse_pickle, resolve_folder
from stx_core.models.modules.module import LoadOptions

TASKS = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
}
"""What the backbone is loaded for -> class of transformers that loads it."""

# Encoder-decoder models of which only the encoder embeds text, by model_type.
_ENCODERS = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "longt5": "LongT5EncoderModel",
    "switch_transformers": "SwitchTransformersEncoderModel",
    "t5gemma": "T5GemmaEncoderModel",
}

# Arguments by which a folder could choose code or files: only the caller may give them.
_CALLERS_OWN = frozenset(
    (
        "adapter_kwargs", "cache_dir", "code_revision", "config", "config_file_name", "gguf_file",
        "pretrained_model_name_or_path", "revision", "state_dict", "subfolder", "token",
        "tokenizer_file", "use_kernels", "use_safetensors", "weights_only",
    )
)  # fmt: skip

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def folder_arguments(
    config: dict[str, Any], new_name: str, old_name: str, where: Path
) -> dict[str, Any]:
    """Take a group of loading arguments out of a module config, under its new or old name.

    ``trust_remote_code`` is dropped: a folder cannot decide that it is trusted.

    Raises:
        ModelError: the group names code or files to load.
    """
    arguments = dict(config.pop(new_name, None) or config.pop(old_name, None) or {})
    config.pop(old_name, None)
    arguments.pop("trust_remote_code", None)
    if taken := sorted(_CALLERS_OWN & set(arguments)):
        raise ModelError(f"{where}: {new_name} may not set {', '.join(taken)}")
    _refuse_kernel(arguments, where)
    return arguments


def _refuse_kernel(settings: Mapping[str, Any], where: Path) -> None:
    """An attention implementation "org/name" is code that transformers would download and run."""
    for key, value in settings.items():
        named_kernel = isinstance(value, str) and ("/" in value or ":" in value)
        if "attn_implementation" in key and (named_kernel or isinstance(value, dict)):
            raise ModelError(f"{where}: {key} {value!r} names foreign code, which is not run")


def load_config(folder: Path, options: LoadOptions) -> Any:  # noqa: ANN401  (transformers is untyped)
    """The backbone's config, without key-value cache: nothing here generates text.

    Raises:
        ModelError: the folder has no config that transformers knows, or it names code of its own.
    """
    path = folder / "config.json"
    raw = read_json(path)
    if not options.trust_remote_code:
        _refuse_kernel(raw, path)
        if raw.get("auto_map"):
            raise ModelError(
                f"{path} names model code of its own ({raw['auto_map']}), which is not run, and "
                f"without it the model may compute something else; if you have read that code "
                f"and trust it, pass trust_remote_code=True"
            )
    try:
        config = AutoConfig.from_pretrained(
            folder, trust_remote_code=options.trust_remote_code, **options.config_kwargs
        )
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(f"{path}: transformers cannot read this config: {error}") from error
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
    if (folder / ADAPTER_CONFIG).is_file():
        return _load_adapter(folder, task, options, needs_pooler=needs_pooler)
    if not any(folder.glob("*.safetensors")):
        refuse_pickle(folder, SAFE_WEIGHTS, allow_pickle=options.allow_pickle)
    config = load_config(folder, options)
    name = TASKS[task]
    if task == "feature-extraction" and config.model_type in _ENCODERS:
        name = _ENCODERS[config.model_type]
        config.is_encoder_decoder = False
    try:
        model, info = getattr(transformers, name).from_pretrained(
            folder,
            config=config,
            output_loading_info=True,
            **_model_arguments(options, folder),
        )
    except (ValueError, OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelError(f"{folder}: transformers cannot load it as {name}: {error}") from error
    _check_complete(info, folder, name, needs_pooler=needs_pooler)
    return model


def _model_arguments(options: LoadOptions, folder: Path) -> dict[str, Any]:
    arguments = dict(options.model_kwargs)
    if "torch_dtype" in arguments:
        arguments.setdefault("dtype", arguments.pop("torch_dtype"))
    if "dtype" in arguments:
        arguments["dtype"] = parse_dtype(arguments["dtype"])
    safe = any(folder.glob("*.safetensors"))
    return {
        "trust_remote_code": options.trust_remote_code,
        "use_safetensors": safe,
        "weights_only": True,
    } | arguments


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
    missing = sorted(
        key for key in info["missing_keys"] if needs_pooler or not _is_unused_pooler(key)
    )
    mismatched = [str(key) for key in info.get("mismatched_keys") or ()]
    if missing or mismatched:
        keys = missing + mismatched
        shown = ", ".join(keys[:8]) + (f", and {len(keys) - 8} more" if len(keys) > 8 else "")
        raise ModelError(
            f"{folder}: the checkpoint lacks {len(keys)} weights that {name} needs, so it would "
            f"be partly untrained: {shown}"
        )


def _is_unused_pooler(key: str) -> bool:
    """BERT and its relatives have a pooler that mean pooling never reads."""
    return "pooler" in key.split(".")


def _load_adapter(folder: Path, task: str, options: LoadOptions, *, needs_pooler: bool) -> Any:  # noqa: ANN401
    if importlib.util.find_spec("peft") is None:
        raise ModelError(f"{folder} is a PEFT adapter, and peft is not installed: pip install peft")
    base_name = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base_name:
        raise ModelError(f"{folder / ADAPTER_CONFIG}: base_model_name_or_path is missing")
    base = resolve_folder(
        base_name,
        default_org=None,
        token=options.token,
        cache_folder=options.cache_folder,
        local_files_only=options.local_files_only,
        allow_pickle=options.allow_pickle,
    )
    if (base / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{folder}: the base {base} is an adapter itself; merge it first")
    if not options.allow_pickle and not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{folder / ADAPTER_WEIGHTS} is missing; allow_pickle=True permits .bin")
    model = load_backbone(base, task, options, needs_pooler=needs_pooler)
    info = model.load_adapter(str(folder))
    if info is not None:  # older versions of transformers give no account
        keys = {"missing_keys": info.missing_keys, "mismatched_keys": info.mismatched_keys}
        _check_complete(keys, folder, "the adapter", needs_pooler=True)
    return model


def load_tokenizer(folder: Path, options: LoadOptions) -> Any:  # noqa: ANN401  (untyped)
    """The tokenizer of a folder; that of the base where an adapter brings none.

    Raises:
        ModelError: there is none that transformers can load.
    """
    path = folder / "tokenizer_config.json"
    if path.is_file() and read_json(path).get("auto_map") and not options.trust_remote_code:
        raise ModelError(f"{path} names tokenizer code of its own (auto_map), which is not run")
    if not path.is_file() and (folder / ADAPTER_CONFIG).is_file():
        base = read_json(folder / ADAPTER_CONFIG)["base_model_name_or_path"]
        folder = resolve_folder(
            base,
            default_org=None,
            token=options.token,
            cache_folder=options.cache_folder,
            local_files_only=options.local_files_only,
        )
    try:
        return AutoTokenizer.from_pretrained(
            folder, trust_remote_code=options.trust_remote_code, **options.processor_kwargs
        )
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise ModelError(f"{folder}: transformers cannot load the tokenizer: {error}") from error
