"""Embeddings of queries and documents by a model that the caller brought, cached on request."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from stx_core.errors import InputError

logger = logging.getLogger(__name__)

Embed = Callable[[Sequence[str]], np.ndarray]


def cached(embed: Embed, texts: Sequence[str], file: Path | None) -> np.ndarray:
    """Read embeddings from a file, or compute and write them; (N, D) float32."""
    if file is None:
        return np.asarray(embed(texts))
    if file.exists():
        embeddings = np.load(file)
        if len(embeddings) != len(texts):
            raise InputError(f"{file} holds {len(embeddings)} rows, not {len(texts)}; remove it")
        logger.info("read embeddings from %s", file)
        return np.asarray(embeddings)
    embeddings = np.asarray(embed(texts))
    file.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when whole, so that a run that was killed leaves no half of a cache.
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".npy", delete=False) as part:
        np.save(part, embeddings)
    os.replace(part.name, file)
    return embeddings


def cache_file(
    folder: str | Path | None,
    kind: str,
    model: Any,  # noqa: ANN401  (any model with weights)
    prompt: Mapping[str, str | None],
    texts: Sequence[str],
) -> Path | None:
    """Where embeddings of these texts by these weights lie; None without a folder.

    The name depends on weights, settings, prompt and texts; the reference's depends on the name
    of the model instead, and gives stale embeddings after training.

    Raises:
        InputError: the model has no weights by which to know it.
    """
    if folder is None:
        return None
    identity = repr((_model_identity(model), sorted(prompt.items()), list(texts)))
    return Path(folder) / f"{kind}_embeddings_{hashlib.sha256(identity.encode()).hexdigest()}.npy"


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
    settings = [str(getattr(model, name, "")) for name in ("max_seq_length", "prompts")]
    return (digest.hexdigest(), repr(model), *settings)


@contextmanager
def process_pool(
    model: Any,  # noqa: ANN401  (any model)
    wanted: bool | list[str],
) -> Iterator[dict[str, Any]]:
    """Options for `encode` and `predict` that spread them over processes, if the model can."""
    if not wanted:
        yield {}
        return
    if not hasattr(model, "start_multi_process_pool"):
        logger.warning(
            "use_multi_process: a %s starts no processes; it runs in this one", type(model).__name__
        )
        yield {}
        return
    pool = model.start_multi_process_pool(
        target_devices=None if isinstance(wanted, bool) else wanted
    )
    try:
        yield {"pool": pool}
    finally:
        model.stop_multi_process_pool(pool)
