"""Models in stages: the files that a run was planned with, threads, float32 for a while."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import stx_core
from stx.pipelines.models.settings import EncoderSettings, RerankerSettings
from stx_core.errors import ModelError
from stx_core.models.contents import fingerprint_files, refuse_foreign_code
from stx_core.models.folder import resolve_folder

if TYPE_CHECKING:
    from torch import nn


def load_planned(
    name: str,
    settings: EncoderSettings | RerankerSettings,
    organisation: str,
    **more: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """A model with the files that the run was planned with.

    Args:
        name: class of `stx_core`.
        settings: of the model.
        organisation: of a hub name that has none.
        more: arguments of the class.

    Raises:
        ModelError: it cannot be loaded, or other files are there.
    """
    folder = resolve_folder(
        settings.model,
        default_org=organisation,
        revision=settings.revision,
        allow_pickle=settings.allow_pickle,
    )
    files = fingerprint_files(folder, allow_pickle=settings.allow_pickle)
    if files != settings.files:
        raise ModelError(
            f"{settings.model}: these are not the files that the run was planned, or the snapshot "
            f"written, with (hash {settings.files[:12]} then, {files[:12]} now); restore them"
        )
    if settings.trust_remote_code:
        refuse_foreign_code(folder)
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # transformers asks it, too, when it is imported
    return getattr(stx_core, name)(
        str(folder),
        model_kwargs={"dtype": settings.dtype},
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
        **more,
    )


def limit_threads(threads: int) -> None:
    """Use `threads` cores for matrix work and for tokenising.

    Ray gives workers OMP_NUM_THREADS=1 unless told otherwise, which is five times slower than
    plain Python on this kind of work; and the tokenizers would take every core of the machine.
    """
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import torch

    torch.set_num_threads(threads)


@contextmanager
def in_float32(model: "nn.Module") -> Iterator[None]:
    """Let a model compute in float32 for a while; its weights come back exactly as they were."""
    dtypes = [tensor.dtype for tensor in (*model.parameters(), *model.buffers())]
    try:
        model.float()
        yield
    finally:
        # Each in its own: a model may keep some tensors in float32 all the time. Lossless, as
        # float32 holds every number of the half formats.
        tensors = (*model.parameters(), *model.buffers())
        for tensor, dtype in zip(tensors, dtypes, strict=True):
            tensor.data = tensor.data.to(dtype)
