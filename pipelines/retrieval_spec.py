"""What the specs of retrieve, rerank and mine may say."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines.spec import (
    Inputs,
    Model,
    Name,
    Part,
    Resources,
    Store,
    committable,
    without_secrets,
)

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]


class Snapshot(Part):
    """A dataset that stx wrote."""

    path: str
    version: Annotated[int, Field(ge=1)] | None = None
    """None: the current one when the job starts."""

    _no_secrets = field_validator("path")(without_secrets)


class Retriever(Part):
    """One way to find documents: an output of the corpus and one of the queries."""

    output: str | None = None
    """Of the corpus; None: the retriever's name."""
    query_output: str | None = None
    """Of the queries; None: the same name as `output`."""
    similarity: Similarity | None = None
    """None: the one that the model says."""


class Fusion(Part):
    """One more ranking out of those of all retrievers; it is called ``hybrid``."""

    method: Literal["rrf", "weighted"] = "rrf"
    """Reciprocal ranks, or weighted sums of scores that are scaled to 0…1 per query."""
    k: Annotated[int, Field(ge=1)] = 60
    """Of reciprocal ranks: the larger, the less the first places count."""
    weights: dict[Name, float] = {}
    """By retriever; 1 for those that are not named."""


class RankingOutput(Part):
    """Where a ranking is written."""

    path: str

    _can_be_committed_to = field_validator("path")(committable)


class RetrievalResources(Resources):
    """Of jobs whose units are queries or candidates."""

    rows_per_unit: Annotated[int, Field(ge=1)] = 4096
    """Queries, or candidates, of one unit."""
    rows_per_group: Annotated[int, Field(ge=1)] = 262_144
    """Rows of the corpus that an actor holds at once."""


class RetrieveSpec(Part):
    """The ``retrieve`` job: the `k` best documents of every query, exact."""

    queries: Snapshot
    corpus: Snapshot
    retrievers: dict[Name, Retriever] = {}
    """By name, which is the name of the ranking; none: one per output that both datasets have."""
    k: Annotated[int, Field(ge=1)] = 100
    fusion: Fusion | None = None
    positives: str | None = None
    """File with judged pairs (qrels): their scores are written too, whatever their rank."""
    exclude_same_id: bool = False
    """Leave out the document that has the id of the query."""
    same: tuple[str, ...] = ()
    """Columns of both datasets that must be equal, such as a partition."""
    other_models: bool = False
    """Allow queries and corpus of different models, as of a pair that was trained together."""
    output: RankingOutput
    resources: RetrievalResources = RetrievalResources()
    store: Store = Store()

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        if taken := {"hybrid"} & self.retrievers.keys():
            raise ValueError(f"{', '.join(taken)}: fusion writes a ranking of this name")
        return self


class Candidates(Part):
    """Pairs of query and document: a ranking that stx wrote, or a file with one."""

    path: str
    """Dataset, or a TREC run, Parquet, JSONL or ``top_ranked`` file."""
    version: Annotated[int, Field(ge=1)] | None = None
    output: str | None = None
    """Which ranking of the dataset; needed when there are several."""
    depth: Annotated[int, Field(ge=1)] | None = None
    """Only so many of each query, by rank."""

    _no_secrets = field_validator("path")(without_secrets)


class RerankSpec(Part):
    """The ``rerank`` job: cross-encoder scores of candidates, and a ranking by them."""

    candidates: Candidates
    queries: Inputs
    documents: Inputs
    rerankers: dict[Name, Model] = Field(min_length=1)
    """Cross-encoders by name, which is the name of the ranking; all in one pass."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Candidates of each query to keep, after scoring."""
    positives: str | None = None
    """File with judged pairs (qrels): they are scored too, whatever their rank."""
    output: RankingOutput
    resources: RetrievalResources = RetrievalResources()
    store: Store = Store()
