"""Reading and writing the units of an encode run, and its passes over them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.encoding import carry
from stx.pipelines.encoding.plan import EncodePlan
from stx.pipelines.encoding.repeated import (
    hash_pass,
    index_repeated,
    read_repeated,
    repeated_units,
    with_repeated,
)
from stx.pipelines.encoding.results import output_result
from stx.pipelines.engine.passes import Facts, Pass, Passes
from stx.pipelines.engine.runs import Start
from stx.pipelines.engine.unit_files import UnitResult
from stx.pipelines.models.settings import VECTOR_COLUMN
from stx.pipelines.planning.corpus import Corpus, priority, read_unit
from stx.pipelines.planning.plan import DueUnit
from stx.pipelines.running import unit_table
from stx.pipelines.spec.encode import EncodeSpec


@dataclass(frozen=True)
class EncodeUnits:
    """All that readers and writers of a run need; small and picklable.

    Attributes:
        spec: of the job.
        schema: of the corpus.
        facts: by output, see `results.output_facts`.
        schemas: by output, of its files.
        sources: by output, where rows may be taken from.
    """

    spec: EncodeSpec
    schema: pa.Schema
    facts: Facts
    schemas: Mapping[str, pa.Schema]
    sources: Mapping[str, carry.Source]

    def read(self, due: DueUnit) -> pa.Table:
        """The rows of a unit, with the places of those that the snapshot has."""
        spec, names = self.spec, list(due.keys)
        table = read_unit(due.unit, self.schema, spec.inputs, spec.output)
        for name in self.sources.keys() & set(names):
            table = carry.mark(table, name, self.sources[name], spec.output.path)
        texts = {name: carry.texts_to_encode(table, name) for name in names}
        to_encode = [name for name in names if texts[name].null_count < len(table)]
        return unit_table.with_notes(table, due=to_encode)

    def results(self, due: DueUnit, table: pa.Table) -> Iterator[UnitResult]:
        """The rows of all due outputs: encoded, or as the snapshot has them."""
        for name, key in due.keys.items():
            schema, facts = self.schemas[name], self.facts[name]
            vector = schema.field(VECTOR_COLUMN[facts["type"]])
            source = self.sources.get(name)
            table = carry.complete(table, name, vector, source, self.spec.output.path)
            yield output_result(due.unit, table, output=name, key=key, schema=schema, facts=facts)


def encode_passes(plan: EncodePlan, corpus: Corpus, start: Start) -> Passes:
    """One pass over the due units; before it two more where equal texts are encoded once.

    Args:
        plan: with published sources.
        corpus: the input.
        start: of the run.
    """
    spec = start.spec
    ranks = priority(corpus, spec.resources.order)
    due = plan.due_units(ranks)
    sources = {name: part.source for name, part in plan.parts.items() if part.source}
    units = EncodeUnits(spec, corpus.schema, plan.facts, plan.schemas, sources)
    if spec.output.dedupe == "corpus" and len(due) > 1:
        yield hash_pass(due, units.read, start)
        index = index_repeated(start, len(due))
        firsts = repeated_units(due, index)
        done = set(start.records["key"].to_pylist())
        missing = [first for first in firsts if not done >= set(first.keys.values())]
        read = partial(read_repeated, read=units.read, index=index)
        # The encoders tokenise where nothing was tokenised for them.
        fresh = yield Pass(missing, read, plan.stages[-1:], units.results, shown=False)
        keys = pa.array([key for first in firsts for key in first.keys.values()], pa.string())
        records = pa.concat_tables([start.records, fresh])
        records = records.filter(pc.is_in(records["key"], value_set=keys))
        units = replace(units, sources=with_repeated(sources, records, start))
    yield Pass(due, units.read, plan.stages, units.results)
    return {}
