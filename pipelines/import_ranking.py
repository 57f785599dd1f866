"""A ranking from elsewhere as a dataset: BM25 of another engine, say, for `mine` beside ours."""

from collections.abc import Iterator
from typing import Literal

import pyarrow as pa

from stx.pipelines.engine.runs import View, check_output, claimed, run_job
from stx.pipelines.engine.unit_files import IdSet, Target, UnitResult, write_result
from stx.pipelines.planning.dataset_state import read_state
from stx.pipelines.planning.snapshot_files import digest
from stx.pipelines.retrieval.rankings import ranking_schema
from stx.pipelines.spec.parts import Name, Part, Store
from stx.pipelines.telemetry.report import Report, snapshot_report
from stx_core.errors import InputError
from stx_core.evaluation.files import list_parts
from stx_core.evaluation.rankings import read_rankings
from stx_core.evaluation.whole_queries import best_first, whole_queries, with_ranks
from stx_core.store import ledger
from stx_core.store.commit import commit_snapshot
from stx_core.store.corpus.units import Unit, unit_key
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.files.filesystem import file_info
from stx_core.store.files.urls import redact

_FORMAT = 1

# Rows of a data file, about: queries are not cut.
_ROWS_PER_UNIT = 1 << 20


class ImportSpec(Part):
    """What is imported, and where to."""

    source: str
    """File, folder or glob of a ranking: TREC run, MS MARCO, Parquet, JSONL, ``top_ranked``."""
    path: str
    """The dataset to write."""
    name: Name = "ranking"
    """Of its output."""
    format: str | None = None
    ids: Literal["string", "int64"] = "string"
    """Type of the ids: that of the datasets it shall be used with."""
    store: Store = Store()


def run_import(spec: ImportSpec, view: View | None = None) -> Report:
    """Commit a ranking as a snapshot; nothing is done when the file has not changed.

    Raises:
        InputError: no ranking, or a bad line, or ids that are no numbers where they should be.
        StoreError: from the store.
    """
    return run_job(spec, view, _import, dry_run=False)


def _import(spec: ImportSpec, view: View, began: float, *, dry_run: bool) -> Report:  # noqa: ARG001
    refuse_overlap(spec.path, [spec.source], "the dataset")
    identity = [file_info(url).identity for url in list_parts(spec.source)]
    print_ = digest([identity, spec.ids, spec.format, _FORMAT])
    root, run_hash = spec.path, digest([print_, spec.name])
    state = read_state(root, run_hash)
    before = {name: facts["fingerprint"] for name, facts in state.outputs.items()}
    if state.version and before == {spec.name: print_} and not state.damaged:
        return Report(root, state.version, committed=False)
    check_output(root)
    kind = pa.string() if spec.ids == "string" else pa.int64()
    schema = ranking_schema(kind, kind)
    facts = {
        "type": "ranking",
        "fingerprint": print_,
        "by": "import",
        "source": redact(spec.source),
    }
    with claimed(root, spec, run_hash, state=state, began=began) as start:
        target = Target(root, start.claim.run, start.claim.epoch, start.damaged)
        done = set(start.records["key"].to_pylist())
        planned: dict[str, Unit] = {}
        fresh, row = [], 0
        for table in _blocks(spec):
            unit = Unit(len(planned), spec.source, print_, "parquet", row, row + len(table))
            row += len(table)
            key = unit_key(unit, {"output": spec.name, "fingerprint": print_})
            planned[key] = unit
            if key not in done:
                rows = _cast(table, schema, spec)
                ids = IdSet.of(rows["query_id"])
                result = UnitResult(output=spec.name, key=key, rows=rows, ids_in=ids, ids_out=ids)
                fresh.append(write_result(target, unit, result, {}))
                start.beat.check()
        if not planned:
            raise InputError(f"{redact(spec.source)}: an empty ranking, nothing to import")
        records = pa.concat_tables([start.records, ledger.to_table(fresh)])
        info = commit_snapshot(
            root, start.claim, {spec.name: planned}, records, {spec.name: facts},
            {spec.name: schema},
        )  # fmt: skip
    return snapshot_report(info, root, ledger.to_table(fresh), began=began)


def _blocks(spec: ImportSpec) -> Iterator[pa.Table]:
    """Whole queries, best first, about as many rows as a data file has."""
    held: list[pa.Table] = []
    for table in whole_queries(read_rankings(spec.source, spec.format)):
        held.append(with_ranks(best_first(table)))
        if sum(map(len, held)) >= _ROWS_PER_UNIT:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _cast(table: pa.Table, schema: pa.Schema, spec: ImportSpec) -> pa.Table:
    try:
        return table.select(schema.names).cast(schema)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{redact(spec.source)}: ids cannot be read as {spec.ids} ({error}); leave out --ids"
        ) from None
