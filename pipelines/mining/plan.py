"""Inputs of `mine`: rankings, judged pairs and texts; its units, and what decides their files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pyarrow as pa

from stx.pipelines.engine.passes import Facts, to_facts
from stx.pipelines.mining.formats import needs_texts
from stx.pipelines.mining.stage import STATISTICS
from stx.pipelines.planning.corpus import Corpus, list_corpus
from stx.pipelines.planning.mapping import map_code
from stx.pipelines.planning.snapshot_files import DataFile, digest, files_digest, snapshot_data
from stx.pipelines.retrieval.query_spans import query_starts
from stx.pipelines.retrieval.rankings import ranking_schema
from stx.pipelines.retrieval.retrievers import positives_output
from stx.pipelines.spec.parts import Inputs
from stx.pipelines.spec.retrieval import FUSION, MineSpec, MiningFormat, RankingOf
from stx_core.errors import InputError, SpecError
from stx_core.evaluation.files import list_parts
from stx_core.store.corpus.units import Unit, Units, unit_key
from stx_core.store.files.filesystem import file_info
from stx_core.store.files.urls import redact
from stx_core.store.snapshot import output_schema, snapshot_info, snapshot_state

# Part of every key: raise it when the same work would give other files.
_FORMAT = 1


@dataclass(frozen=True)
class Ranking:
    """A ranking whose documents are candidates, or scores of judged pairs.

    Attributes:
        path: of the dataset, version of its snapshot, output of it.
        files: with rows, in corpus order.
        schema: of the files.
        depth: how many documents of a query count; None for all.
    """

    path: str
    version: int
    output: str
    files: tuple[DataFile, ...]
    schema: pa.Schema
    depth: int | None = None

    @property
    def identity(self) -> list[str | int | None]:
        """Differs when the candidates do."""
        return [files_digest(self.files), self.depth]


@dataclass(frozen=True)
class MinedFacts:
    """Facts of an output that a snapshot keeps.

    Attributes:
        type: ``mined``, or ``statistics``.
        fingerprint: see `Mining.fingerprint`.
        candidates: path, version and output of each ranking.
        judge: name of a ranking, or ``fusion``.
        positives: file with judged pairs.
        rules: as the spec has them.
    """

    type: str
    fingerprint: str
    candidates: Mapping[str, Mapping[str, str | int]]
    judge: str
    positives: str
    rules: Mapping[str, object]


@dataclass(frozen=True)
class Mining:
    """All that is read.

    Attributes:
        rankings: by name, in the order of the spec; the units are rows of the first one.
        scored: scores of judged pairs by the judge; None where it has none.
        units: rows of the first ranking, whole queries.
        query_type: Arrow type of the queries' ids.
        doc_type: of the documents' ids.
        base: hash of what decides all outputs.
        texts: what more decides outputs with texts: hashes of the sides, and the spec's `scores`.
        corpora: where texts are, by side: ``queries``, ``documents``; absent if not named.
    """

    rankings: Mapping[str, Ranking]
    scored: Ranking | None
    units: Units
    query_type: pa.DataType
    doc_type: pa.DataType
    base: str
    texts: Mapping[str, str | bool | None]
    corpora: Mapping[str, tuple[Inputs, Corpus]]

    def fingerprint(self, output: str) -> str:
        """Hash of what decides an output."""
        texts = dict(self.texts) if output in get_args(MiningFormat) and needs_texts(output) else {}
        return digest([self.base, output, texts])

    def keys(self, fingerprints: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """By output, one of each unit."""
        return {
            output: tuple(
                unit_key(unit, {"output": output, "mined": fingerprint}) for unit in self.units
            )
            for output, fingerprint in fingerprints.items()
        }

    def facts(self, spec: MineSpec, fingerprints: Mapping[str, str]) -> Facts:
        """Facts of each output for the snapshot, see `MinedFacts`."""
        candidates: dict[str, dict[str, str | int]] = {
            name: {
                "path": redact(ranking.path),
                "version": ranking.version,
                "output": ranking.output,
            }
            for name, ranking in self.rankings.items()
        }
        return {
            name: to_facts(
                MinedFacts(
                    type=STATISTICS if name == STATISTICS else "mined",
                    fingerprint=fingerprint,
                    candidates=candidates,
                    judge=spec.judging,
                    positives=redact(spec.positives),
                    rules=spec.rules.model_dump(mode="json"),
                )
            )
            for name, fingerprint in fingerprints.items()
        }


def find_mining(spec: MineSpec) -> Mining:
    """Look rankings, judged pairs and texts up.

    Raises:
        SpecError: a dataset lacks the output, or rankings have ids of different types.
        InputError: the first ranking is empty, or a file of pairs or texts cannot be used.
        StoreError: there is no such snapshot.
    """
    rankings = {name: _find_ranking(name, ranking) for name, ranking in spec.candidates.items()}
    types = {
        name: [ranking.schema.field(column).type for column in ("query_id", "doc_id")]
        for name, ranking in rankings.items()
    }
    first = next(iter(rankings))
    for name, (query_type, doc_type) in types.items():
        if types[name] != types[first]:
            raise SpecError(
                f"candidates: ids of {first} are {types[first][0]} (queries) and {types[first][1]} "
                f"(documents), those of {name} {query_type} (queries) and {doc_type} (documents); "
                "retrieve both from the same datasets"
            )
    if not rankings[first].files:
        raise InputError(f"candidates.{first}: an empty ranking, nothing to mine")
    scored = None
    if spec.judging != FUSION:
        judge = rankings[spec.judging]
        output = positives_output(judge.output)
        if output in snapshot_info(judge.path, judge.version).outputs:
            scored = _read_ranking(judge.path, judge.version, output)
    corpora = {
        side: (inputs, list_corpus(inputs))
        for side, inputs in (("queries", spec.queries), ("documents", spec.documents))
        if inputs is not None
    }
    texts: dict[str, str | bool | None] = {"queries": None, "documents": None}
    for side, (inputs, corpus) in corpora.items():
        shards = [[shard.url, shard.identity] for shard in corpus.shards]
        texts[side] = digest([inputs.model_dump(mode="json"), shards, *map_code(inputs)])
    texts["scores"] = spec.scores
    rules = {
        "rules": spec.rules.model_dump(mode="json"),
        "judge": spec.judging,
        "positives": [file_info(url).identity for url in list_parts(spec.positives)],
        "texts": texts if spec.rules.to_core().needs_texts else {},
    }
    # A list: the first ranking has the queries.
    identities = [(name, ranking.identity) for name, ranking in rankings.items()]
    return Mining(
        rankings,
        scored,
        units=Units.of(_units(rankings[first].files, spec.resources.rows_per_unit)),
        query_type=types[first][0],
        doc_type=types[first][1],
        base=digest([rules, identities, scored and scored.identity, _FORMAT]),
        texts=texts,
        corpora=corpora,
    )


def _find_ranking(name: str, candidates: RankingOf) -> Ranking:
    """Look a ranking of the spec up, and refuse what is none."""
    info = snapshot_info(candidates.path, candidates.version)
    output = candidates.output or name
    where = redact(candidates.path)
    if output not in info.outputs:
        raise SpecError(
            f"candidates.{name}: {where} has no output {output!r}; it has {', '.join(info.outputs)}"
        )
    ranking = _read_ranking(candidates.path, info.version, output, candidates.depth)
    columns = ranking_schema(pa.string(), pa.string()).names
    if missing := [column for column in columns if column not in ranking.schema.names]:
        raise SpecError(
            f"candidates.{name}: output {output} of {where} is no ranking, it lacks "
            f"{', '.join(missing)}"
        )
    return ranking


def _read_ranking(path: str, version: int, output: str, depth: int | None = None) -> Ranking:
    schema = output_schema(snapshot_state(path, version)["outputs"][output])
    files = tuple(snapshot_data(path, version, output))
    return Ranking(path, version, output, files=files, schema=schema, depth=depth)


def _units(files: Sequence[DataFile], rows_per_unit: int) -> list[Unit]:
    """Cut files into about equal parts of so many rows, where a query ends.

    The same rows give the same units.
    """
    units: list[Unit] = []
    for file in files:
        edges = [0, file.rows]
        if file.rows > rows_per_unit:
            n_parts = -(-file.rows // rows_per_unit)
            targets = np.arange(1, n_parts) * file.rows // n_parts
            bounds = np.append(query_starts(file)[0], file.rows)
            inner = bounds[np.searchsorted(bounds, targets)]
            edges = sorted({0, file.rows, *inner.tolist()})
        for start, stop in zip(edges, edges[1:], strict=False):
            unit = Unit(len(units), file.url, file.checksum, "parquet", start=start, stop=stop)
            units.append(unit)
    return units
