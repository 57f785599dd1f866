"""What a dataset has already: its current snapshot, and the finished units of a stopped run."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.planning.scope import Scope
from stx_core.store import damage, ledger, log
from stx_core.store.corpus.units import UNITS
from stx_core.store.log_state import OutputFacts, unfinished_run
from stx_core.store.manifest import MANIFEST, split_shards
from stx_core.store.snapshot import read_manifest, snapshot_info

UNIT_KEYS = pa.schema([MANIFEST.field("output"), MANIFEST.field("key")])
"""Units of a snapshot, a row each."""

# A plan asks only this of records, which are three times as large.
_RECORDS = pa.schema(
    [
        MANIFEST.field("key"),
        *map(UNITS.field, ("url", "identity")),
        *map(MANIFEST.field, damage.NAMING),
    ]
)


@dataclass(frozen=True)
class DatasetState:
    """A dataset as a start of a run found it.

    Attributes:
        version: of the current snapshot; 0 for none.
        outputs: what the snapshot says of its outputs.
        carried: units in the snapshot, of shards that the run speaks about, see `UNIT_KEYS`.
        done: keys with a record of an interrupted start.
        run: the unfinished run of the spec that they belong to; empty for none.
        kept: units of the shards that stay as they are, likewise.
        damaged: units in the snapshot, of shards that the run speaks about, whose files are not
            what was written: they are to be done again; likewise.
        damaged_files: names of all such files, see `damage.damaged_files`.
        identities: shards, by URL and identity, that the snapshot or the records speak of.
    """

    version: int = 0
    outputs: Mapping[str, OutputFacts] = field(default_factory=dict)
    carried: pa.Table = field(default_factory=UNIT_KEYS.empty_table)
    done: pa.ChunkedArray = field(default_factory=lambda: pa.chunked_array([], pa.string()))
    run: str = ""
    kept: pa.Table = field(default_factory=UNIT_KEYS.empty_table)
    damaged: pa.Table = field(default_factory=UNIT_KEYS.empty_table)
    damaged_files: frozenset[str] = frozenset()
    identities: frozenset[tuple[str, str]] = frozenset()

    def has(self, output: str, keys: pa.Array) -> pa.BooleanArray:
        """(N,) whether a key of an output is in `carried`."""
        of_output = pc.equal(self.carried["output"], output)
        return pc.is_in(keys, value_set=self.carried["key"].filter(of_output))


def read_state(root: str, run_hash: str, scope: Scope = Scope()) -> DatasetState:  # noqa: B008  (frozen)
    """Look at a dataset: its current snapshot, and the records of an unfinished run.

    Args:
        root: the dataset.
        run_hash: of the run whose records count.
        scope: shards that the run speaks about.
    """
    entry = log.latest(root)
    if entry is None:
        return DatasetState()
    run = unfinished_run(entry.state, run_hash) or ""
    records = ledger.load(root, run, schema=_RECORDS) if run else _RECORDS.empty_table()
    version, outputs, manifest = 0, {}, MANIFEST.empty_table()
    if entry.state["snapshot"] is not None:
        info = snapshot_info(root)
        version, outputs = info.version, info.outputs
        manifest = read_manifest(root, version)
    both = pa.concat_tables([manifest.select(_RECORDS.names).cast(_RECORDS), records])
    damaged_files = damage.damaged_files(root, both)
    # It keeps what it freed: the plan that follows is to come in its place, not on top.
    pa.default_memory_pool().release_unused()
    if run and damaged_files:
        records = ledger.load(root, run, damaged_files, _RECORDS)
    shards = both.select(["url", "identity"]).unify_dictionaries()
    shards = shards.group_by(["url", "identity"]).aggregate([])
    kept, in_scope = split_shards(manifest, scope.keeps)
    is_damaged = damage.names_one(in_scope, damaged_files)
    return DatasetState(
        version,
        outputs,
        carried=in_scope.filter(pc.invert(is_damaged)).select(UNIT_KEYS.names),
        done=records["key"],
        run=run,
        kept=kept.select(UNIT_KEYS.names),
        damaged=in_scope.filter(is_damaged).select(UNIT_KEYS.names),
        damaged_files=damaged_files,
        identities=frozenset(zip(*shards.to_pydict().values(), strict=True)),
    )
