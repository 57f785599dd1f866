"""stx from Python: the jobs as functions, and what they wrote as an object.

    import stx

    stx.encode("encode.yaml")                                   # the spec file of `stx encode`
    stx.encode(inputs="docs/*.parquet", models={"dense": "all-MiniLM-L6-v2"}, output="out")
    documents = stx.open("out")
    documents.search("how do plants eat", top_k=3)

A job takes a spec file, a dictionary, or an object of its spec class; and keys of the spec as
keywords, which go before those. All keys are in `docs/spec.md`. Where a part of a spec is a place,
a string means its ``path``; where it is a model, its ``model``. What a job returns is its report;
it prints nothing, and what it logs goes to the loggers ``stx.pipelines`` and ``stx_core``.
``alerts`` are for commands: a function tells nobody. An error of the spec, the input, a model or
the store is a `StxError`.

Nothing is imported before it is needed.
"""

from stx.version import __version__

# As of `typing`, which is not imported: not even that may come from the folder a command starts in.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stx.functions import encode as encode
    from stx.functions import evaluate as evaluate
    from stx.functions import export as export
    from stx.functions import mine as mine
    from stx.functions import open as open
    from stx.functions import rerank as rerank
    from stx.functions import retrieve as retrieve
    from stx.functions import run as run
    from stx.functions import sample as sample
    from stx.snapshot import Snapshot as Snapshot
    from stx_core.errors import InputError as InputError
    from stx_core.errors import ModelError as ModelError
    from stx_core.errors import SpecError as SpecError
    from stx_core.errors import StoreError as StoreError
    from stx_core.errors import StxError as StxError

_HOME = {
    "encode": "stx.functions",
    "evaluate": "stx.functions",
    "export": "stx.functions",
    "mine": "stx.functions",
    "open": "stx.functions",
    "rerank": "stx.functions",
    "retrieve": "stx.functions",
    "run": "stx.functions",
    "sample": "stx.functions",
    "Snapshot": "stx.snapshot",
    "InputError": "stx_core.errors",
    "ModelError": "stx_core.errors",
    "SpecError": "stx_core.errors",
    "StoreError": "stx_core.errors",
    "StxError": "stx_core.errors",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> "Any":  # noqa: ANN401  (PEP 562: any public name)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
