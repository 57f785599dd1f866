"""A model as a folder of modules: ``modules.json`` and ``config_sentence_transformers.json``."""

import logging
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import NotRequired, TypedDict, cast, get_type_hints

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from torch import nn

from stx_core.errors import ModelError
from stx_core.models.contents import MODULES, module_paths
from stx_core.models.folder import inside, read_any_json, read_json, write_json
from stx_core.models.modules import module_class, saved_type
from stx_core.models.modules.module import InputModule, LoadOptions, Module
from stx_core.models.modules.word_weights import WordWeights
from stx_core.models.options import ModelSettings
from stx_core.models.settings import check_settings, shown

logger = logging.getLogger(__name__)

CONFIG = "config_sentence_transformers.json"


class ModuleEntry(TypedDict):
    """An entry of ``modules.json``."""

    idx: int
    name: str
    path: str
    type: str
    kwargs: NotRequired[list[str] | None]


# A folder without a model type was written by a library that knew only dense models.
_OLDEST_MODEL_TYPE = "SentenceTransformer"


def read_model_config(folder: Path, model_type: str) -> ModelSettings:
    """Settings of the whole model: prompts, similarity, and what its type adds; {} without a file.

    Args:
        folder: the model folder.
        model_type: class that opens it, such as ``SentenceTransformer``.

    Raises:
        ModelError: the folder holds a model of another type, or needs other package versions.
    """
    path = folder / CONFIG
    config = read_json(path) if path.is_file() else {}
    hints = get_type_hints(ModelSettings)
    check_settings(config, hints, path, closed=False)
    if unknown := sorted(set(config) - set(hints)):
        logger.warning("%s: unknown keys are not used: %s", path, ", ".join(unknown))
    for key in ("truncate_dim", "max_active_dims"):
        if (value := config.get(key)) is not None and value < 1:
            raise ModelError(f"{path}: {key} is {shown(value)}, not 1 or more")
    is_model = (folder / MODULES).is_file()
    saved_type_name = config.get("model_type", _OLDEST_MODEL_TYPE if is_model else model_type)
    if saved_type_name != model_type:
        raise ModelError(
            f"{folder} holds a {saved_type_name}, not a {model_type} (model_type in {CONFIG}): "
            f"open it with {saved_type_name}; as a {model_type} it would get untrained modules"
        )
    _check_requirements(config.get("requirements") or {}, path)
    return cast(ModelSettings, config)


def _check_requirements(
    requirements: Mapping[str, str | Mapping[str, str | None]], path: Path
) -> None:
    """Compare installed versions with those that the model's authors ask for."""
    for package, requirement in requirements.items():
        if isinstance(requirement, str):
            requirement = {"specifier": requirement}
        specifier, reason = requirement.get("specifier") or "", requirement.get("reason") or ""
        installed: str | None = platform.python_version()
        if package != "python":
            try:
                installed = metadata.version("torch" if package == "pytorch" else package)
            except metadata.PackageNotFoundError:
                installed = None
        try:
            met = installed is not None and SpecifierSet(specifier).contains(installed, True)
        except InvalidSpecifier:
            # A slip of the author's must not make the model unusable.
            logger.warning("%s: requirement %s %r cannot be read", path, package, specifier)
            continue
        if not met:
            raise ModelError(
                f"{path}: the model requires {package}{specifier}, installed is "
                f"{installed or 'none'}. {reason}".rstrip()
            )


def load_modules(
    folder: Path, options: LoadOptions
) -> tuple[dict[str, nn.Module], dict[str, list[str]]]:
    """Load the modules of ``modules.json``, in its order.

    Returns:
        Modules by name, and by name the forward arguments that the folder lists for a module.

    Raises:
        ModelError: the list is malformed, names an unknown type or a path outside of the folder,
            or a module cannot be loaded.
    """
    path = folder / MODULES
    module_paths(folder)  # checks the list
    modules: dict[str, nn.Module] = {}
    arguments: dict[str, list[str]] = {}
    for position, entry in enumerate(read_any_json(path)):
        check_settings(entry, get_type_hints(ModuleEntry), f"{path}: module {position}")
        name, relative, type_string = entry["name"], entry["path"], entry["type"]
        if name in modules or not name or "." in name:
            raise ModelError(f"{path}: module name {name!r} is empty, has a dot or appears twice")
        loaded_class = module_class(type_string, str(path))
        modules[name] = loaded_class.from_folder(inside(folder, relative, options.root), options)
        arguments[name] = list(entry.get("kwargs") or [])
    # Weights of words are looked up by the ids that the first module gives.
    first = next(iter(modules.values()))
    n_words = len(getattr(getattr(first, "tokenizer", None), "vocab", ()))
    for module in modules.values():
        if isinstance(module, WordWeights) and len(module.vocab) < n_words:
            raise ModelError(
                f"{path}: WordWeights knows {len(module.vocab)} words, the tokenizer {n_words}"
            )
    return modules, arguments


def save_model(
    folder: Path,
    modules: Mapping[str, nn.Module],
    arguments: Mapping[str, list[str]],
    config: ModelSettings,
) -> None:
    """Write a model in the layout of Sentence Transformers 6, weights as safetensors.

    Args:
        folder: created where it is missing; files of the same name are overwritten.
        modules: modules by name, in order.
        arguments: forward arguments by module name, as `load_modules` gave them.
        config: settings of the whole model.

    Raises:
        ModelError: a module is not one of ours, so that no folder could bring it back.
    """
    entries: list[ModuleEntry] = []
    for position, (name, module) in enumerate(modules.items()):
        if not isinstance(module, Module):
            raise ModelError(f"module {name} is a {type(module).__name__}, which cannot be saved")
        in_root = position == 0 and isinstance(module, InputModule)
        entry: ModuleEntry = {
            "idx": position,
            "name": name,
            "path": "" if in_root else f"{position}_{saved_type(module).rpartition('.')[2]}",
            "type": saved_type(module),
        }
        if arguments.get(name):
            entry["kwargs"] = arguments[name]
        (folder / entry["path"]).mkdir(parents=True, exist_ok=True)
        module.save(folder / entry["path"])
        entries.append(entry)
    write_json(folder / MODULES, entries)
    write_json(folder / CONFIG, config)
