"""Settings of the writers of all forms."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stx_core.store.log_state import OutputFacts


@dataclass(frozen=True)
class ExportOptions:
    """Settings; each writer takes those that it knows.

    Attributes:
        source: path of the dataset, for messages.
        facts: what the snapshot remembers of the output: model, similarity, rows …
        file_rows: rows of each file of the dataset, in their order.
        checksums: of each file, see `store.data_file.Written`.
        tag: name of the ranking in a TREC run file.
        columns: copied columns that go along with vectors; None for all of them.
        name: of what is made inside an engine: table, document type, namespace; None for the usual.
        recipe: description of an index as FAISS's index factory reads it.
        catalog: of Iceberg, as pyiceberg's own configuration names it.
        vocabulary: a ``tokenizer.json`` whose tokens name the dimensions of sparse vectors.
        own: options that only a plug-in's form has, as texts.
    """

    source: str
    facts: OutputFacts = field(default_factory=OutputFacts)
    file_rows: tuple[int, ...] = ()
    checksums: tuple[str, ...] = ()
    tag: str = "stx"
    columns: tuple[str, ...] | None = None
    name: str | None = None
    recipe: str | None = None
    catalog: str | None = None
    vocabulary: str | None = None
    own: Mapping[str, str] = field(default_factory=dict)
