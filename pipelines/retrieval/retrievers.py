"""Comparisons of `retrieve`: blocks of queries and parts of the corpus, of each retriever."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import pyarrow as pa

from stx.pipelines.engine.passes import Facts, to_facts
from stx.pipelines.models.settings import VECTOR_COLUMN
from stx.pipelines.planning.plan import DueUnit
from stx.pipelines.planning.snapshot_files import DataFile, digest, files_digest, snapshot_data
from stx.pipelines.retrieval.rankings import pairs_schema, ranking_schema
from stx.pipelines.spec.retrieval import Retriever, RetrieveSpec, Similarity
from stx_core.errors import InputError, SpecError
from stx_core.plugins import source_hash
from stx_core.search.first_passes import FIRST_PASSES
from stx_core.store.corpus.shards import Shard
from stx_core.store.corpus.units import Units, plan_units, unit_key
from stx_core.store.files.filesystem import file_info
from stx_core.store.files.urls import redact
from stx_core.store.log_state import OutputFacts
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
        similarity: of a query and a document.
        column: of the vectors, in the files of both sides.
        width: of dense vectors; None for sparse ones.
        first_pass: "exact", or see `RoughIndex`.
        oversample: likewise.
        units: blocks of queries.
        groups: files of each part of the corpus.
    """

    name: str
    similarity: Similarity
    column: str
    width: int | None
    first_pass: str
    oversample: int
    units: Units
    groups: tuple[tuple[DataFile, ...], ...]

    @property
    def how(self) -> list[object]:
        """JSON values that decide which documents are found, the vectors apart."""
        how = {"first_pass": self.first_pass, "oversample": self.oversample}
        if self.first_pass in FIRST_PASSES.plugins:
            how["code"] = source_hash(FIRST_PASSES[self.first_pass])
        return [self.similarity, how]


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
class Side:
    """A dataset that is compared: path, version, and fingerprints of its outputs, by name."""

    path: str
    version: int
    model: Mapping[str, str]


@dataclass(frozen=True)
class GridSettings:
    """Settings that decide the rankings, beside the retrievers.

    Attributes:
        k: documents of a query.
        fusion: of the rankings, as the spec has it; None for none.
        exclude_same_id: leave out the document with the query's id.
        same: columns that must be equal.
        positives: identity of the file with judged pairs; None for none.
        format: of the files.
    """

    k: int
    fusion: Mapping[str, object] | None
    exclude_same_id: bool
    same: Sequence[str]
    positives: str | None
    format: int = _FORMAT


@dataclass(frozen=True)
class RankingFacts:
    """Facts of an output that a snapshot keeps; `by` is a similarity, or ``fusion``."""

    type: str
    fingerprint: str
    by: str
    k: int
    queries: Side
    corpus: Side


@dataclass(frozen=True)
class Grid:
    """All that is to be compared.

    Attributes:
        legs: the retrievers; their units are of the same queries, one by one.
        queries: the dataset.
        corpus: likewise.
        query_type: Arrow type of the queries' ids.
        doc_type: of the documents' ids.
        settings: of the spec.
    """

    legs: tuple[Leg, ...]
    queries: Side
    corpus: Side
    query_type: pa.DataType
    doc_type: pa.DataType
    settings: GridSettings

    @property
    def units(self) -> Units:
        """Blocks of queries, as the first retriever has them."""
        return self.legs[0].units

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what decides the rankings, beside the queries."""
        corpora = {
            leg.name: [*leg.how, files_digest([file for part in leg.groups for file in part])]
            for leg in self.legs
        }
        return digest([asdict(self.settings), corpora, self.queries.model, self.corpus.model])

    @cached_property
    def outputs(self) -> dict[str, pa.Schema]:
        """Schemas by output: rankings, and scores of judged pairs if there are any."""
        kinds = (self.query_type, self.doc_type)
        names = [leg.name for leg in self.legs] + [HYBRID] * bool(self.settings.fusion)
        schemas = dict.fromkeys(names, ranking_schema(*kinds))
        if self.settings.positives:
            positives = [positives_output(leg.name) for leg in self.legs]
            schemas |= dict.fromkeys(positives, pairs_schema(*kinds))
        return schemas

    @property
    def keys(self) -> dict[str, tuple[str, ...]]:
        """By output, one of each unit."""
        aligned = list(zip(*(leg.units for leg in self.legs), strict=True))
        return {
            name: tuple(
                unit_key(
                    same[0],
                    {
                        "output": name,
                        "blocks": [unit.identity for unit in same],
                        "grid": self.fingerprint,
                    },
                )
                for same in aligned
            )
            for name in self.outputs
        }

    @property
    def facts(self) -> Facts:
        """Facts of each output for the snapshot, see `RankingFacts`."""
        similarities = {leg.name: leg.similarity for leg in self.legs}
        return {
            name: to_facts(
                RankingFacts(
                    type="positives" if name.endswith(POSITIVES) else "ranking",
                    fingerprint=self.fingerprint,
                    by=similarities.get(name.removesuffix(POSITIVES), "fusion"),
                    k=self.settings.k,
                    queries=self.queries,
                    corpus=self.corpus,
                )
            )
            for name in self.outputs
        }

    def cells(self, units: Sequence[int]) -> list[Cell]:
        """Cells of some units, part after part of the corpus: actors load each part once."""
        cells = []
        for leg in self.legs:
            settings = {"leg": leg.name, "how": leg.how, "asked": asdict(self.settings)}
            for number, group in enumerate(leg.groups):
                fields = settings | {"group": files_digest(group)}
                for index in units:
                    unit = leg.units[index]
                    keys = {CELLS: unit_key(unit, fields)}
                    cells.append(Cell(unit, keys, leg.name, number))
        return cells


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
    shared = [name for name in corpus.outputs if name in queries.outputs]
    retrievers = spec.retrievers or {name: Retriever() for name in shared}
    if not retrievers:
        raise SpecError(
            f"retrievers: {redact(spec.queries.path)} has the outputs {', '.join(queries.outputs)},"
            f" {redact(spec.corpus.path)} has {', '.join(corpus.outputs)}; name which belong "
            "together"
        )
    # Of the queries and of the corpus.
    outputs = {
        name: (retriever.query_output or retriever.output or name, retriever.output or name)
        for name, retriever in retrievers.items()
    }
    legs = tuple(
        _leg(spec, name, retriever, outputs=outputs[name], queries=queries, corpus=corpus)
        for name, retriever in retrievers.items()
    )
    # Retrievers are merged row by row.
    ranges = [[(unit.start, unit.stop) for unit in leg.units] for leg in legs]
    for leg, ranges_of_leg in zip(legs, ranges, strict=True):
        if ranges_of_leg != ranges[0]:
            raise SpecError(
                f"retrievers: {legs[0].name} and {leg.name} of {redact(spec.queries.path)} hold "
                "different queries (some are quarantined in one of them); retrieve them one by one"
            )
    if spec.same and any(leg.first_pass != "exact" for leg in legs):
        raise SpecError("same: needs first_pass: exact, a rough one could propose others only")
    settings = GridSettings(
        positives=None if spec.positives is None else file_info(spec.positives).identity,
        **spec.model_dump(mode="json", include={"k", "fusion", "exclude_same_id", "same"}),
    )
    return Grid(
        legs,
        queries=_side(spec.queries.path, queries, [output for output, _ in outputs.values()]),
        corpus=_side(spec.corpus.path, corpus, [output for _, output in outputs.values()]),
        query_type=_id_type(spec.queries.path, queries, spec.same),
        doc_type=_id_type(spec.corpus.path, corpus, spec.same),
        settings=settings,
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


def _side(path: str, info: SnapshotInfo, outputs: Sequence[str]) -> Side:
    prints = {name: info.outputs[name]["fingerprint"] for name in outputs}
    return Side(redact(path), info.version, prints)


def _leg(
    spec: RetrieveSpec,
    name: str,
    retriever: Retriever,
    *,
    outputs: tuple[str, str],
    queries: SnapshotInfo,
    corpus: SnapshotInfo,
) -> Leg:
    query_output, output = outputs
    for side, info, chosen in (("queries", queries, query_output), ("corpus", corpus, output)):
        if chosen not in info.outputs:
            raise SpecError(
                f"retrievers.{name}: the {side} have no output {chosen!r}; they have "
                f"{', '.join(info.outputs)}"
            )
    query_facts, facts = queries.outputs[query_output], corpus.outputs[output]
    similarity = retriever.similarity or facts["similarity"]
    _check_vectors(spec, name, query_facts, facts)
    _check_search(name, retriever, facts["type"], similarity)
    blocks = snapshot_data(spec.queries.path, queries.version, query_output)
    files = snapshot_data(spec.corpus.path, corpus.version, output)
    for what, path, rows in (
        ("no queries", spec.queries.path, blocks),
        ("an empty corpus", spec.corpus.path, files),
    ):
        if not rows:
            raise InputError(f"{redact(path)}: {what}, nothing to retrieve; encode some rows first")
    shards = [
        Shard(
            file.url, file.checksum, "parquet",
            n_rows=file.rows, boundaries=(0, file.rows), schema=pa.schema([]),
        )
        for file in blocks
    ]  # fmt: skip
    return Leg(
        name,
        similarity,
        column=VECTOR_COLUMN[facts["type"]],
        width=facts["dim"],
        first_pass=retriever.first_pass,
        oversample=retriever.oversample,
        units=plan_units(shards, spec.resources.rows_per_unit),
        groups=tuple(_groups(files, spec.resources.rows_per_group)),
    )


def _check_vectors(spec: RetrieveSpec, name: str, left: OutputFacts, right: OutputFacts) -> None:
    """Refuse vectors of queries and of the corpus that do not compare; takes the facts of both."""
    models = [
        f"{redact(str(facts['model']))} ({facts['fingerprint'][:12]})" for facts in (left, right)
    ]
    where = f"retrievers.{name}: queries of {models[0]}, corpus of {models[1]}"
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
    """Refuse a similarity or a first pass that a kind of vectors does not have."""
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
