"""What `mine` reads: rankings, judged pairs and texts; its units, and what decides their files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from stx.pipelines.mining.formats import needs_texts
from stx.pipelines.mining.stage import STATISTICS
from stx.pipelines.planning.corpus import Corpus, list_corpus
from stx.pipelines.planning.snapshot_files import DataFile, digest, files_digest, snapshot_data
from stx.pipelines.retrieval.query_spans import query_starts
from stx.pipelines.retrieval.rankings import ranking_schema
from stx.pipelines.retrieval.retrievers import positives_output
from stx.pipelines.spec.parts import Inputs
from stx.pipelines.spec.retrieval import FUSION, MineSpec, MiningFormat, RankingOf
from stx_core.errors import InputError, SpecError
from stx_core.evaluation.files import list_parts
from stx_core.store.corpus.units import Unit, unit_key
from stx_core.store.files.filesystem import file_info
from stx_core.store.files.urls import redact
from stx_core.store.snapshot import SnapshotInfo, output_schema, snapshot_info, snapshot_state

# Part of every key: raise it when the same work would give other files.
_FORMAT = 1


@dataclass(frozen=True)
class Ranking:
    """A ranking whose documents are candidates, or scores of judged pairs.

    Attributes:
        path: of the dataset, version of its snapshot, output of it.
        files: with rows, in corpus order.
        depth: how many documents of a query count; None for all.
    """

    path: str
    version: int
    output: str
    files: tuple[DataFile, ...]
    depth: int | None = None

    @property
    def identity(self) -> list[Any]:
        """Differs when the candidates do."""
        return [files_digest(self.files), self.depth]


@dataclass(frozen=True)
class Mining:
    """All that is read.

    Attributes:
        rankings: by name, in the order of the spec.
        scored: scores of judged pairs by the judge; None where it has none.
        units: rows of the first ranking, whole queries.
        query_type: Arrow type of the queries' ids.
        doc_type: of the documents' ids.
        rules: what decides all outputs beside the rankings, as JSON values.
        texts: what more decides outputs with texts.
        queries: files with the texts of queries; None if none are named.
        documents: likewise, of documents.
    """

    rankings: Mapping[str, Ranking]
    scored: Ranking | None
    units: tuple[Unit, ...]
    query_type: pa.DataType
    doc_type: pa.DataType
    rules: Mapping[str, Any]
    texts: Mapping[str, Any]
    queries: Corpus | None
    documents: Corpus | None

    @property
    def first(self) -> Ranking:
        """The ranking whose rows the units are."""
        return next(iter(self.rankings.values()))

    @cached_property
    def _base(self) -> str:
        read = {name: each.identity for name, each in self.rankings.items()}
        scored = self.scored and self.scored.identity
        # A list: the first ranking has the queries.
        return digest([dict(self.rules), list(read.items()), scored, _FORMAT])

    def fingerprint(self, output: str) -> str:
        """Hash of what decides an output."""
        texts = dict(self.texts) if output in get_args(MiningFormat) and needs_texts(output) else {}
        return digest([self._base, output, texts])

    def keys(self, fingerprints: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """By output, one of each unit."""
        return {
            output: tuple(
                unit_key(unit, {"output": output, "mined": fingerprint}) for unit in self.units
            )
            for output, fingerprint in fingerprints.items()
        }

    def facts(self, spec: MineSpec, fingerprints: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """What a snapshot remembers of each output."""
        read = {
            name: {"path": redact(each.path), "version": each.version, "output": each.output}
            for name, each in self.rankings.items()
        }
        told = {
            "candidates": read,
            "judge": spec.judging,
            "positives": redact(spec.positives),
            "rules": spec.rules.model_dump(mode="json"),
        }
        return {
            name: {
                "type": STATISTICS if name == STATISTICS else "mined",
                "fingerprint": each,
                **told,
            }
            for name, each in fingerprints.items()
        }


def find_mining(spec: MineSpec) -> Mining:
    """Look rankings, judged pairs and texts up.

    Raises:
        SpecError: a dataset lacks the output, or rankings have ids of different types.
        InputError: the first ranking is empty, or a file of pairs or texts cannot be used.
        StoreError: there is no such snapshot.
    """
    infos = {name: snapshot_info(each.path, each.version) for name, each in spec.candidates.items()}
    rankings = {name: _ranking(name, each, infos[name]) for name, each in spec.candidates.items()}
    kinds = {name: _id_types(name, each) for name, each in rankings.items()}
    first = next(iter(rankings))
    for name, kind in kinds.items():
        if kind != kinds[first]:
            raise SpecError(
                f"candidates: ids of {first} are {_spoken(kinds[first])}, those of {name} "
                f"{_spoken(kind)}; retrieve both from the same datasets"
            )
    if not rankings[first].files:
        raise InputError(f"candidates.{first}: an empty ranking, nothing to mine")
    units = tuple(_units(rankings[first].files, spec.resources.rows_per_unit))
    rules = spec.rules.to_core()
    queries, documents = _listed(spec.queries), _listed(spec.documents)
    texts = {
        "queries": _identity(spec.queries, queries),
        "documents": _identity(spec.documents, documents),
        "scores": spec.scores,
    }
    asked = {
        "rules": spec.rules.model_dump(mode="json"),
        "judge": spec.judging,
        "positives": [file_info(url).identity for url in list_parts(spec.positives)],
        "texts": texts if rules.needs_texts else {},
    }
    scored = None
    if spec.judging != FUSION:
        scored = _scored(rankings[spec.judging], infos[spec.judging])
    return Mining(rankings, scored, units, *kinds[first], asked, texts, queries, documents)


def _ranking(name: str, asked: RankingOf, info: SnapshotInfo) -> Ranking:
    output = asked.output or name
    if output not in info.outputs:
        raise SpecError(
            f"candidates.{name}: {redact(asked.path)} has no output {output!r}; it has "
            f"{', '.join(info.outputs)}"
        )
    files = snapshot_data(asked.path, info.version, output)
    return Ranking(asked.path, info.version, output, tuple(files), asked.depth)


def _scored(judge: Ranking, info: SnapshotInfo) -> Ranking | None:
    output = positives_output(judge.output)
    if output not in info.outputs:
        return None
    files = snapshot_data(judge.path, judge.version, output)
    return Ranking(judge.path, judge.version, output, tuple(files))


def _id_types(name: str, ranking: Ranking) -> tuple[pa.DataType, pa.DataType]:
    outputs = snapshot_state(ranking.path, ranking.version)["outputs"]
    schema = output_schema(outputs[ranking.output])
    wanted = ranking_schema(pa.string(), pa.string()).names
    if missing := [column for column in wanted if column not in schema.names]:
        raise SpecError(
            f"candidates.{name}: output {ranking.output} of {redact(ranking.path)} is no ranking, "
            f"it lacks {', '.join(missing)}"
        )
    return schema.field("query_id").type, schema.field("doc_id").type


def _spoken(kinds: tuple[pa.DataType, pa.DataType]) -> str:
    return f"{kinds[0]} (queries) and {kinds[1]} (documents)"


def _units(files: Sequence[DataFile], rows_per_unit: int) -> list[Unit]:
    """Cut files where a query ends, into parts of about so many rows."""
    units: list[Unit] = []
    for file in files:
        edges = [0, file.rows]
        if file.rows > rows_per_unit:
            edges = _edges(query_starts(file)[0], file.rows, rows_per_unit)
        for start, stop in zip(edges, edges[1:], strict=False):
            units.append(Unit(len(units), file.url, file.checksum, "parquet", start, stop))
    return units


def _edges(starts: np.ndarray, n_rows: int, rows_per_unit: int) -> list[int]:
    """Starts of queries nearest to equal parts: the same rows, the same units."""
    n_parts = -(-n_rows // rows_per_unit)
    targets = np.arange(1, n_parts) * n_rows // n_parts
    bounds = np.append(starts, n_rows)
    inner = bounds[np.searchsorted(bounds, targets)]
    return sorted({0, n_rows, *inner.tolist()})


def _listed(inputs: Inputs | None) -> Corpus | None:
    return None if inputs is None else list_corpus(inputs)


def _identity(inputs: Inputs | None, corpus: Corpus | None) -> str | None:
    if inputs is None or corpus is None:
        return None
    shards = [[shard.url, shard.identity] for shard in corpus.shards]
    return digest([inputs.model_dump(mode="json"), shards])
