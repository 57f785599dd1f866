"""What differs between two versions of a dataset, by id."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import SpecError
from stx_core.store.data_file import read_columns
from stx_core.store.files.urls import redact
from stx_core.store.log_state import OutputFacts
from stx_core.store.snapshot import (
    exact_ids,
    output_schema,
    snapshot_files,
    snapshot_state,
    versions,
)

_VECTORS = ("embedding", "sparse_embedding")


@dataclass(frozen=True)
class Diff:
    """Ids of an output that differ from one version to another.

    Attributes:
        old: the version before.
        new: the version after.
        output: name of the output.
        added: ids of the new version only.
        removed: ids of the old version only.
        changed: ids of both whose text or copied columns differ; all of both where the model or
            its settings do, since then each vector may.
        n_unchanged: rows of the new version that are neither added nor changed.
    """

    old: int
    new: int
    output: str
    added: pa.Array
    removed: pa.Array
    changed: pa.Array
    n_unchanged: int


def snapshot_diff(
    root: str, old: int | None = None, new: int | None = None, output: str | None = None
) -> Diff:
    """Compare two versions of an output.

    Files that both versions have are not read; of others the ids, the hashes of the texts and the
    copied columns, never the vectors. These stay in memory: bounded by what was written between
    the two. Of rows with the same id the first of a version counts.

    Args:
        root: the dataset.
        old: None for the newest version that can be opened before `new`.
        new: None for the current version.
        output: needed when there are several that have ids.

    Raises:
        SpecError: no such output, or its rows have no ids, or ids of different types.
        StoreError: there is no such version.
    """
    new = snapshot_state(root)["version"] if new is None else new
    if old is None:
        earlier = [info.version for info in versions(root) if info.version < new]
        if not earlier:
            raise SpecError(f"{redact(root)}: no version before {new} can be opened; name two")
        old = earlier[-1]
    before, after = (snapshot_state(root, version)["outputs"] for version in (old, new))
    with_ids = [name for name in after if name in before and exact_ids(after[name])]
    if output is None and len(with_ids) == 1:
        output = with_ids[0]
    if output is None or output not in with_ids:
        raise SpecError(
            f"{redact(root)}: versions {old} and {new} are compared by an output with ids, which "
            f"both have; name one (--output): {', '.join(with_ids) or 'there is none'}"
        )
    kind, kind_after = (
        output_schema(facts[output]).field(exact_ids(facts[output])).type
        for facts in (before, after)
    )
    if kind != kind_after and not (pa.types.is_integer(kind) and pa.types.is_integer(kind_after)):
        raise SpecError(
            f"{redact(root)}: the ids of version {old} are {kind}, those of version {new} are "
            f"{kind_after}, so none is in both; name two versions with ids of one type (`stx show "
            "PATH --versions` lists them)"
        )
    files_before, files_after = (
        snapshot_files(root, output=output, version=version) for version in (old, new)
    )
    rows_before = _read(before[output], files_before, files_after)
    rows_after = _read(after[output], files_after, files_before)
    place = pc.index_in(rows_after["id"], value_set=rows_before["id"])
    is_common = pc.is_valid(place)
    common = rows_after.filter(is_common)
    changed = common["id"]
    if (
        before[output].get("fingerprint") == after[output].get("fingerprint")
        and common.schema == rows_before.schema
    ):
        changed = changed.filter(_differs(common, rows_before.take(place.drop_null())))
    added = rows_after["id"].filter(pc.invert(is_common))
    is_gone = pc.invert(pc.is_in(rows_before["id"], value_set=rows_after["id"]))
    return Diff(
        old,
        new,
        output,
        added=added.combine_chunks(),
        removed=rows_before["id"].filter(is_gone).combine_chunks(),
        changed=changed.combine_chunks(),
        n_unchanged=after[output]["file_rows"] - len(added) - len(changed),
    )


def _read(facts: OutputFacts, files: Sequence[str], others: Sequence[str]) -> pa.Table:
    """Rows of the files that the other version has not, without vectors; ids are called ``id``."""
    ids = exact_ids(facts)
    schema = output_schema(facts).remove_metadata()
    names = [ids, *(name for name in schema.names if name not in (ids, *_VECTORS))]
    fields = pa.schema([schema.field(name) for name in names])
    shared = set(others)
    tables = [read_columns(url, names).cast(fields) for url in files if url not in shared]
    table = pa.concat_tables([fields.empty_table(), *tables])
    return table.rename_columns(["id", *names[1:]])


def _differs(left: pa.Table, right: pa.Table) -> pa.ChunkedArray:
    """Whether rows differ in any column; null equals null, and NaN equals NaN."""
    differs = pa.chunked_array([pa.nulls(len(left), pa.bool_()).fill_null(False)])
    for name in left.column_names:
        a, b = left[name], right[name]
        if pa.types.is_nested(a.type):
            pairs = zip(a.to_pylist(), b.to_pylist(), strict=True)
            one = pa.chunked_array([pa.array([x != y for x, y in pairs], pa.bool_())])
        else:
            one = pc.fill_null(pc.not_equal(a, b), False)
            if pa.types.is_floating(a.type):
                both_nan = pc.and_(pc.is_nan(a), pc.is_nan(b))
                one = pc.and_not(one, pc.fill_null(both_nan, False))
            one = pc.or_(one, pc.xor(pc.is_null(a), pc.is_null(b)))
        differs = pc.or_(differs, one)
    return differs
