"""The table of export forms; a form's writer is imported when something is exported in it."""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal, cast

from stx_core.plugins import Registry, load

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from stx.pipelines.exports.options import ExportOptions

    # Streams a dataset to a place; gives the rows that are there then.
    Writer = Callable[[ds.FileSystemDataset, str, ExportOptions], int]


@dataclass(frozen=True)
class ExportForm:
    """A form that an output of a dataset can be written in.

    Attributes:
        write: ``module:name`` of a function ``(dataset, destination, options) -> rows``. It streams
            the dataset (`pyarrow.dataset.FileSystemDataset`) to the place and gives how many rows
            are there then; ``options`` are `ExportOptions`.
        holds: what it takes: any output, rankings, or vectors.
        options: names of those that it takes beside ``tag``: fields of `ExportOptions`, or its own
            (`ExportOptions.own`).
        one_file: the destination is a single file, which may lie anywhere.
    """

    write: str
    holds: Literal["any output", "rankings", "vectors"] = "vectors"
    options: tuple[str, ...] = ()
    one_file: bool = False

    def writer(self) -> "Writer":
        """The function, imported now.

        Raises:
            SpecError: it cannot be.
        """
        if self.write.startswith("stx."):
            return cast("Writer", resolve_name(self.write))
        return cast("Writer", load(self.write, "export form"))


def _form(place: str, *options: str, one_file: bool = False) -> ExportForm:
    """A form of stx itself that holds vectors."""
    return ExportForm(f"stx.pipelines.exports.{place}", "vectors", options, one_file)


FORMS: Registry[ExportForm] = Registry(
    "stx.exports",
    "export form",
    {
        "trec": ExportForm("stx.pipelines.exports.trec:write_trec", "rankings", one_file=True),
        "top_ranked": ExportForm(
            "stx.pipelines.exports.top_ranked:write_top_ranked", "rankings", one_file=True
        ),
        "jsonl": ExportForm("stx.pipelines.exports.jsonl:write_jsonl", "any output", one_file=True),
        "parquet": ExportForm("stx.pipelines.exports.parquet_folder:write_parquet", "any output"),
        "huggingface": _form("huggingface:write_huggingface", "columns"),
        "lance": _form("lakes:write_lance", "columns"),
        "delta": _form("lakes:write_delta", "columns"),
        "iceberg": _form("lakes:write_iceberg", "catalog", "columns"),
        "qdrant": _form("qdrant:write_qdrant", "columns"),
        "milvus": _form("bulk_parquet:write_milvus", "columns"),
        "pinecone": _form("bulk_parquet:write_pinecone", "name", "columns"),
        "pgvector": _form("pgvector:write_pgvector", "name", "columns"),
        "elasticsearch": _form("bulk:write_elasticsearch", "vocabulary", "columns"),
        "opensearch": _form("bulk:write_opensearch", "columns"),
        "vespa": _form("feeds:write_vespa", "name", "vocabulary", "columns"),
        "faiss": _form("indexes:write_faiss", "recipe", "columns"),
        "usearch": _form("indexes:write_usearch", "columns"),
        "anserini": _form("feeds:write_anserini", "vocabulary"),
        "seismic": _form("feeds:write_seismic", "vocabulary"),
        "ciff": _form("ciff:write_ciff", "vocabulary", one_file=True),
    },
    expected=ExportForm,
)


def forms_in_words() -> str:
    """All names, by what they take; those of plug-ins, with their distributions, last."""
    by_kind: dict[str, list[str]] = {}
    for name, form in FORMS.own().items():
        by_kind.setdefault(form.holds, []).append(name)
    if added := [FORMS.with_origin(name) for name in FORMS if name in FORMS.plugins]:
        by_kind["of plug-ins"] = added
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in by_kind.items())
