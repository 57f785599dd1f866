"""The task of `rerank`: candidates, where their texts are, and the models that score them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from stx.pipelines.engine.passes import Facts, to_facts
from stx.pipelines.models.settings import RerankerSettings, fingerprint, reranker_settings
from stx.pipelines.planning.corpus import Corpus, list_corpus
from stx.pipelines.planning.dtype import settled
from stx.pipelines.planning.mapping import map_code
from stx.pipelines.planning.snapshot_files import digest
from stx.pipelines.reranking.candidates import CandidateUnits, find_candidates
from stx.pipelines.retrieval.rankings import pairs_schema, ranking_schema
from stx.pipelines.retrieval.retrievers import POSITIVES
from stx.pipelines.spec.parts import Inputs
from stx.pipelines.spec.retrieval import RerankSpec
from stx_core.errors import SpecError
from stx_core.store.corpus.units import unit_key
from stx_core.store.files.filesystem import file_info
from stx_core.store.files.urls import redact

# Part of every key: raise it when the same work would give other files.
_FORMAT = 1


@dataclass(frozen=True)
class TaskSettings:
    """Settings that decide the rankings, beside the models.

    Attributes:
        top_k: candidates of each query to keep; None for all.
        depth: candidates of each query to score; None for all.
        positives: identity of the file with judged pairs; None for none.
        texts: by side, how texts are read, and the hash of the shards.
        types: of the candidates' columns.
        format: of the files.
    """

    top_k: int | None
    depth: int | None
    positives: str | None
    texts: Mapping[str, Sequence[object]]
    types: Mapping[str, str]
    format: int = _FORMAT


@dataclass(frozen=True)
class RerankedFacts:
    """Facts of an output that a snapshot keeps."""

    type: str
    fingerprint: str
    model: str
    settings: RerankerSettings
    top_k: int | None
    candidates: Mapping[str, str | int | None]


@dataclass(frozen=True)
class RerankTask:
    """Pairs to score, and models to score them.

    Attributes:
        candidates: cut into units.
        corpora: where texts are, by side: ``queries``, ``documents``; absent if not needed.
        rerankers: settings by name.
        settings: of the spec.
    """

    candidates: CandidateUnits
    corpora: Mapping[str, tuple[Inputs, Corpus]]
    rerankers: Mapping[str, RerankerSettings]
    settings: TaskSettings

    @property
    def sources(self) -> dict[str, tuple[str, bool]]:
        """By output: its reranker, and true for those of positives."""
        positives = [True] if self.settings.positives else []
        return {
            name + POSITIVES * of_positives: (name, of_positives)
            for of_positives in [False, *positives]
            for name in self.rerankers
        }

    @property
    def schemas(self) -> dict[str, pa.Schema]:
        """By output, of its files."""
        kinds = [self.candidates.schema.field(name).type for name in ("query_id", "doc_id")]
        ranking = ranking_schema(*kinds)
        for field in (pa.field("before_rank", pa.int32()), pa.field("before_score", pa.float32())):
            ranking = ranking.append(field)
        pairs = pairs_schema(*kinds)
        return {name: pairs if judged else ranking for name, (_, judged) in self.sources.items()}

    def fingerprint(self, reranker: str) -> str:
        """Hash of what decides a reranker's results, beside the candidates."""
        return digest([fingerprint(self.rerankers[reranker]), asdict(self.settings)])

    @property
    def keys(self) -> dict[str, tuple[str, ...]]:
        """By output, one of each unit."""
        return {
            output: tuple(
                unit_key(unit, {"output": output, "by": self.fingerprint(name)})
                for unit in self.candidates.units
            )
            for output, (name, _) in self.sources.items()
        }

    @property
    def facts(self) -> Facts:
        """Facts of each output for the snapshot, see `RerankedFacts`."""
        candidates = {**asdict(self.candidates.source), "depth": self.settings.depth}
        return {
            output: to_facts(
                RerankedFacts(
                    type="positives" if judged else "ranking",
                    fingerprint=self.fingerprint(name),
                    model=redact(self.rerankers[name].model),
                    settings=self.rerankers[name],
                    top_k=self.settings.top_k,
                    candidates=candidates,
                )
            )
            for output, (name, judged) in self.sources.items()
        }


def find_task(spec: RerankSpec) -> RerankTask:
    """Look all inputs up.

    Raises:
        SpecError: texts are missing, or the dataset has no such ranking.
        InputError: an input cannot be used.
        ModelError: a reranker is not there.
        StoreError: there is no such snapshot.
    """
    candidates = find_candidates(spec.candidates, spec.resources.rows_per_unit)
    corpora = {}
    for side, column, inputs in (
        ("queries", "query", spec.queries),
        ("documents", "document", spec.documents),
    ):
        if inputs is not None:
            corpora[side] = (inputs, list_corpus(inputs))
        elif column not in candidates.schema.names or (side == "documents" and spec.positives):
            raise SpecError(
                f"{side}: needed for the texts, as "
                + (f"{redact(spec.candidates.path)} has no column {column!r}"
                   if column not in candidates.schema.names else "positives are documents by id")
                + f"; set {side}.path"
            )  # fmt: skip
    rerankers = {name: reranker_settings(model) for name, model in spec.rerankers.items()}
    rerankers = settled(rerankers, spec.output.path, spec.resources)
    texts = {}
    for side, (inputs, corpus) in corpora.items():
        shards = digest([[shard.url, shard.identity] for shard in corpus.shards])
        values = inputs.model_dump(mode="json", exclude={"path", "columns"})
        texts[side] = [values, shards, *map_code(inputs)]
    settings = TaskSettings(
        top_k=spec.top_k,
        depth=spec.candidates.depth,
        positives=spec.positives and file_info(spec.positives).identity,
        texts=texts,
        types={field.name: str(field.type) for field in candidates.schema},
    )
    return RerankTask(candidates, corpora, rerankers, settings)
