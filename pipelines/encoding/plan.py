"""Work that outputs of `encode` still need, where rows may come from, and the time it takes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from stx.pipelines.encoding.carry import Source
from stx.pipelines.encoding.estimate import EncoderProbe
from stx.pipelines.encoding.keys import unit_keys
from stx.pipelines.models.settings import EncoderSettings, fingerprint
from stx.pipelines.planning.dataset_state import DatasetState
from stx.pipelines.planning.plan import Part, Plan, make_part
from stx.pipelines.spec.encode import EncodeSpec
from stx_core.errors import SpecError
from stx_core.store.corpus.units import Units
from stx_core.store.log_state import OutputFacts


@dataclass(frozen=True, kw_only=True)
class EncoderPart(Part):
    """Work that one output needs.

    Attributes:
        settings: its encoder.
        rows_due: rows of the due units, before filters.
        rows_to_encode: about how many of them are not in the current snapshot.
        rows_carried: about how many of them are.
        rows_superseded: rows of the current snapshot in units that the new one will not have.
        source: where rows of the due units may be taken from; None for nowhere.
        probe: measured on a sample; None before that, or when nothing is due.
    """

    settings: EncoderSettings
    rows_due: int
    rows_to_encode: int
    rows_carried: int = 0
    rows_superseded: int = 0
    source: Source | None = None
    probe: EncoderProbe | None = None

    @property
    def rows_gone(self) -> int:
        """About how many rows of the current snapshot are deleted, or replaced by new texts."""
        return max(0, self.rows_superseded - self.rows_carried)


@dataclass(frozen=True)
class EncodePlan(Plan):
    """Units of one corpus, and the work that each output still needs of them."""

    parts: Mapping[str, EncoderPart]

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Duration of the encoding, from and to, with the most actors that the pool may have.

        The range is two standard errors of the sample's mean length, and the spread of the speeds
        that were measured. None where it cannot be measured from here.
        """
        if self.pool is None:
            return None
        low = high = 0.0
        for part in self.parts.values():
            if not part.due or part.probe is None or not part.probe.tokens_per_second:
                continue
            if (part.probe.device != "cpu") != (self.pool.gpus > 0):
                return None
            least, most = part.probe.seconds_per_row
            low += part.rows_to_encode * least
            high += part.rows_to_encode * most
        # The sample ran on the cores of one actor.
        return low / self.pool.actors, high / self.pool.actors


def make_plan(
    spec: EncodeSpec,
    units: Units,
    schema: pa.Schema,
    *,
    encoders: Mapping[str, EncoderSettings],
    state: DatasetState,
) -> EncodePlan:
    """Subtract the work that is done from that of the spec. Pure.

    Raises:
        SpecError: the spec lacks an output that the dataset has, or would have an output of two
            encoders.
    """
    if missing := sorted(state.outputs.keys() - encoders.keys()):
        raise SpecError(
            f"models: {spec.output.path} has the outputs {', '.join(sorted(state.outputs))}, the "
            f"spec only {', '.join(encoders)}; add {', '.join(missing)}, or set another output.path"
        )
    parts = {}
    for name, settings in encoders.items():
        digest = fingerprint(settings)
        if state.kept and state.outputs.get(name, {}).get("fingerprint") != digest:
            raise SpecError(
                f"backfill: output {name} of {spec.output.path} is of another encoder, or not "
                "there; a backfill cannot mix them, encode the whole corpus first"
            )
        keys = unit_keys(spec, units, schema, output=name, output_fingerprint=digest)
        part = make_part(name, digest, keys, state)
        rows_due = units.count_rows(part.due)
        parts[name] = EncoderPart(
            **vars(part),
            settings=settings,
            rows_due=rows_due,
            rows_to_encode=rows_due,
            source=find_source(name, settings, state.outputs) if part.due else None,
        )
    return EncodePlan(spec.output.path, units, parts, state)


def find_source(
    name: str, settings: EncoderSettings, outputs: Mapping[str, OutputFacts]
) -> Source | None:
    """The output of the current snapshot that an output's vectors can be taken from, if any.

    That is one of the same encoder, itself before others; else one that keeps more dimensions and
    differs in nothing else, for the leading numbers of a vector do not depend on where it is cut.

    Args:
        name: of the output.
        settings: of its encoder.
        outputs: what the snapshot says of its outputs.
    """
    # Itself first.
    order = sorted(outputs, key=lambda output: output != name)
    for output in order:
        if outputs[output]["fingerprint"] == fingerprint(settings):
            return Source(output)
    cut = settings.truncate_dim or 0
    for output in order if cut else []:
        facts = outputs[output]
        if facts["type"] == "dense" and (facts["dim"] or 0) > cut:
            as_long = replace(settings, truncate_dim=facts["settings"]["truncate_dim"])
            if facts["fingerprint"] == fingerprint(as_long):
                return Source(output, settings.truncate_dim, settings.normalize)
    return None
