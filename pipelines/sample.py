"""The sample job: rows of a snapshot with the lowest hashes of their ids, each stratum its share.

A first pass finds the lowest hashes of each unit, a second one takes the rows that are below the
limit of their stratum. So the same rows are chosen whatever the units, and memory is bounded by the
size of the sample. Of rows with one id all are chosen or none.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from stx.pipelines.engine import job
from stx.pipelines.engine.runs import Start, View
from stx.pipelines.engine.unit_files import IdSet, UnitResult
from stx.pipelines.planning.dataset_state import DatasetState
from stx.pipelines.planning.plan import Plan, UnitDict, make_part
from stx.pipelines.planning.snapshot_files import digest, snapshot_data, take_unit
from stx.pipelines.spec.sample import SampleSpec
from stx.pipelines.telemetry.report import Report
from stx_core.errors import SpecError
from stx_core.store.corpus.units import Unit, unit_key
from stx_core.store.data_file import read_columns
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.files.urls import join, redact
from stx_core.store.snapshot import SnapshotInfo, output_schema, snapshot_info, snapshot_state

_LOWEST = "lowest"
# What a snapshot says of an output by its vectors, not by its number of rows.
_FACTS = ("type", "model", "fingerprint", "dim", "similarity", "store_as", "settings", "probe")


def run_sample(spec: SampleSpec, view: View | None = None, *, dry_run: bool = False) -> Report:
    """Commit a sample of the rows of an output as a snapshot, see `job.run`.

    Args:
        spec: of the job.
        view: watches the run.
        dry_run: only plan.
    """
    return job.run(_Sample, spec, view, dry_run=dry_run)


class _Sample(job.Job[Plan]):
    def __init__(self, spec: SampleSpec) -> None:
        refuse_overlap(spec.output.path, [spec.sampled.path])
        info = snapshot_info(spec.sampled.path, spec.sampled.version)
        self._name = _chosen_output(spec, info)
        state = snapshot_state(spec.sampled.path, info.version)["outputs"][self._name]
        self._schema, self._version = output_schema(state), info.version
        for column in filter(None, ("id", spec.by)):
            if column not in self._schema.names:
                raise SpecError(
                    f"sampled: output {self._name} of {redact(spec.sampled.path)} has no column "
                    f"{column!r}; it has {', '.join(self._schema.names)}"
                )
        self._spec, facts = spec, info.outputs[self._name]
        self._facts = {name: facts[name] for name in _FACTS if name in facts}
        files = snapshot_data(spec.sampled.path, info.version, self._name)
        self._units = tuple(
            Unit(number, file.url, file.checksum, "parquet", 0, file.rows)
            for number, file in enumerate(files)
        )
        asked = spec.model_dump(mode="json", include={"rows", "by", "seed"})
        self.run_hash = digest([asked, self._name, [unit.identity for unit in self._units]])

    def plan(self, state: DatasetState) -> Plan:
        # Which rows are chosen depends on all files.
        sample = {"sample": self.run_hash}
        keys = tuple(unit_key(unit, sample | {"output": self._name}) for unit in self._units)
        part = make_part(self._name, self._facts["fingerprint"], keys, state)
        plan = Plan(self._spec.output.path, self._units, {self._name: part}, state)
        lowest = [unit_key(unit, sample | {"output": _LOWEST}) for unit in self._units]
        self._lowest = dict(zip(lowest, self._units, strict=True)) if plan.due else {}
        missing = [unit for key, unit in self._lowest.items() if key not in state.done]
        n_rows = sum(unit.n_rows for unit in missing)
        return replace(plan, n_before=len(missing), rows_before=n_rows)

    def prepare(self, plan: Plan, planning: job.Planning) -> Plan:
        spec = self._spec
        pool = job.pool_for(planning.spec.resources, lambda _: [])
        by = f", each {spec.by} its share" if spec.by else ""
        lines = (
            f"plan for {plan.root}",
            f"  of       {redact(spec.sampled.path)}, version {self._version}, {self._name}",
            f"  sample   {spec.rows:,} of {plan.n_rows:,} rows{by}",
        )
        facts, schemas = {self._name: self._facts}, {self._name: self._schema}
        return replace(plan, pool=pool, facts=facts, schemas=schemas, lines=lines)

    def passes(self, plan: Plan, start: Start) -> job.Passes:
        spec, done = self._spec, plan.state.done
        reader = _Reader(spec.by, spec.seed, spec.rows, self._schema)
        units = [
            {"unit": asdict(unit), "keys": {_LOWEST: key}}
            for key, unit in self._lowest.items()
            if key not in done
        ]
        fresh = yield job.Pass(units, reader.hashes, [], reader.lowest)
        records = pa.concat_tables([start.records, fresh])
        files = records.filter(pc.equal(records["output"], _LOWEST))["file"].to_pylist()
        limits = _limits([join(plan.root, file) for file in files if file], spec.rows)
        chosen = partial(reader.chosen, limits=limits)
        yield job.Pass(list(plan.describe_due()), reader.rows, [], chosen)
        return {}

    def report(self, report: Report, plan: Plan, committed: job.Committed) -> Report:  # noqa: ARG002
        return report


def _chosen_output(spec: SampleSpec, info: SnapshotInfo) -> str:
    names = list(info.outputs)
    if spec.output_of is None and len(names) == 1:
        return names[0]
    if spec.output_of not in names:
        raise SpecError(
            f"output_of: {redact(spec.sampled.path)} has the outputs {', '.join(names)}; name one"
        )
    return spec.output_of


@dataclass(frozen=True)
class _Reader:
    """Reads rows with the hashes of their ids; small and picklable."""

    by: str | None
    seed: int
    n_rows: int
    schema: pa.Schema

    def hashes(self, description: UnitDict, unit: Unit) -> pa.Table:  # noqa: ARG002  (of every pass)
        """Stratum and hash of each row."""
        return self._hashed(take_unit(unit, [name for name in ("id", self.by) if name]))

    def _hashed(self, rows: pa.Table) -> pa.Table:
        ids, seed = rows["id"].cast(pa.string()).to_pylist(), self.seed % 2**64
        # Below 2^63: Parquet readers that know signed numbers only see the same order.
        hashes = np.fromiter(
            (xxhash.xxh3_64_intdigest(id_.encode(), seed=seed) >> 1 for id_ in ids),
            np.int64,
            len(ids),
        )
        strata = rows[self.by].cast(pa.string()) if self.by else pa.nulls(len(ids), pa.string())
        return pa.table({"stratum": strata, "hash": hashes})

    def lowest(self, description: UnitDict, unit: Unit, table: pa.Table) -> Iterator[UnitResult]:  # noqa: ARG002
        """The lowest hashes of each stratum, and how many rows it has."""
        parts = []
        for stratum in table["stratum"].unique().to_pylist():
            hashes = _of_stratum(table, stratum)["hash"].to_numpy()
            kept = np.sort(hashes)[: self.n_rows]
            names = pa.array([stratum] * len(kept), pa.string())
            totals = np.full(len(kept), len(hashes))
            parts.append(pa.table({"stratum": names, "hash": kept, "of": totals}))
        ids = IdSet.of(table["hash"])
        yield UnitResult(
            output=_LOWEST,
            key=description["keys"][_LOWEST],
            rows=pa.concat_tables(parts),
            ids_in=ids,
            ids_out=ids,
        )

    def rows(self, description: UnitDict, unit: Unit) -> pa.Table:  # noqa: ARG002
        """All columns of a unit."""
        return take_unit(unit, self.schema.names)

    def chosen(
        self, description: UnitDict, unit: Unit, table: pa.Table, *, limits: Mapping[Any, int]
    ) -> Iterator[UnitResult]:
        """The rows up to the limits of their strata."""
        hashed = self._hashed(table)
        bounds = np.array([limits[stratum] for stratum in hashed["stratum"].to_pylist()], np.int64)
        rows = table.filter(pa.array(hashed["hash"].to_numpy() <= bounds)).cast(self.schema)
        ids = IdSet.of(rows["id"])
        for output, key in description["keys"].items():
            yield UnitResult(
                output=output,
                key=key,
                rows=rows,
                ids_in=ids,
                ids_out=ids,
                n_filtered=unit.n_rows - len(rows),
            )


def _of_stratum(table: pa.Table, stratum: str | None) -> pa.Table:
    strata = table["stratum"]
    return table.filter(strata.is_null() if stratum is None else pc.equal(strata, stratum))


def _limits(files: list[str], n_rows: int) -> dict[str | None, int]:
    """By stratum, the highest hash that is chosen; -1 for none."""
    totals: Counter[str | None] = Counter()
    lowest: dict[str | None, np.ndarray] = {}
    for file in files:
        table = read_columns(file, ["stratum", "hash", "of"])
        for stratum in table["stratum"].unique().to_pylist():
            rows = _of_stratum(table, stratum)
            totals[stratum] += rows["of"][0].as_py()
            both = np.concatenate([lowest.get(stratum, np.empty(0, np.int64)), rows["hash"]])
            lowest[stratum] = np.sort(both)[:n_rows]
    shares = _shares(totals, n_rows)
    return {
        stratum: int(hashes[shares[stratum] - 1]) if shares[stratum] else -1
        for stratum, hashes in lowest.items()
    }


def _shares(totals: Mapping[str | None, int], n_rows: int) -> dict[str | None, int]:
    """Rows of each stratum in proportion, by largest remainders; all where there are fewer rows."""
    n_all = sum(totals.values())
    if n_all <= n_rows:
        return dict(totals)
    exact = {stratum: n_rows * total / n_all for stratum, total in totals.items()}
    shares = {stratum: int(value) for stratum, value in exact.items()}
    order = sorted(exact, key=lambda stratum: (shares[stratum] - exact[stratum], stratum or ""))
    for stratum in order[: n_rows - sum(shares.values())]:
        shares[stratum] += 1
    return shares
