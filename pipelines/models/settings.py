"""Models of a spec with their folders found and hashed: what actors and fingerprints need."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from stx.pipelines.spec.parts import Model
from stx.pipelines.spec.retrieval import Reranker
from stx_core.models.contents import fingerprint_files
from stx_core.models.folder import resolve_folder

HUB_ORGANISATION = {
    "dense": "sentence-transformers",
    "sparse": "sparse-encoder",
    "cross": "cross-encoder",
}
"""Of hub names that have none, by type of the model."""

VECTOR_COLUMN = {"dense": "embedding", "sparse": "sparse_embedding"}
"""Column of an output's files that its vectors are in, by type of the model."""


@dataclass(frozen=True)
class EncoderSettings:
    """All that an actor needs to rebuild one encoder; the values of `spec.Model`, resolved.

    Attributes:
        model: local folder or hub name.
        revision: commit of a hub name, so that every actor loads the same one.
        files: hash over the model's files, checked where it is loaded.
    """

    model: str
    type: Literal["dense", "sparse"]
    revision: str | None
    files: str
    task: Literal["document", "query"]
    prompt: str | None
    max_seq_length: int | None
    dtype: str
    normalize: bool
    truncate_dim: int | None
    store_as: Literal["float32", "float16"]
    max_active_dims: int | None
    trust_remote_code: bool
    allow_pickle: bool


@dataclass(frozen=True)
class RerankerSettings:
    """All that an actor needs to rebuild one cross-encoder; `Reranker` of the spec, resolved.

    Attributes:
        model: local folder or hub name.
        revision: commit of a hub name, so that every actor loads the same one.
        files: hash over the model's files, checked where it is loaded.
    """

    model: str
    revision: str | None
    files: str
    prompt: str | None
    max_seq_length: int | None
    dtype: str
    trust_remote_code: bool
    allow_pickle: bool


def encoder_settings(model: Model) -> EncoderSettings:
    """Resolve a model of a spec to a verified folder and hash it.

    Raises:
        ModelError: not found, or not a model folder.
    """
    resolved = _resolved(model, HUB_ORGANISATION[model.type])
    return EncoderSettings(**model.model_dump() | asdict(resolved))


def reranker_settings(model: Reranker) -> RerankerSettings:
    """As `encoder_settings`, of a cross-encoder."""
    resolved = _resolved(model, HUB_ORGANISATION["cross"])
    return RerankerSettings(**model.model_dump() | asdict(resolved))


@dataclass(frozen=True)
class _Resolved:
    """The fields of settings that say which files a model is."""

    model: str
    revision: str | None
    files: str


def _resolved(model: Model | Reranker, organisation: str) -> _Resolved:
    folder = resolve_folder(
        model.model,
        default_org=organisation,
        revision=model.revision,
        allow_pickle=model.allow_pickle,
    )
    is_local = Path(model.model).expanduser().exists()
    return _Resolved(
        model=str(folder.resolve()) if is_local else model.model,
        # A hub snapshot is kept in a folder that is named by its commit.
        revision=None if is_local else folder.name,
        files=fingerprint_files(folder, allow_pickle=model.allow_pickle),
    )


def fingerprint(settings: EncoderSettings | RerankerSettings) -> str:
    """Hash of everything that changes an output: files and settings, not where the files are."""
    values = asdict(settings)
    for irrelevant in ("model", "revision", "trust_remote_code", "allow_pickle"):
        del values[irrelevant]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
