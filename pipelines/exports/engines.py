"""Packages of engines, which are optional."""

import importlib
from types import ModuleType

from stx_core.errors import SpecError


def load_engine(module: str, form: str, extra: str) -> ModuleType:
    """Import a package that only one form needs.

    Raises:
        SpecError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise SpecError(
            f"--format {form} needs {package} ({error}): pip install 'stx[{extra}]'"
        ) from error
