"""Embeddings of queries and documents by a model that the caller brought, cached on request."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from stx_core.errors import InputError

logger = logging.getLogger(__name__)

Embed = Callable[[Sequence[str]], np.ndarray]


# Texts per call of a model: some 50 MB of embeddings of 384 numbers.
_BLOCK_TEXTS = 1 << 15


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of texts, (N, D), read block by block.

    Attributes:
        embed: gives them, of some of the texts.
        texts: N.
        file: where they are kept, computed when first read; None to compute them each time.
    """

    embed: Embed
    texts: Sequence[str]
    file: Path | None

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """First row and rows of each block."""
        n_rows = len(self.texts)
        if self.file is not None and self.file.exists():
            stored = np.load(self.file, mmap_mode="r")
            if len(stored) != n_rows:
                raise InputError(f"{self.file} holds {len(stored)} rows, not {n_rows}; remove it")
            logger.debug("read embeddings from %s", self.file)
            width = stored.shape[1]
            for start in range(0, n_rows, _BLOCK_TEXTS):
                count = min(_BLOCK_TEXTS, n_rows - start)
                # Not through the map: its pages would stay with the process.
                at = stored.offset + start * width * stored.itemsize
                block = np.fromfile(self.file, stored.dtype, count * width, offset=at)
                yield start, block.reshape(count, width)
            return
        with _written(self.file, n_rows) as write:
            for start in range(0, n_rows, _BLOCK_TEXTS):
                block = np.asarray(self.embed(self.texts[start : start + _BLOCK_TEXTS]))
                write(block)
                yield start, block
                del block  # else there would be two of them while the next is computed

    def whole(self) -> np.ndarray:
        """All of them, in memory."""
        blocks = [block for _, block in self.blocks()]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


@contextmanager
def _written(file: Path | None, n_rows: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that adds blocks to a file, which gets its name when it is whole."""
    if file is None:
        yield lambda block: None
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:

        def write(block: np.ndarray) -> None:
            if part.tell() == 0:
                header = np.lib.format.header_data_from_array_1_0(np.ascontiguousarray(block))
                header["shape"] = (n_rows, *block.shape[1:])
                np.lib.format.write_array_header_1_0(part, header)
            part.write(np.ascontiguousarray(block).data)

        try:
            yield write
        except BaseException:
            os.unlink(part.name)
            raise
    os.replace(part.name, file)


def cache_file(
    folder: str | Path | None,
    kind: str,
    model: Any,  # noqa: ANN401  (any model with weights)
    prompt: Mapping[str, str | None],
    texts: Sequence[str],
) -> Path | None:
    """Where embeddings of these texts by these weights lie; None without a folder.

    The name depends on weights, on all settings of the model, its modules and its tokenizer, and on
    prompt and texts; the reference's depends on the name of the model instead, and gives stale
    embeddings after training.

    Raises:
        InputError: the model has no weights by which to know it.
    """
    if folder is None:
        return None
    digest = hashlib.sha256(repr((_model_identity(model), sorted(prompt.items()))).encode())
    for text in texts:
        digest.update(repr(text).encode())
    return Path(folder).expanduser() / f"{kind}_embeddings_{digest.hexdigest()}.npy"


def _model_identity(model: Any) -> tuple[str, ...]:  # noqa: ANN401  (any model with weights)
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"cache_folder: a {type(model).__name__} has no weights to know it by; leave it out"
        )
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(values.numpy().data)
    own = {name: getattr(model, name, None) for name in _SETTINGS_OF_MODELS}
    modules = [
        f"{name} {type(module).__qualname__} {_settings_of(module)}"
        for name, module in model.named_modules()
        if module is not model
    ]
    return (digest.hexdigest(), repr(model), repr(own), *modules)


# Others that a model keeps are what it counts and remembers as it runs.
_SETTINGS_OF_MODELS = (
    "default_prompt_name",
    "max_active_dims",
    "max_seq_length",
    "module_kwargs",
    "prompts",
    "truncate_dim",
)


def _settings_of(module: torch.nn.Module) -> dict[str, Any]:
    """Settings of a module beside its weights: plain values, hooks, its config, its tokenizer."""
    settings: dict[str, Any] = {
        name: value
        for name, value in sorted(vars(module).items())
        if not name.startswith("_") and name != "training" and _is_plain(value)
    }
    # Those of its configuration file, wherever the module keeps them.
    for name in getattr(module, "config_keys", ()):
        if _is_plain(value := getattr(module, name, None)):
            settings[name] = value
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    settings["hooks"] = [getattr(hook, "__qualname__", type(hook).__qualname__) for hook in hooks]
    settings["max_seq_length"] = getattr(module, "max_seq_length", None)
    config, tokenizer = getattr(module, "config", None), getattr(module, "tokenizer", None)
    if config is not None and hasattr(config, "to_json_string"):  # of transformers
        settings["config"] = config.to_json_string(use_diff=False)
    if tokenizer is not None:
        settings["tokenizer"] = _tokenizer_settings(tokenizer)
    return settings


def _is_plain(value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in (*value.keys(), *value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float))


def _tokenizer_settings(tokenizer: Any) -> dict[str, Any]:  # noqa: ANN401  (of any library)
    settings = {
        name: value
        for name, value in sorted(vars(tokenizer).items() if hasattr(tokenizer, "__dict__") else ())
        if not name.startswith("_") and _is_plain(value)
    }
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        # Without what the last batch was cut and padded to.
        rules = json.loads(backend.to_str())
        settings["rules"] = {**rules, "truncation": None, "padding": None}
    for name in ("padding_side", "truncation_side", "model_max_length", "special_tokens_map"):
        settings[name] = str(getattr(tokenizer, name, None))
    return settings


@contextmanager
def process_pool(
    model: Any,  # noqa: ANN401  (any model)
    devices: bool | list[str],
) -> Iterator[dict[str, Any]]:
    """Options for `encode` and `predict` that spread them over processes, if the model can."""
    if not devices:
        yield {}
        return
    if not hasattr(model, "start_multi_process_pool"):
        logger.warning(
            "use_multi_process: a %s starts no processes; it runs in this one", type(model).__name__
        )
        yield {}
        return
    pool = model.start_multi_process_pool(
        target_devices=None if isinstance(devices, bool) else devices
    )
    try:
        yield {"pool": pool}
    finally:
        model.stop_multi_process_pool(pool)
