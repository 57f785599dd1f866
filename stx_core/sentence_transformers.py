"""The three model classes under the name by which other programs recognise them, and a stand-in.

Some programs look for ``sentence_transformers`` in the text of a model's type, and take a model of
their own where it is missing. The classes say that they live here, so those programs see them: with
the stand-in they use the model, without it they refuse it aloud.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from stx_core.models.cross_encoder import CrossEncoder
from stx_core.models.sentence_transformer import SentenceTransformer
from stx_core.models.sparse_encoder import SparseEncoder

__all__ = ["CrossEncoder", "SentenceTransformer", "SparseEncoder", "as_sentence_transformers"]

_PACKAGE = "sentence_transformers"
# The release whose names and behaviour these are; "+stx" is a local version, greater than it.
VERSION = "6.2.0+stx"

_MODELS = dict.fromkeys(("SentenceTransformer", "SparseEncoder", "CrossEncoder"), __name__)
_UTIL = dict.fromkeys(
    ("SimilarityFunction", "quantize_embeddings", "mine_hard_negatives"), "stx_core.util"
)
# Where each module of the package gets its names; a string stands for all names of a module.
_MODULES: dict[str, Mapping[str, str] | str] = {
    "": _MODELS | _UTIL,
    ".models": "stx_core.models",
    ".util": "stx_core.util",
    ".quantization": "stx_core.quantization",
    ".similarity_functions": "stx_core.similarity",
    ".SentenceTransformer": _MODELS,
    ".sentence_transformer": _MODELS,
    ".sparse_encoder": _MODELS,
    ".cross_encoder": _MODELS,
}


def as_sentence_transformers() -> ModuleType:
    """Let ``import sentence_transformers`` give this package, in the whole process.

    For programs that import Sentence Transformers themselves, such as BERTopic or Haystack. Names
    that are not here (trainers, losses) are an ImportError there. Calling it again does nothing.

    Returns:
        The module that is imported from now on.

    Raises:
        RuntimeError: Sentence Transformers itself was imported before; both cannot be used.
    """
    present = sys.modules.get(_PACKAGE)
    if present is not None and getattr(present, "__version__", None) == VERSION:
        return present
    if present is not None:
        raise RuntimeError(
            "sentence_transformers was imported already; call as_sentence_transformers() before "
            "anything imports it"
        )
    for suffix, home in _MODULES.items():
        sys.modules[_PACKAGE + suffix] = _module(_PACKAGE + suffix, home)
    package = sys.modules[_PACKAGE]
    package.__path__ = []
    package.__version__ = VERSION  # type: ignore[attr-defined]
    for suffix in _MODULES:
        # The old module SentenceTransformer has the name of the class, which wins.
        if suffix and suffix[1:] not in _MODELS:
            setattr(package, suffix[1:], sys.modules[_PACKAGE + suffix])
    return package


def _module(name: str, home: Mapping[str, str] | str) -> ModuleType:
    """A module whose names are looked up when they are used."""
    module = ModuleType(name, f"stx_core in place of {name}.")
    module.__spec__ = ModuleSpec(name, None, is_package=name == _PACKAGE)

    def get(attribute: str) -> Any:  # noqa: ANN401  (PEP 562: any public name)
        where = home if isinstance(home, str) else home.get(attribute)
        if where is None or attribute.startswith("__"):
            raise AttributeError(f"{name} is provided by stx, which has no {attribute!r}")
        return getattr(import_module(where), attribute)

    module.__getattr__ = get  # type: ignore[method-assign]
    return module
