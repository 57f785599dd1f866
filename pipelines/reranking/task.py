"""What `rerank` scores: candidates, where their texts are, and by which models."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from stx.pipelines.models.settings import RerankerSettings, fingerprint, reranker_settings
from stx.pipelines.planning.corpus import Corpus, list_corpus
from stx.pipelines.planning.dtype import settled
from stx.pipelines.planning.snapshot_files import digest
from stx.pipelines.reranking.candidates import Found, find_candidates
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
class RerankTask:
    """What is to be scored, and by what.

    Attributes:
        found: the candidates.
        corpora: where texts are, by side: ``queries``, ``documents``; absent if not needed.
        rerankers: settings by name.
        asked: what else decides the rankings, as JSON values.
    """

    found: Found
    corpora: Mapping[str, tuple[Inputs, Corpus]]
    rerankers: Mapping[str, RerankerSettings]
    asked: Mapping[str, Any]

    @property
    def sources(self) -> dict[str, tuple[str, bool]]:
        """By output: its reranker, and whether it is of positives."""
        positives = [True] if self.asked["positives"] else []
        return {
            name + POSITIVES * of_positives: (name, of_positives)
            for of_positives in [False, *positives]
            for name in self.rerankers
        }

    @property
    def schemas(self) -> dict[str, pa.Schema]:
        """By output, of its files."""
        kinds = [self.found.schema.field(name).type for name in ("query_id", "doc_id")]
        ranking = ranking_schema(*kinds)
        for field in (pa.field("before_rank", pa.int32()), pa.field("before_score", pa.float32())):
            ranking = ranking.append(field)
        pairs = pairs_schema(*kinds)
        return {name: pairs if judged else ranking for name, (_, judged) in self.sources.items()}

    def fingerprint(self, reranker: str) -> str:
        """Hash of what decides a reranker's results, beside the candidates."""
        return digest([fingerprint(self.rerankers[reranker]), dict(self.asked)])

    @property
    def keys(self) -> dict[str, tuple[str, ...]]:
        """By output, one of each unit."""
        return {
            output: tuple(
                unit_key(unit, {"output": output, "by": self.fingerprint(name)})
                for unit in self.found.units
            )
            for output, (name, _) in self.sources.items()
        }

    @property
    def facts(self) -> dict[str, dict[str, Any]]:
        """What a snapshot remembers of each output."""
        return {
            output: {
                "type": "positives" if judged else "ranking",
                "fingerprint": self.fingerprint(name),
                "model": redact(self.rerankers[name].model),
                "settings": asdict(self.rerankers[name]),
                "top_k": self.asked["top_k"],
                "candidates": self.found.source | {"depth": self.asked["depth"]},
            }
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
    found = find_candidates(spec.candidates, spec.resources.rows_per_unit)
    corpora = {}
    for side, column, inputs in (
        ("queries", "query", spec.queries),
        ("documents", "document", spec.documents),
    ):
        if inputs is not None:
            corpora[side] = (inputs, list_corpus(inputs))
        elif column not in found.schema.names or (side == "documents" and spec.positives):
            raise SpecError(
                f"{side}: needed for the texts, as "
                + (f"{redact(spec.candidates.path)} has no column {column!r}"
                   if column not in found.schema.names else "positives are documents by id")
                + f"; set {side}.path"
            )  # fmt: skip
    rerankers = {name: reranker_settings(model) for name, model in spec.rerankers.items()}
    rerankers = settled(rerankers, spec.output.path, spec.resources)
    asked = {
        "top_k": spec.top_k,
        "depth": spec.candidates.depth,
        "positives": spec.positives and file_info(spec.positives).identity,
        "texts": {side: _identity(*each) for side, each in corpora.items()},
        "types": {field.name: str(field.type) for field in found.schema},
        "format": _FORMAT,
    }
    return RerankTask(found, corpora, rerankers, asked)


def _identity(inputs: Inputs, corpus: Corpus) -> list[Any]:
    shards = digest([[shard.url, shard.identity] for shard in corpus.shards])
    return [inputs.model_dump(mode="json", exclude={"path", "columns"}), shards]
