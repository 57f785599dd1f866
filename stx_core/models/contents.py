"""Contents of a model folder: its modules, the files that loading reads, and their hash.

Loading reads files of four kinds: those of the folder itself, those of the folders that
``modules.json`` and routers name, those that other files name (shards of an index, a table of
weights, the base of an adapter), and code where that is trusted. All of them lie in the folder, and
all of them are hashed.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from stx_core.errors import ModelError
from stx_core.models.folder import (
    OTHER_RUNTIMES,
    PICKLED_WEIGHTS,
    PICKLES,
    SAFE_WEIGHTS,
    inside,
    is_within,
    read_any_json,
    read_json,
    resolve_folder,
)
from stx_core.models.module_types import MODULE_TYPES
from stx_core.plugins import source_hash

MODULES = "modules.json"
ROUTER_CONFIGS = ("router_config.json", "config.json")
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_SAFE_INDEX, _PICKLED_INDEX = f"{SAFE_WEIGHTS}.index.json", f"{PICKLED_WEIGHTS}.index.json"

# Files that cannot change a vector: texts about the model, version control, traces of training.
# They count where another file names them, or where they are in a module's folder of such a name.
_WITHOUT_EFFECT = (
    ".*", "*/.*", "*.md", "LICENSE*", "NOTICE*", "*.png", "*.jpg", "*.svg", "*.pdf", "*.csv",
    "training_args.bin", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*", "checkpoint-*",
    "trainer_state.json", "eval/*", "runs/*", "logs/*", "events.out.tfevents*", "*/__pycache__/*",
)  # fmt: skip

# Settings by which a tokenizer of transformers would open another file, or take text for an object.
_TOKENIZER_SOURCES = ("gguf_file", "tokenizer_object", "vocab", "merges")

# Where a tokenizer was once saved or loaded from: written by old versions, read by none.
_TRACES = ("name_or_path", "special_tokens_map_file", "full_tokenizer_file")


@dataclass(frozen=True)
class Base:
    """The checkpoint that an adapter changes.

    Attributes:
        folder: of the checkpoint.
        is_inside: it lies in the adapter's own model folder.
    """

    folder: Path
    is_inside: bool


def module_folders(folder: Path) -> dict[str, Path]:
    """Folders of all modules by their path in the model folder; that itself, "", comes first.

    Raises:
        ModelError: a list of modules is malformed, or a module lies outside of the folder.
    """
    folders = {"": folder}
    if (folder / MODULES).is_file():
        for relative in module_paths(folder):
            folders.setdefault(relative.rstrip("/"), inside(folder, relative))
    waiting = list(folders.items())
    while waiting:
        relative, parent = waiting.pop()
        configs = [_json_if_there(parent / name) for name in ROUTER_CONFIGS]
        routers = [c for c in configs if "structure" in c and isinstance(c.get("types"), dict)]
        for name in routers[0]["types"] if routers else ():
            path = (Path(relative) / name).as_posix()
            if path not in folders:
                folders[path] = inside(parent, name, folder)
                waiting.append((path, folders[path]))
    return folders


def module_paths(folder: Path) -> list[str]:
    """``path`` of each module in ``modules.json``.

    Raises:
        ModelError: the file is malformed.
    """
    path = folder / MODULES
    entries = read_any_json(path)
    if not isinstance(entries, list) or not entries:
        raise ModelError(f"{path}: expected a list of modules, found {type(entries).__name__}")
    for position, entry in enumerate(entries):
        texts = (
            [entry.get(key) for key in ("name", "path", "type")]
            if isinstance(entry, dict)
            else [None]
        )
        if not all(isinstance(text, str) for text in texts):
            raise ModelError(f"{path}: module {position} needs name, path and type, three texts")
    return [entry["path"] for entry in entries]


# --- What files name -----------------------------------------------------------------------------


def adapter_base(
    folder: Path,
    *,
    token: str | bool | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
    allow_pickle: bool = False,
) -> Base | None:
    """The checkpoint under an adapter: a folder in its own, or a folder or name of a hub elsewhere.

    Args:
        folder: of a backbone; None comes back where it holds no adapter.
        token: access token of the hub.
        cache_folder: where downloads are kept.
        local_files_only: never use the network.
        allow_pickle: download ``.bin`` weights too.

    Raises:
        ModelError: the adapter names no base, or one that is not there or an adapter itself.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return None
    config = read_json(path)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        raise ModelError(f"{path}: base_model_name_or_path is missing, or no text")
    if revision is not None and not isinstance(revision, str):
        raise ModelError(f"{path}: revision {revision!r} is no text")
    if ".." in Path(name).parts:
        raise ModelError(
            f"{path}: base_model_name_or_path {name!r} leaves the folder; write its whole path, or "
            "its name on the hub"
        )
    is_inside = "\0" not in name and (folder / name).is_dir() and is_within(folder / name, folder)
    base = folder / name if is_inside else resolve_folder(
        name,
        default_org=None,
        revision=revision,
        token=token,
        cache_folder=cache_folder,
        local_files_only=local_files_only,
        allow_pickle=allow_pickle,
    )  # fmt: skip
    if (base / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{folder}: the base {base} is an adapter itself; merge it first")
    return Base(base, is_within(base, folder))


def weight_files(folder: Path) -> list[str]:
    """Files that hold a checkpoint's weights, and their index, in the order in which one is taken.

    Raises:
        ModelError: an index is malformed, or names a file outside of the folder.
    """
    config = _json_if_there(folder / "config.json")
    named = config.get("transformers_weights") if "model_type" in config else None
    candidates: tuple[str, ...] = (SAFE_WEIGHTS, _SAFE_INDEX, PICKLED_WEIGHTS, _PICKLED_INDEX)
    if named is not None:
        inside(folder, named)
        candidates = (named, *candidates)
    first = next((name for name in candidates if (folder / name).is_file()), None)
    if first is None or not first.endswith(".index.json"):
        return [] if first is None else [first]
    path = folder / first
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"{path}: weight_map is no object that names a file for each weight")
    for name in shards.values():
        inside(path.parent, name)
    return [first, *sorted(set(shards.values()))]


def _named_files(folder: Path) -> Iterator[str]:
    """Files of a module that other files name, or that are read under any name."""
    yield from weight_files(folder)
    adapter = ADAPTER_WEIGHTS, "adapter_model.bin"
    if (folder / ADAPTER_CONFIG).is_file():
        yield from [name for name in adapter if (folder / name).is_file()][:1]
    config = _json_if_there(folder / "config.json")
    table = None if "model_type" in config else config.get("path")  # of token weights, as JSON
    tokenizer = _json_if_there(folder / "tokenizer_config.json")
    versions = tokenizer.get("fast_tokenizer_files")
    for value in (table, *(versions if isinstance(versions, list) else ())):
        if isinstance(value, str) and value:
            inside(folder, value)
            yield value
    for pattern in ("*.py", "additional_chat_templates/*.jinja"):
        yield from (path.relative_to(folder).as_posix() for path in folder.glob(pattern))


def _json_if_there(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none, or nothing that names files: loading will say so."""
    try:
        return read_json(path)
    except ModelError:
        return {}


# --- The whole -----------------------------------------------------------------------------------


def files_of(folder: Path) -> dict[str, Path]:
    """All files that can change a model's output, by their path in the folder.

    Unknown files count, so that nothing that matters is forgotten. Left out are texts about the
    model, traces of training, weights of other runtimes, and pickled weights beside safetensors,
    unless a file of the folder names them.

    Raises:
        ModelError: a file that names others is malformed, or names what is not in the folder.
    """
    files = {}
    for module, path in module_folders(folder).items():
        chosen = set(_named_files(path))
        for place, _, names in os.walk(path):
            with_pickles = not any(name.endswith(".safetensors") for name in names)
            patterns = _WITHOUT_EFFECT + OTHER_RUNTIMES + (() if with_pickles else PICKLES)
            for name in names:
                relative = (Path(place) / name).relative_to(path).as_posix()
                if not any(fnmatch(relative, p) or fnmatch(name, p) for p in patterns):
                    chosen.add(relative)
        for name in chosen:
            if (path / name).is_file():
                files[(Path(module) / name).as_posix()] = path / name
    return files


def check_contents(folder: Path, *, allow_pickle: bool, trust_remote_code: bool) -> None:
    """Check, before anything is loaded, that all that would be read lies in the folder.

    Raises:
        ModelError: a file is a link that leaves the folder, a file names one outside of it, an
            index names pickles and these are not allowed, or code lies somewhere else.
    """
    for relative, path in files_of(folder).items():
        if not is_within(path, folder):
            raise ModelError(
                f"{folder}: {relative} is a link to {path.resolve()}, outside of the folder; put "
                "the file itself there"
            )
    for path in module_folders(folder).values():
        index, *shards = weight_files(path) or [""]
        pickles = [name for name in shards if not name.endswith(".safetensors")]
        if pickles and index.endswith(".safetensors.index.json") and not allow_pickle:
            raise ModelError(
                f"{path / index} names {pickles[0]}, which is no safetensors file; pass "
                "allow_pickle=True (--allow-pickle) if you trust where it comes from"
            )
        _check_tokenizer(path)
        for config in path.glob("*.json") if trust_remote_code else ():
            for reference in _auto_map(config):
                if "--" not in reference:
                    inside(path, reference)


def _check_tokenizer(folder: Path) -> None:
    """A tokenizer's settings may not name files elsewhere, nor take the place of its files."""
    path = folder / "tokenizer_config.json"
    config = _json_if_there(path)
    for key in _TOKENIZER_SOURCES:
        if isinstance(config.get(key), str):
            raise ModelError(f"{path}: {key} {config[key]!r} names a file of its own; remove it")
    for key, value in config.items():
        for text in value if isinstance(value, list) else [value]:
            if key in _TRACES or not isinstance(text, str) or "\0" in text or len(text) > 4096:
                continue
            # Published tokenizers name the places where they were once trained. Only what is there
            # could be read; but a path that climbs out of the folder is no such trace.
            climbs = key.endswith(("_file", "_files")) and ".." in Path(text).parts
            if climbs or (os.path.isfile(text) and not is_within(folder / text, folder)):
                raise ModelError(f"{path}: {key} {text!r} is outside of the folder; remove it")


def refuse_foreign_code(folder: Path) -> None:
    """Check that trusted code lies in the model folder, where the fingerprint covers it.

    A class named ``other/repository--file.Class`` would be downloaded from there, at whatever
    commit is newest.

    Raises:
        ModelError: a config file names code of another repository, or in another folder.
    """
    for path in sorted(folder.rglob("*.json")):
        for reference in _auto_map(path):
            if "--" in reference:
                raise ModelError(
                    f"{path} names code of another repository ({reference!r}), which no revision "
                    "pins; copy that code into the model folder and name it without '--'"
                )
            if "/" in reference:
                raise ModelError(
                    f"{path} names code in another folder ({reference!r}), which is not hashed; "
                    "put it beside this file"
                )


def _auto_map(path: Path) -> Iterator[str]:
    """Classes that a config file wants loaded from code beside the weights."""
    try:
        value = read_any_json(path)
    except ModelError:
        return
    named = value.get("auto_map") if isinstance(value, dict) else None
    entries = (
        named.values() if isinstance(named, dict) else named if isinstance(named, list) else ()
    )
    for entry in entries:
        yield from (str(item) for item in (entry if isinstance(entry, list) else [entry]))


def fingerprint_files(folder: Path, **options: Any) -> str:  # noqa: ANN401
    """Hash of all files that can change a model's output, see `files_of`: sha256, hex.

    A git clone and a download of the same model have the same one. The base of an adapter is part
    of it, wherever it lies; so is the code of plug-ins whose module types it names.

    Args:
        folder: the model.
        **options: how a base on the hub is opened, see `adapter_base`.

    Raises:
        ModelError: see `files_of` and `adapter_base`; or a file cannot be read.
    """
    digest = hashlib.sha256()
    for relative, path in sorted(files_of(folder).items()):
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
        digest.update(f"{relative}\0{content}\n".encode())
    for module, path in module_folders(folder).items():
        if base := adapter_base(path, **options):
            digest.update(f"base of {module}\0{fingerprint_files(base.folder)}\n".encode())
    for type_string in _types_of_plugins(folder):
        code = source_hash(MODULE_TYPES[type_string])
        digest.update(f"code of {type_string}\0{code}\n".encode())
    return digest.hexdigest()


def _types_of_plugins(folder: Path) -> list[str]:
    """Module types of a model that are a plug-in's, sorted."""
    if not MODULE_TYPES.plugins:
        return []
    entries = read_any_json(folder / MODULES) if (folder / MODULES).is_file() else []
    types = [entry.get("type") for entry in entries]
    for path in module_folders(folder).values():
        for config in (_json_if_there(path / name) for name in ROUTER_CONFIGS):
            routes = config.get("types")
            types += routes.values() if isinstance(routes, dict) else ()
    return sorted({name for name in types if isinstance(name, str)} & MODULE_TYPES.plugins.keys())
