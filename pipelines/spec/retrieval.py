"""Specs of the retrieve, rerank and mine jobs."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from stx.pipelines.spec.alerts import Alerts
from stx.pipelines.spec.checks import trusted_code_is_pinned, without_secrets
from stx.pipelines.spec.names import NameOf
from stx.pipelines.spec.parts import (
    Dataset,
    Inputs,
    Name,
    Part,
    Resources,
    Store,
)
from stx.pipelines.spec.quality import EmptyQuality
from stx_core.mining.rules import Against, MiningRules, Sampling
from stx_core.search.first_passes import FIRST_PASSES

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]


class Snapshot(Part):
    """A dataset that stx wrote."""

    path: str
    """Folder or URL of the dataset."""
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
    first_pass: Annotated[str, NameOf(FIRST_PASSES, first=("exact",))] = "exact"
    """Who proposes documents of dense vectors. Exact: all are compared. Else small codes, or an
    index of FAISS, propose some, which are scored exactly; the report tells the recall."""
    oversample: Annotated[int, Field(ge=1)] = 4
    """Documents proposed for each that is wanted, where the first pass is not exact."""


class Fusion(Part):
    """One more ranking out of those of all retrievers; it is called ``hybrid``."""

    method: Literal["rrf", "weighted"] = "rrf"
    """Reciprocal ranks, or weighted sums of scores that are scaled to 0…1 per query."""
    k: Annotated[int, Field(ge=1)] = 60
    """Of reciprocal ranks: the larger, the less the first places count."""
    weights: dict[Name, float] = {}
    """By retriever; 1 for those that are not named."""


class RetrievalResources(Resources):
    """Of jobs whose units are queries or candidates."""

    rows_per_unit: Annotated[int, Field(ge=1)] = 4096
    """Queries, or candidates, of one unit."""
    rows_per_group: Annotated[int, Field(ge=1)] = 262_144
    """Rows of the corpus that an actor holds at once."""


class RetrieveSpec(Part):
    """The ``retrieve`` job: the `k` best documents of every query, exact."""

    queries: Snapshot
    """Dataset of the queries' vectors."""
    corpus: Snapshot
    """Dataset of the documents' vectors."""
    retrievers: dict[Name, Retriever] = {}
    """By name, which is the name of the ranking; none: one per output that both datasets have."""
    k: Annotated[int, Field(ge=1)] = 100
    """Documents for each query."""
    fusion: Fusion | None = None
    """One more ranking out of all of them; null: none."""
    positives: str | None = None
    """File with judged pairs (qrels): their scores are written too, whatever their rank."""
    exclude_same_id: bool = False
    """Leave out the document that has the id of the query."""
    same: tuple[str, ...] = ()
    """Columns of both datasets that must be equal, such as a partition."""
    other_models: bool = False
    """Allow queries and corpus of different models, as of a pair that was trained together."""
    output: Dataset
    """Dataset that it commits to."""
    resources: RetrievalResources = RetrievalResources()
    """Where it runs and how large."""
    quality: EmptyQuality = EmptyQuality()
    """Checks that the result has to pass before it is committed."""
    store: Store = Store()
    """How `s3://` is reached."""
    alerts: Alerts = Alerts()
    """Whom to tell how the job ended."""

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        if taken := {"hybrid"} & self.retrievers.keys():
            raise ValueError(f"{', '.join(taken)}: fusion writes a ranking of this name")
        return self


class Candidates(Part):
    """Pairs of query and document: a ranking that stx wrote, or a file with one."""

    path: str
    """Dataset, or a TREC run, Parquet, JSONL or ``top_ranked`` file; or a Parquet or JSONL table
    with texts in columns ``query`` and ``document``."""
    version: Annotated[int, Field(ge=1)] | None = None
    """Of the dataset; null: the current one when the job starts."""
    output: str | None = None
    """Which ranking of the dataset; needed when there are several."""
    depth: Annotated[int, Field(ge=1)] | None = None
    """Only so many of each query, by rank."""

    _no_secrets = field_validator("path")(without_secrets)


class Reranker(Part):
    """One cross-encoder; it must have a single label."""

    model: str
    """Local folder or hub name."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null: the default branch."""
    prompt: str | None = None
    """Text before every query, instead of the model's own prompt."""
    max_seq_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens of query and document together."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """What the model computes in; `auto` as for encoders."""
    trust_remote_code: bool = False
    """Run model code that comes with the model: a local folder, or a hub name with its commit."""
    allow_pickle: bool = False
    """Read weights that are a pickle, by a reader that builds tensors and calls nothing."""

    _no_secrets = field_validator("model")(without_secrets)
    _trusted_code_is_pinned = model_validator(mode="after")(trusted_code_is_pinned)


class RerankSpec(Part):
    """The ``rerank`` job: cross-encoder scores of candidates, and a ranking by them."""

    candidates: Candidates
    """Pairs to score."""
    queries: Inputs | None = None
    """Their texts; not needed where the candidates have a column ``query``."""
    documents: Inputs | None = None
    """Their texts; not needed where the candidates have a column ``document``."""
    rerankers: dict[Name, Reranker] = Field(min_length=1)
    """Cross-encoders by name, which is the name of the ranking; all in one pass."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Candidates of each query to keep, after scoring."""
    positives: str | None = None
    """File with judged pairs (qrels): they are scored too, whatever their rank."""
    output: Dataset
    """Dataset that it commits to."""
    resources: RetrievalResources = RetrievalResources()
    """Where it runs and how large."""
    quality: EmptyQuality = EmptyQuality()
    """Checks that the result has to pass before it is committed."""
    store: Store = Store()
    """How `s3://` is reached."""
    alerts: Alerts = Alerts()
    """Whom to tell how the job ended."""

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        taken = self.rerankers.keys() & {f"{name}-positives" for name in self.rerankers}
        if taken and self.positives:
            raise ValueError(f"{', '.join(sorted(taken))}: the scores of positives have this name")
        return self


FUSION = "fusion"
"""Judge of candidates by reciprocal rank fusion of all rankings; its scores have no margins."""

MiningFormat = Literal[
    "ids",
    "triplet",
    "n-tuple",
    "labeled-pair",
    "labeled-list",
    "flag_embedding",
    "tevatron",
    "tevatron-ids",
    "pylate",
    "margin_mse",
    "kl",
]
FORMATS_OF_IDS: tuple[MiningFormat, ...] = ("ids", "pylate")
"""Those that hold no texts."""


class RankingOf(Part):
    """One ranking of a dataset that stx wrote."""

    path: str
    """Folder or URL of the dataset."""
    version: Annotated[int, Field(ge=1)] | None = None
    """None: the current one when the job starts."""
    output: str | None = None
    """None: the name under which it stands in `candidates`."""
    depth: Annotated[int, Field(ge=1)] | None = None
    """Only so many of each query, by rank."""

    _no_secrets = field_validator("path")(without_secrets)


class Rules(Part):
    """What a hard negative is: the fields of `stx_core.mining.rules.MiningRules`, see there."""

    num_negatives: int = 3
    """Negatives per query at most."""
    range_min: int = 0
    """The best candidates to skip, counted among those that the other rules let pass."""
    range_max: int | None = None
    """How many of the passing candidates to look at, the skipped ones counted; null: all."""
    max_score: float | None = None
    """Reject scores above it."""
    min_score: float | None = None
    """Reject scores below it."""
    absolute_margin: float | None = None
    """Reject scores above the positive's minus this."""
    relative_margin: float | None = None
    """Reject scores above the positive's minus this share of it."""
    sampling_strategy: Sampling = "top"
    """The best candidates of the range, or random ones of it."""
    include_positives: bool = False
    """Let known positives pass as candidates, to build data for rerankers."""
    positive_share: float | None = None
    """Reject scores above this share of the positive's, such as 0.95; negative ones likewise."""
    margin_against: Against = "min"
    """Which positive of a query margins and share are measured against: the one with the lowest
    score, the mean of all, or the highest."""
    seed: int = 0
    """Of random sampling: another one gives other negatives."""
    same_id: bool = False
    """Reject a document that has the query's own id."""
    same_content: bool = False
    """Reject the text of a positive or of the query, and repeated texts."""
    near_duplicate: float | None = None
    """Reject texts at least this alike (0 to 1) to a positive or to the query."""

    @model_validator(mode="after")
    def _can_be_meant(self) -> Self:
        self.to_core()  # its error is a ValueError, too
        return self

    def to_core(self) -> MiningRules:
        """As the functions of `stx_core.mining` take them."""
        return MiningRules(**self.model_dump())


class MiningResources(Resources):
    """Of the mine job, whose units are candidates of whole queries."""

    rows_per_unit: Annotated[int, Field(ge=1)] = 262_144
    """About how many candidates of the first ranking one unit has."""


class MineSpec(Part):
    """The ``mine`` job: hard negatives out of rankings; nothing is searched or encoded."""

    candidates: dict[Name, RankingOf] = Field(min_length=1)
    """Rankings by name. The queries are those of the first."""
    judge: str | None = None
    """The ranking whose scores the rules look at, or ``fusion``; None: the first."""
    positives: str
    """File with judged pairs (qrels)."""
    queries: Inputs | None = None
    """Texts of the queries, for formats and rules that need texts."""
    documents: Inputs | None = None
    """Texts of the documents, for formats and rules that need texts."""
    rules: Rules = Rules()
    """What a hard negative is."""
    formats: tuple[MiningFormat, ...] = ()
    """Training rows to write, each as an output of its name."""
    scores: bool = False
    """Scores beside the rows, where a format leaves the choice."""
    output: Dataset
    """Dataset that it commits to."""
    resources: MiningResources = MiningResources()
    """Where it runs and how large."""
    quality: EmptyQuality = EmptyQuality()
    """Checks that the result has to pass before it is committed."""
    store: Store = Store()
    """How `s3://` is reached."""
    alerts: Alerts = Alerts()
    """Whom to tell how the job ended."""

    @property
    def judging(self) -> str:
        """Name of the judge."""
        return self.judge or next(iter(self.candidates))

    @property
    def needs_texts(self) -> bool:
        """True if a rule or a format does."""
        formats = set(self.formats) - set(FORMATS_OF_IDS)
        return bool(formats) or self.rules.to_core().needs_texts

    @model_validator(mode="after")
    def _judge_is_known(self) -> Self:
        if FUSION in self.candidates:
            raise ValueError(f"candidates: {FUSION} is the name of a judge; choose another")
        if self.judging not in (*self.candidates, FUSION):
            names = ", ".join([*self.candidates, FUSION])
            raise ValueError(f"judge: {self.judging!r} is no ranking of candidates; one of {names}")
        if self.judging == FUSION and self.rules.to_core().needs_scores:
            raise ValueError(
                "judge: fused ranks have no scores that rules could compare with those of "
                "positives; name a ranking that scored all candidates, such as one of stx rerank"
            )
        return self

    @model_validator(mode="after")
    def _texts_are_named(self) -> Self:
        rules = self.rules.to_core()
        texts = [name for name in self.formats if name not in FORMATS_OF_IDS]
        if self.documents is None and (texts or rules.needs_texts):
            raise ValueError(
                f"documents: {', '.join(texts) or 'a rule on texts'} needs the texts of documents; "
                "name their files"
            )
        if self.queries is None and texts:
            raise ValueError(f"queries: {', '.join(texts)} needs their texts; name their files")
        if repeated := {name for name in self.formats if self.formats.count(name) > 1}:
            raise ValueError(f"formats: {', '.join(sorted(repeated))} stands twice")
        return self
