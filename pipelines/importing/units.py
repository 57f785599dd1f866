"""The units of a ranking from elsewhere: copied to the local disk, and read from there."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from stx.pipelines.engine.unit_files import IdSet, UnitResult
from stx.pipelines.planning.plan import DueUnit
from stx.pipelines.spec.import_ranking import ImportSpec
from stx_core.errors import InputError
from stx_core.evaluation.rankings import read_rankings
from stx_core.evaluation.whole_queries import best_first, whole_queries, with_ranks
from stx_core.store.corpus.units import Unit
from stx_core.store.files.urls import redact

# Rows of a data file, about: queries are not cut.
_ROWS_PER_UNIT = 1 << 20


@dataclass(frozen=True)
class ImportUnits:
    """Gives the units of a ranking from the local disk.

    Attributes:
        scratch: folder of the copies.
    """

    scratch: str

    def read(self, due: DueUnit) -> pa.Table:
        """The rows of a unit."""
        path = os.path.join(self.scratch, f"{due.unit.index}.arrow")
        return pa.ipc.open_file(pa.memory_map(path)).read_all()

    def results(self, due: DueUnit, table: pa.Table) -> Iterator[UnitResult]:
        """All of them."""
        ids = IdSet.of(table["query_id"])
        for output, key in due.keys.items():
            yield UnitResult(output=output, key=key, rows=table, ids_in=ids, ids_out=ids)


def copy_units(spec: ImportSpec, schema: pa.Schema, fingerprint: str, scratch: str) -> list[Unit]:
    """Copy a ranking to the local disk, a file for each unit; these are known when it was read.

    Args:
        spec: of the job.
        schema: of the copies.
        fingerprint: of the source, the identity of its units.
        scratch: folder for the copies.

    Raises:
        InputError: no ranking, or a bad line, or ids that are no numbers where they should be.
    """
    units: list[Unit] = []
    row = 0
    for table in _blocks(spec, schema):
        stop = row + len(table)
        unit = Unit(len(units), spec.source, fingerprint, "parquet", start=row, stop=stop)
        with pa.ipc.new_file(os.path.join(scratch, f"{unit.index}.arrow"), schema) as writer:
            writer.write_table(table)
        units.append(unit)
        row = stop
    if not units:
        raise InputError(f"{redact(spec.source)}: an empty ranking, nothing to import")
    return units


def _blocks(spec: ImportSpec, schema: pa.Schema) -> Iterator[pa.Table]:
    """Whole queries, best first, about as many rows as a data file has."""
    tables: list[pa.Table] = []
    for queries in whole_queries(read_rankings(spec.source, spec.format)):
        try:
            rows = with_ranks(best_first(queries)).select(schema.names).cast(schema)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{redact(spec.source)}: ids cannot be read as {spec.ids} ({error}); leave out "
                "--ids"
            ) from None
        tables.append(rows)
        if sum(map(len, tables)) >= _ROWS_PER_UNIT:
            yield pa.concat_tables(tables)
            tables = []
    if tables:
        yield pa.concat_tables(tables)
