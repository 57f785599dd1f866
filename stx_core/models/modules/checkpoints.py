"""Checkpoints of a `Transformer` that is made by hand: their folder, and how it may be opened."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stx_core.models.folder import resolve_folder
from stx_core.models.modules.module import LoadOptions


def options_of(
    model_kwargs: Mapping[str, Any] | None,
    processor_kwargs: Mapping[str, Any] | None,
    config_kwargs: Mapping[str, Any] | None,
    cache_dir: str | None,
) -> tuple[LoadOptions, str | None]:
    """Options, and the revision, out of the arguments of backbone, tokenizer and config.

    What says how to open files, ``token`` or ``trust_remote_code``, may stand in any of them.
    """
    model, processor, config = (
        dict(group or {}) for group in (model_kwargs, processor_kwargs, config_kwargs)
    )
    common: dict[str, Any] = {"cache_dir": cache_dir}
    for group in (model, processor, config):
        for name in ("trust_remote_code", "local_files_only", "token", "cache_dir", "revision"):
            value = group.pop(name, None)
            common |= {} if value is None else {name: value}
    revision = common.pop("revision", None)
    common["cache_folder"] = common.pop("cache_dir")
    return LoadOptions(model, processor, config, **common), revision


def checkpoint_folder(
    name_or_path: str | Path, options: LoadOptions, revision: str | None = None
) -> Path:
    """The folder of a checkpoint.

    Raises:
        ModelError: there is no such folder, nor such a name on the hub.
    """
    return resolve_folder(
        name_or_path,
        default_org=None,
        revision=revision,
        token=options.token,
        cache_folder=options.cache_folder,
        local_files_only=options.local_files_only,
    )
