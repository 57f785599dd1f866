"""Rows that the due units may take from the current snapshot: their indexes, and how many."""

import os
from dataclasses import replace

import pyarrow.compute as pc

from stx.pipelines.encoding import carry
from stx.pipelines.encoding.plan import EncodePlan
from stx.pipelines.engine.job import Planning
from stx.pipelines.planning.corpus import Corpus, read_unit
from stx.pipelines.running import unit_table
from stx.pipelines.spec.encode import EncodeSpec
from stx.pipelines.telemetry.tracing import span
from stx_core.store.files.local_disk import scratch_space
from stx_core.store.files.urls import join
from stx_core.store.hash_index import build_index, index_name, named, publish_index, published_index
from stx_core.store.manifest import split_shards
from stx_core.store.snapshot import read_manifest

_SAMPLE_UNITS = 8

_NAMED = ("file", "checksum")


def with_sources(plan: EncodePlan, corpus: Corpus, planning: Planning) -> EncodePlan:
    """Index rows that the due units may take from the snapshot, and estimate how many they will.

    Only files that are not carried over by reference are indexed: rows that moved come from them.
    So a corpus that only grew costs nothing here. The dataset is not touched.

    Args:
        plan: as `make_plan` made it.
        corpus: the input.
        planning: of the run; new indexes are on the local disk while it lasts.
    """
    state = plan.state
    with span("plan", units=plan.n_due):
        if not state.version or not plan.due:
            return plan
        _, manifest = split_shards(read_manifest(plan.root, state.version), corpus.scope.keeps)
        folder = planning.stack.enter_context(scratch_space())
        published = join(plan.root, "_stx", "runs", state.run, "index")
        parts = {}
        for name, part in plan.parts.items():
            # Entries that the new snapshot will not have.
            entries = manifest.filter(pc.equal(manifest["output"], name))
            is_carried = pc.is_in(entries["key"], part.keys)
            entries = entries.filter(pc.invert(is_carried))
            parts[name] = replace(part, rows_superseded=pc.sum(entries["rows_out"]).as_py() or 0)
            if part.source is None:
                continue
            if part.source.output != name:
                entries = manifest.filter(pc.equal(manifest["output"], part.source.output))
            files = [
                named(file, checksum)
                for file, checksum in zip(*(entries[n].to_pylist() for n in _NAMED), strict=True)
                if file and file not in state.damaged_files
            ]
            source = None
            if files:
                url = state.run and published_index(published, files)
                if not url:
                    # Two outputs that take from the same files share an index.
                    url = os.path.join(folder, f"{index_name(files)}.arrow")
                    if not os.path.exists(url):
                        build_index(plan.root, files, url)
                source = replace(part.source, index=url)
            parts[name] = replace(parts[name], source=source)
        return _estimated(replace(plan, parts=parts), planning.spec, corpus)


def publish_sources(plan: EncodePlan, run: str) -> EncodePlan:
    """Put new indexes into the folder of the run, where the workers of all machines find them."""
    folder = join(plan.root, "_stx", "runs", run, "index")
    indexes = {part.source.index for part in plan.parts.values() if part.source}
    urls = {path: path if path.startswith(folder) else publish_index(path, folder)
            for path in indexes}  # fmt: skip
    parts = {
        name: part
        if part.source is None
        else replace(part, source=replace(part.source, index=urls[part.source.index]))
        for name, part in plan.parts.items()
    }
    return replace(plan, parts=parts)


def _estimated(plan: EncodePlan, spec: EncodeSpec, corpus: Corpus) -> EncodePlan:
    """Add rows to encode and to carry over, from a sample of due units; exact if that is all."""
    sources = {name: part.source for name, part in plan.parts.items() if part.source}
    due = plan.indices_due(sources).tolist()
    # A bad row is the run's business, not the estimate's.
    output = spec.output.model_copy(update={"on_bad_rows": "quarantine"})
    counts = {name: [0, 0, 0] for name in sources}
    for index in due[:: max(1, -(-len(due) // _SAMPLE_UNITS))]:
        table = read_unit(plan.units[index], corpus.schema, spec.inputs, output)
        n_good = table.column(unit_table.REJECTED).null_count
        for name in sources.keys() & set(plan.outputs_due(index)):
            marked = carry.mark(table, name, sources[name], plan.root, notes=False)
            n_carried = carry.n_carried(marked, name)
            seen = (plan.units[index].n_rows, n_carried, n_good - n_carried)
            counts[name] = [a + b for a, b in zip(counts[name], seen, strict=True)]
    parts = dict(plan.parts)
    for name, (n_rows, n_carried, n_new) in counts.items():
        scale = parts[name].rows_due / max(1, n_rows)
        parts[name] = replace(
            parts[name],
            rows_carried=round(n_carried * scale),
            rows_to_encode=round(n_new * scale),
        )
    return replace(plan, parts=parts)
