"""Modules of models; `module_types` is the table of them."""

from typing import TYPE_CHECKING

from stx_core.errors import ModelError
from stx_core.models.module_types import CLASSES, MODULE_TYPES, TYPES

if TYPE_CHECKING:
    from stx_core.models.modules.module import Module

__all__ = ["TYPES", "module_class", "saved_type"]


def module_class(type_string: str, where: str) -> "type[Module]":
    """The class that a type string means.

    Args:
        type_string: ``type`` of a module, as ``modules.json`` or a router gives it.
        where: the file that names it, for the message.

    Raises:
        ModelError: the string is not in the table, and no plug-in's.
        SpecError: the plug-in cannot be used.
    """
    if not isinstance(type_string, str) or type_string not in MODULE_TYPES:
        raise ModelError(
            f"{where}: module type {type_string!r} is unknown; code from model folders is not run, "
            f"so only the module types of Sentence Transformers itself can be loaded, and those of "
            "installed plug-ins"
        )
    loaded = MODULE_TYPES[type_string]
    if type_string in TYPES:
        return loaded
    from stx_core.models.modules.module import Module

    if not issubclass(loaded, Module):
        origin = MODULE_TYPES.with_origin(type_string)
        raise ModelError(f"{where}: module type {origin} is no subclass of Module")
    return loaded


def saved_type(module: object) -> str:
    """The type string under which a module is saved, as Sentence Transformers 6 spells it.

    Raises:
        ModelError: the module is not of a known type, so no folder could bring it back.
    """
    cls = type(module)
    for type_string, plugin in MODULE_TYPES.plugins.items():
        if plugin.value == f"{cls.__module__}:{cls.__qualname__}":
            return type_string
    name = getattr(module, "saved_as", cls.__name__)
    home = f"{__name__}.{CLASSES[name][0]}" if name in CLASSES else None
    if cls.__module__ != home:
        raise ModelError(f"{cls.__module__}.{name} cannot be saved: not a known module")
    return CLASSES[name][1][-1]
