"""Model folders: a name or path becomes a local folder; its files are read, written and hashed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from stx_core.errors import ModelError
from stx_core.models.hub_names import NAMES_WITHOUT_ORGANISATION

if TYPE_CHECKING:
    from torch import Tensor

SAFE_WEIGHTS = "model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"

# Weights of other runtimes: never loaded, so neither downloaded nor part of the fingerprint.
OTHER_RUNTIMES = (
    "*.onnx", "*.onnx_data", "onnx/*", "openvino/*", "openvino_model*", "coreml/*", "*.mlmodel",
    "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.ckpt*", "*.gguf",
)  # fmt: skip
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")

# The hub's client keeps files of all repositories in one place where its cache has this mark.
_SHARED_BLOBS_MARK = "blobs/.huggingface-shared-blobs"


Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""Value of a JSON file."""

JsonObject = dict[str, Json]
"""Settings as they are written."""


def short(error: BaseException) -> str:
    """An error of another library in one line of bounded length, for our own."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


@contextmanager
def reading(where: str | Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong in here into an error of the model.

    Libraries that read files of others raise nearly anything when these are damaged.

    Args:
        where: file or folder that is read.
        what: what cannot be done then, such as "transformers cannot read this config".

    Raises:
        ModelError: in place of any other error but of memory that ran out.
    """
    try:
        yield
    except (ModelError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's own
            raise
        raise ModelError(f"{where}: {what}: {short(error)}") from error
    except BaseException as error:
        # A panic of a library in Rust, which asks not to be caught as other errors are.
        if type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{where}: {what}: {short(error)}") from error


def resolve_folder(
    name_or_path: str | Path,
    *,
    default_org: str | None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
    allow_pickle: bool = False,
) -> Path:
    """Turn a local path or a name on the Hugging Face hub into a local folder.

    An existing local folder is used as it is; nothing is looked up on the hub then. A name on the
    hub is downloaded once, without the weights of other runtimes and without pickled weights.

    Args:
        name_or_path: a folder, ``organisation/name`` or a short name.
        default_org: organisation of short names, such as ``sentence-transformers``; None leaves
            them as they are.
        revision: branch, tag or commit on the hub.
        token: access token of the hub; True for the one that is stored on this machine.
        cache_folder: where downloads are kept; default: the hub client's own cache.
        local_files_only: use what was downloaded before, never the network.
        allow_pickle: download ``.bin`` weights too.

    Raises:
        ModelError: there is no such folder, or the hub does not have it or cannot be reached.
    """
    name = given = str(name_or_path)
    if "\0" in name or not name.strip():
        raise ModelError(f"{name!r} is no name of a model; give a folder or a name on the hub")
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"{name} is a file; a model is a folder with a config.json")
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or "\\" in name:
        raise ModelError(f"there is no folder {name}; give an existing folder or a name on the hub")
    if default_org and "/" not in name and name.lower() not in NAMES_WITHOUT_ORGANISATION:
        name = f"{default_org}/{name}"
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                token=token,
                cache_dir=cache_folder,
                local_files_only=local_files_only,
                ignore_patterns=[*OTHER_RUNTIMES, *(() if allow_pickle else PICKLES)],
            )
        )
    except GatedRepoError as error:
        raise ModelError(
            f"{name} is gated on the hub: accept its terms there and give token="
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"there is neither a local folder {given!r} nor a repository {name!r} on the hub; "
            f"check the spelling, or give token= if it is private"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{name} has no revision {revision!r} on the hub") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelError(
            f"there is no local folder {given!r}, {name!r} was not downloaded before, and the hub "
            f"cannot be used now (no network, offline mode or local_files_only): give a folder"
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise ModelError(f"the hub refused {name!r}: {error}") from error


def inside(folder: Path, relative: str, root: Path | None = None) -> Path:
    """A path below a model folder, as a file of that folder names it.

    Links may stay inside the folder; in a download cache of the hub, where every file is a link,
    inside the repository's own cache.

    Args:
        folder: what the path is relative to.
        relative: the path.
        root: the model's own folder, in which links may stay; None: `folder` is it.

    Raises:
        ModelError: the path leaves the folder, or is none.
    """
    if not isinstance(relative, str) or "\0" in relative:
        raise ModelError(f"{folder}: {relative!r} is no path of a file")
    parts = Path(relative).parts
    if Path(relative).is_absolute() or ".." in parts or "\\" in relative or ":" in relative:
        raise ModelError(f"{folder}: path {relative!r} must be relative and stay inside the folder")
    path = folder / relative
    if not is_within(path, root or folder):
        raise ModelError(
            f"{folder}: path {relative!r} is a link to {path.resolve()}, outside of it"
        )
    return path


def is_within(path: Path, folder: Path) -> bool:
    """True where a path, all links followed, stays in a model folder or its download cache."""
    try:
        target = path.resolve()
    except (OSError, RuntimeError):  # links in a circle
        return False
    if target.parent.name == "blobs" and target.parent.parent.name.startswith("models--"):
        return True  # the hub's client filled folders with links to its cache, for years
    # In a download cache <cache>/models--org--name/snapshots/<commit>/file links to
    # <cache>/models--org--name/blobs/..., which may link to <cache>/blobs/... in turn.
    places = [own := folder.resolve()]
    for parent in own.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            cache = parent.parent.parent
            shared = [cache / "blobs"] if (cache / _SHARED_BLOBS_MARK).is_file() else []
            places = [parent.parent, *shared]
            break
    return any(target.is_relative_to(place) for place in places)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: the file is missing, or is not a JSON object.
    """
    value = read_any_json(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_any_json(path: Path) -> Any:  # noqa: ANN401  (JSON has no narrower type)
    """Read a JSON value.

    Raises:
        ModelError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing; the model folder is not complete") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, endless digits, brackets in brackets
        raise ModelError(f"{path} is not valid JSON: {short(error)}") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


def write_json(path: Path, value: object) -> None:
    """Write a JSON value, indented, UTF-8."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_weights(folder: Path, *, allow_pickle: bool) -> "dict[str, Tensor]":
    """Weights of one module, on the CPU: safetensors, or a pickle where that is allowed.

    Raises:
        ModelError: there are no weights, or only pickled ones and `allow_pickle` is False, or the
            file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / SAFE_WEIGHTS
    if path.is_file():
        with reading(path, "these weights cannot be read"):
            try:
                return dict(load_file(path))
            except SafetensorError as error:
                raise ModelError(f"{path} is damaged ({error}); fetch it again") from error
    refuse_pickle(folder, SAFE_WEIGHTS, allow_pickle=allow_pickle)
    import torch

    path = folder / PICKLED_WEIGHTS
    with reading(path, "is not a plain file of weights"):
        # weights_only: the unpickler builds tensors and containers, it calls nothing else.
        weights = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
            raise ModelError(f"{path} is not a plain file of weights: no tensors by name")
    return dict(weights)


def refuse_pickle(folder: Path, name: str, *, allow_pickle: bool) -> None:
    """Check that weights which are not in safetensors may be read from `PICKLED_WEIGHTS`.

    Raises:
        ModelError: they are missing, or they are there and `allow_pickle` is False.
    """
    if any(folder.glob("pytorch_model*.bin")):
        if not allow_pickle:
            raise ModelError(
                f"{folder} has only pickled weights ({PICKLED_WEIGHTS}); pass allow_pickle=True "
                f"(--allow-pickle) if you trust where they come from, or convert them to {name}"
            )
        return
    hint = "" if allow_pickle else (
        f"; if the repository has only {PICKLED_WEIGHTS}, it was not downloaded: "
        f"pass allow_pickle=True if you trust it"
    )  # fmt: skip
    raise ModelError(f"{folder / name} is missing{hint}")


def save_weights(folder: Path, weights: "Mapping[str, Tensor]") -> None:
    """Write the weights of one module as safetensors.

    Tensors that share memory are refused by safetensors: a module with tied weights leaves the
    alias out.
    """
    from safetensors.torch import save_file

    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    save_file(tensors, folder / SAFE_WEIGHTS, metadata={"format": "pt"})
