"""What `retrieve` compares: blocks of queries and parts of the corpus, of each retriever."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from stx.pipelines.models.settings import VECTOR_COLUMN
from stx.pipelines.planning.plan import DueUnit
from stx.pipelines.planning.snapshot_files import DataFile, digest, files_digest, snapshot_data
from stx.pipelines.retrieval.rankings import pairs_schema, ranking_schema
from stx.pipelines.spec.retrieval import Retriever, RetrieveSpec
from stx_core.errors import InputError, SpecError
from stx_core.store.corpus.shards import Shard
from stx_core.store.corpus.units import Unit, plan_units, unit_key
from stx_core.store.files.filesystem import file_info
from stx_core.store.files.urls import redact
from stx_core.store.snapshot import SnapshotInfo, output_schema, snapshot_info, snapshot_state

HYBRID = "hybrid"

CELLS = "cells"

POSITIVES = "-positives"

# Part of every key: raise it when the same work would give other files.
_FORMAT = 1


@dataclass(frozen=True)
class Leg:
    """One retriever.

    Attributes:
        name: of the retriever, and of its ranking.
        similarity: "cosine", "dot", "euclidean" or "manhattan".
        column: of the vectors, in the files of both sides.
        width: of dense vectors; None for sparse ones.
        how: documents are found: ``first_pass`` and ``oversample``.
        units: blocks of queries.
        groups: files of each part of the corpus.
    """

    name: str
    similarity: str
    column: str
    width: int | None
    how: Mapping[str, Any]
    units: tuple[Unit, ...]
    groups: tuple[tuple[DataFile, ...], ...]


@dataclass(frozen=True)
class Cell(DueUnit):
    """One block of queries, `unit`, against one part of the corpus, `group`."""

    leg: str
    group: int

    @property
    def key(self) -> str:
        """Of the unit, for the output `CELLS`."""
        return self.keys[CELLS]


@dataclass(frozen=True)
class Grid:
    """All that is to be compared.

    Attributes:
        legs: the retrievers; their units are of the same queries, one by one.
        queries: version and model of the queries.
        corpus: likewise.
        query_type: Arrow type of the queries' ids.
        doc_type: of the documents' ids.
        asked: what else decides the rankings, as JSON values.
    """

    legs: tuple[Leg, ...]
    queries: Mapping[str, Any]
    corpus: Mapping[str, Any]
    query_type: pa.DataType
    doc_type: pa.DataType
    asked: Mapping[str, Any]

    @property
    def units(self) -> tuple[Unit, ...]:
        """Blocks of queries, as the first retriever has them."""
        return self.legs[0].units

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what decides the rankings, beside the queries."""
        corpora = {
            leg.name: [
                leg.similarity,
                dict(leg.how),
                files_digest([file for part in leg.groups for file in part]),
            ]
            for leg in self.legs
        }
        return digest([dict(self.asked), corpora, self.queries["model"], self.corpus["model"]])

    @property
    def outputs(self) -> dict[str, pa.Schema]:
        """Schemas by output: rankings, and scores of judged pairs if there are any."""
        kinds = (self.query_type, self.doc_type)
        names = [leg.name for leg in self.legs] + [HYBRID] * bool(self.asked["fusion"])
        schemas = dict.fromkeys(names, ranking_schema(*kinds))
        if self.asked["positives"]:
            judged = [positives_output(leg.name) for leg in self.legs]
            schemas |= dict.fromkeys(judged, pairs_schema(*kinds))
        return schemas

    @property
    def keys(self) -> dict[str, tuple[str, ...]]:
        """By output, one of each unit."""
        blocks = [[unit.identity for unit in same] for same in self._aligned()]
        return {
            name: tuple(
                unit_key(unit, {"output": name, "blocks": block, "grid": self.fingerprint})
                for unit, block in zip(self.units, blocks, strict=True)
            )
            for name in self.outputs
        }

    @property
    def facts(self) -> dict[str, dict[str, Any]]:
        """What a snapshot remembers of each output."""
        how = {leg.name: leg.similarity for leg in self.legs}
        return {
            name: {
                "type": "positives" if name.endswith(POSITIVES) else "ranking",
                "fingerprint": self.fingerprint,
                "by": how.get(name.removesuffix(POSITIVES), "fusion"),
                "k": self.asked["k"],
                "queries": dict(self.queries),
                "corpus": dict(self.corpus),
            }
            for name in self.outputs
        }

    def cells(self, units: Sequence[int]) -> list[Cell]:
        """Cells of some units, part after part of the corpus: actors load each part once."""
        cells = []
        for leg in self.legs:
            how = {"leg": leg.name, "how": [leg.similarity, dict(leg.how)]}
            for number, group in enumerate(leg.groups):
                fields = {**how, "group": files_digest(group), "asked": dict(self.asked)}
                for index in units:
                    unit = leg.units[index]
                    keys = {CELLS: unit_key(unit, fields)}
                    cells.append(Cell(unit, keys, leg.name, number))
        return cells

    def _aligned(self) -> list[tuple[Unit, ...]]:
        return list(zip(*(leg.units for leg in self.legs), strict=True))


def positives_output(leg: str) -> str:
    """Name of the output with a retriever's scores of judged pairs."""
    return leg + POSITIVES


def find_grid(spec: RetrieveSpec) -> Grid:
    """Look the datasets up.

    Raises:
        SpecError: they do not have the outputs, were made by different models, or their vectors
            differ in width.
        InputError: the corpus or the queries are empty.
        StoreError: there is no such snapshot.
    """
    queries = snapshot_info(spec.queries.path, spec.queries.version)
    corpus = snapshot_info(spec.corpus.path, spec.corpus.version)
    wanted = spec.retrievers or _common(spec, queries, corpus)
    legs = tuple(_leg(spec, name, one, queries, corpus) for name, one in wanted.items())
    _check_same_queries(spec, legs)
    if spec.same and any(leg.how["first_pass"] != "exact" for leg in legs):
        raise SpecError("same: needs first_pass: exact, a rough one could propose others only")
    asked = spec.model_dump(mode="json", include={"k", "fusion", "exclude_same_id", "same"})
    judged = None if spec.positives is None else file_info(spec.positives).identity
    return Grid(
        legs,
        _about(spec.queries.path, queries, [_outputs(*item)[0] for item in wanted.items()]),
        _about(spec.corpus.path, corpus, [_outputs(*item)[1] for item in wanted.items()]),
        _id_type(spec.queries.path, queries, spec.same),
        _id_type(spec.corpus.path, corpus, spec.same),
        asked | {"positives": judged, "format": _FORMAT},
    )


def _id_type(path: str, info: SnapshotInfo, same: Sequence[str]) -> pa.DataType:
    """Type of a dataset's ids; it must have the columns `same`."""
    outputs = snapshot_state(path, info.version)["outputs"]
    schema = output_schema(next(iter(outputs.values())))
    if missing := [name for name in same if name not in schema.names]:
        raise SpecError(
            f"same: {redact(path)} has no column {', '.join(missing)}; name it in inputs.columns "
            "when the dataset is encoded"
        )
    return schema.field("id").type


def _common(
    spec: RetrieveSpec, queries: SnapshotInfo, corpus: SnapshotInfo
) -> dict[str, Retriever]:
    names = [name for name in corpus.outputs if name in queries.outputs]
    if not names:
        raise SpecError(
            f"retrievers: {redact(spec.queries.path)} has the outputs {', '.join(queries.outputs)},"
            f" {redact(spec.corpus.path)} has {', '.join(corpus.outputs)}; name which belong "
            "together"
        )
    return {name: Retriever() for name in names}


def _outputs(name: str, retriever: Retriever) -> tuple[str, str]:
    """Outputs of the queries and of the corpus."""
    output = retriever.output or name
    return retriever.query_output or output, output


def _about(path: str, info: SnapshotInfo, outputs: Sequence[str]) -> dict[str, Any]:
    prints = {name: info.outputs[name]["fingerprint"] for name in outputs}
    return {"path": redact(path), "version": info.version, "model": prints}


def _leg(
    spec: RetrieveSpec, name: str, retriever: Retriever, queries: SnapshotInfo, corpus: SnapshotInfo
) -> Leg:
    ours, theirs = _outputs(name, retriever)
    for side, info, output in (
        ("queries", queries, ours),
        ("corpus", corpus, theirs),
    ):
        if output not in info.outputs:
            raise SpecError(
                f"retrievers.{name}: the {side} have no output {output!r}; they have "
                f"{', '.join(info.outputs)}"
            )
    left, right = queries.outputs[ours], corpus.outputs[theirs]
    _check_fit(spec, name, left, right)
    similarity = retriever.similarity or str(right["similarity"])
    _check_search(name, retriever, str(right["type"]), similarity)
    column = VECTOR_COLUMN[right["type"]]
    blocks = snapshot_data(spec.queries.path, queries.version, ours)
    files = snapshot_data(spec.corpus.path, corpus.version, theirs)
    for what, path, some in (
        ("no queries", spec.queries.path, blocks),
        ("an empty corpus", spec.corpus.path, files),
    ):
        if not some:
            raise InputError(f"{redact(path)}: {what}, nothing to retrieve; encode some rows first")
    rows = spec.resources.rows_per_unit
    return Leg(
        name,
        similarity,
        column,
        right["dim"],
        {"first_pass": retriever.first_pass, "oversample": retriever.oversample},
        tuple(plan_units([_shard(block) for block in blocks], rows)),
        tuple(_groups(files, spec.resources.rows_per_group)),
    )


def _check_fit(
    spec: RetrieveSpec, name: str, left: Mapping[str, Any], right: Mapping[str, Any]
) -> None:
    told = [f"{redact(str(each['model']))} ({each['fingerprint'][:12]})" for each in (left, right)]
    where = f"retrievers.{name}: queries of {told[0]}, corpus of {told[1]}"
    if left["type"] != right["type"]:
        raise SpecError(f"{where}: {left['type']} and {right['type']} vectors cannot be compared")
    if left["dim"] != right["dim"]:
        raise SpecError(
            f"{where}: {left['dim']} and {right['dim']} dimensions; encode both with one model and "
            "truncate_dim"
        )
    if left["settings"]["files"] != right["settings"]["files"] and not spec.other_models:
        raise SpecError(
            f"{where}: different models give vectors that do not compare; encode the queries with "
            "the corpus's model, or set other_models: true if the two were trained together"
        )


def _check_search(name: str, retriever: Retriever, kind: str, similarity: str) -> None:
    if kind == "sparse" and similarity not in ("dot", "cosine"):
        raise SpecError(f"retrievers.{name}: {similarity} is not defined here for sparse vectors")
    rough = retriever.first_pass
    if rough == "exact":
        return
    if kind == "sparse" or similarity == "manhattan":
        raise SpecError(f"retrievers.{name}: first_pass {rough} is for dense vectors and dot, "
                        "cosine or euclidean; leave it out")  # fmt: skip
    if rough == "binary" and similarity != "cosine":
        raise SpecError(f"retrievers.{name}: first_pass binary is for cosine, not {similarity}")


def _check_same_queries(spec: RetrieveSpec, legs: Sequence[Leg]) -> None:
    """Retrievers are merged row by row."""
    for leg in legs[1:]:
        same = [(a.start, a.stop) == (b.start, b.stop) for a, b in zip(legs[0].units, leg.units)]  # noqa: B905
        if len(leg.units) != len(legs[0].units) or not all(same):
            raise SpecError(
                f"retrievers: {legs[0].name} and {leg.name} of {redact(spec.queries.path)} hold "
                "different queries (some are quarantined in one of them); retrieve them one by one"
            )


def _shard(file: DataFile) -> Shard:
    return Shard(file.url, file.checksum, "parquet", file.rows, (0, file.rows), pa.schema([]))


def _groups(files: Sequence[DataFile], max_rows: int) -> list[tuple[DataFile, ...]]:
    """Consecutive files of at most `max_rows` rows together, or a single larger one."""
    groups: list[list[DataFile]] = []
    rows = 0
    for file in files:
        if not groups or rows + file.rows > max_rows:
            groups.append([])
            rows = 0
        groups[-1].append(file)
        rows += file.rows
    return [tuple(group) for group in groups]
