"""Parts of plug-ins, see docs/extending.md. Nothing is imported before it is needed."""

# As of `typing`, see `stx`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stx.pipelines.exports.forms import ExportForm as ExportForm
    from stx.pipelines.exports.options import ExportOptions as ExportOptions
    from stx.pipelines.jobs import JobEntry as JobEntry
    from stx.pipelines.spec.parts import Part as Part
    from stx.pipelines.spec.parts import Store as Store
    from stx.pipelines.spec.retrieval import Snapshot as Snapshot
    from stx_core.models.modules.module import Features as Features
    from stx_core.models.modules.module import Module as Module
    from stx_core.search.first_passes import FirstPass as FirstPass
    from stx_core.store.corpus.formats import Reader as Reader
    from stx_core.store.corpus.formats import table_reader as table_reader
    from stx_core.store.files.filesystem import open_file as open_file

_HOME = {
    "ExportForm": "stx.pipelines.exports.forms",
    "ExportOptions": "stx.pipelines.exports.options",
    "JobEntry": "stx.pipelines.jobs",
    "Part": "stx.pipelines.spec.parts",
    "Store": "stx.pipelines.spec.parts",
    "Snapshot": "stx.pipelines.spec.retrieval",
    "Features": "stx_core.models.modules.module",
    "Module": "stx_core.models.modules.module",
    "FirstPass": "stx_core.search.first_passes",
    "Reader": "stx_core.store.corpus.formats",
    "table_reader": "stx_core.store.corpus.formats",
    "open_file": "stx_core.store.files.filesystem",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> "Any":  # noqa: ANN401  (PEP 562: any public name)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
