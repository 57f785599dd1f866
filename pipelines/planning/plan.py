"""Spec and inputs to a plan: which units each output still needs, and what they will cost."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.encoding.carry import Source
from pipelines.encoding.stages import HUB_ORGANISATION, EncoderSettings
from pipelines.planning.estimate import EncoderProbe
from pipelines.planning.pool import Pool
from pipelines.planning.scope import Scope
from pipelines.reranking.scorers import RerankerSettings
from pipelines.spec.encode import EncodeSpec
from pipelines.spec.parts import Inputs, Model
from pipelines.spec.retrieval import Reranker
from stx_core.errors import SpecError
from stx_core.models.contents import fingerprint_files
from stx_core.models.folder import resolve_folder
from stx_core.store import damage, ledger, log
from stx_core.store.corpus.units import Unit, unit_key
from stx_core.store.manifest import MANIFEST, split_shards
from stx_core.store.snapshot import read_manifest, snapshot_info, to_info

# Keys of `inputs` that every hash has.
_FIRST_INPUTS = (
    *("path", "format", "id_column", "text_column", "text_separator", "columns"),
    *("max_text_bytes", "filter"),
)

# Part of every unit key: what is written for the same input changes with it.
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Part:
    """What one output needs.

    Attributes:
        settings: its encoder.
        fingerprint: hash of all that changes its vectors.
        keys: (units,) unit keys, in the order of the plan's units.
        due: units to encode, as indices into the plan's units.
        n_carried: units that the current snapshot has already.
        n_done: units that an interrupted start of this run has finished.
        rows_due: rows of the due units, before filters.
        rows_to_encode: about how many of them are not in the current snapshot.
        rows_carried: about how many of them are.
        rows_superseded: rows of the current snapshot in units that the new one will not have.
        source: where rows of the due units may be taken from; None for nowhere.
        probe: measured on a sample; None before that, or when nothing is due.
    """

    settings: EncoderSettings
    fingerprint: str
    keys: tuple[str, ...]
    due: tuple[int, ...]
    n_carried: int
    n_done: int
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
class Plan:
    """Units of one corpus and what each output still needs of them.

    Attributes:
        inputs: where the corpus is.
        output: the dataset.
        units: of the corpus.
        parts: by output.
        pool: the actors; None before that is known.
        notes: what else a reader of the plan should know, one line each.
    """

    inputs: tuple[str, ...]
    output: str
    units: tuple[Unit, ...]
    parts: Mapping[str, Part]
    pool: Pool | None = None
    notes: tuple[str, ...] = ()

    @property
    def n_rows(self) -> int:
        """Rows of the corpus, before filters."""
        return sum(unit.n_rows for unit in self.units)

    @functools.cached_property
    def due(self) -> dict[int, list[str]]:
        """Units to read, by index, and the outputs that each is due for."""
        work: dict[int, list[str]] = {}
        for name, part in self.parts.items():
            for index in part.due:
                work.setdefault(index, []).append(name)
        return dict(sorted(work.items()))

    @property
    def n_due(self) -> int:
        """Number of units to read."""
        return len(self.due)

    @property
    def n_due_rows(self) -> int:
        """Rows of the units to read."""
        return sum(self.units[index].n_rows for index in self.due)

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


def encoder_settings(model: Model) -> EncoderSettings:
    """Resolve a model to a verified folder and hash it.

    Raises:
        ModelError: not found, or not a model folder.
    """
    return EncoderSettings(**resolved(model, HUB_ORGANISATION[model.type]))


def resolved(model: Model | Reranker, organisation: str) -> dict[str, Any]:
    """The values of a model in a spec, with its folder found and hashed.

    Raises:
        ModelError: not found, or not a model folder.
    """
    folder = resolve_folder(
        model.model,
        default_org=organisation,
        revision=model.revision,
        allow_pickle=model.allow_pickle,
    )
    local = Path(model.model).expanduser().exists()
    return model.model_dump() | {
        "model": str(folder.resolve()) if local else model.model,
        # A hub snapshot is kept in a folder that is named by its commit.
        "revision": None if local else folder.name,
        "files": fingerprint_files(folder, allow_pickle=model.allow_pickle),
    }


def fingerprint(settings: EncoderSettings | RerankerSettings) -> str:
    """Hash of everything that changes an output: files and settings, not where the files are."""
    values = settings.as_dict()
    for irrelevant in ("model", "revision", "trust_remote_code", "allow_pickle"):
        del values[irrelevant]
    return _digest(values)


def content_hash(
    spec: EncodeSpec, fingerprints: Mapping[str, str], repairs: Sequence[str] = ()
) -> str:
    """Hash of what the spec asks for: two starts with the same one are the same run.

    Args:
        spec: of the job.
        fingerprints: of its encoders, by output.
        repairs: shards whose damaged files alone are to be written again; none for a usual run.
    """
    asked: dict[str, object] = {
        "inputs": _asked_inputs(spec.inputs),
        "fingerprints": dict(fingerprints),
        "backfill": spec.backfill and spec.backfill.model_dump(mode="json"),
        "empty_text": spec.output.empty_text,
        "rows_per_unit": spec.resources.rows_per_unit,
        "format": FORMAT_VERSION,
        **_joining(spec),
    }
    if repairs:
        asked["repairs"] = list(repairs)
    return _digest(asked)


def _asked_inputs(inputs: Inputs, exclude: Set[str] = frozenset()) -> dict[str, Any]:
    """What decides how rows are read; a key that came later only where it is set.

    So what an earlier stx made of the same spec is still the same work.
    """
    later = {
        name
        for name, field in Inputs.model_fields.items()
        if name not in _FIRST_INPUTS
        and getattr(inputs, name) == field.get_default(call_default_factory=True)
    }
    return inputs.model_dump(mode="json", exclude={*exclude, *later})


def _digest(values: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def unit_keys(
    spec: EncodeSpec,
    units: Sequence[Unit],
    schema: pa.Schema,
    output: str,
    output_fingerprint: str,
) -> tuple[str, ...]:
    """The key of each unit for one output: same work, same key, in every run."""
    written = (spec.inputs.id_column, *spec.inputs.columns)
    fields = {
        # A new shard may widen the type of a column for all of them.
        "types": {field.name: str(field.type) for field in schema if field.name in written},
        "output": output,
        "fingerprint": output_fingerprint,
        "inputs": _asked_inputs(spec.inputs, exclude={"path"}),
        "empty_text": spec.output.empty_text,
        "format": FORMAT_VERSION,
        **_joining(spec),
    }
    return tuple(unit_key(unit, fields) for unit in units)


def _joining(spec: EncodeSpec) -> dict[str, int]:
    """How several text columns become one text; 2 since empty ones are left out as null ones are.

    Units of one text column keep the keys that they had. Of others the texts that are the same as
    before are carried over by their hashes.
    """
    return {"joining": 2} if len(spec.inputs.text_columns) > 1 else {}


@dataclass(frozen=True)
class Held:
    """What exists already: by output, the keys of the current snapshot; keys of finished units.

    Attributes:
        version: of the current snapshot; 0 for none.
        outputs: what the snapshot says of its outputs.
        carried: (output, key) pairs in the snapshot, of shards that the run speaks about.
        done: keys with a record of an interrupted start.
        run: the unfinished run of the spec that they belong to; empty for none.
        kept: (output, key) pairs of the shards that stay as they are.
        damaged: (output, key) pairs in the snapshot, of shards that the run speaks about, whose
            files are not what was written: they are to be done again.
        damaged_files: names of all such files, see `damage.damaged_files`.
        identities: shards, by URL and identity, that the snapshot or the records speak of.
    """

    version: int
    outputs: Mapping[str, Mapping[str, Any]]
    carried: frozenset[tuple[str, str]]
    done: frozenset[str]
    run: str = ""
    kept: frozenset[tuple[str, str]] = frozenset()
    damaged: frozenset[tuple[str, str]] = frozenset()
    damaged_files: frozenset[str] = frozenset()
    identities: frozenset[tuple[str, str]] = frozenset()


def read_held(root: str, spec_hash: str, scope: Scope = Scope()) -> Held:  # noqa: B008  (frozen)
    """Look at the dataset: its current snapshot, and records of this spec's unfinished run."""
    entry = log.latest(root)
    if entry is None:
        return Held(0, {}, frozenset(), frozenset())
    run = log.unfinished_run(entry.state, spec_hash) or ""
    records = ledger.load(root, run) if run else ledger.RECORDS.empty_table()
    version, outputs, manifest = 0, {}, MANIFEST.empty_table()
    if entry.state["snapshot"] is not None:
        info = snapshot_info(root)
        version, outputs = info.version, info.outputs
        manifest = read_manifest(root, version)
    names = ["url", "identity", *damage.NAMING]
    both = pa.concat_tables([manifest.select(names), records.select(names)])
    bad = damage.damaged_files(root, both)
    if run and bad:
        records = ledger.load(root, run, bad)
    kept, mine = split_shards(manifest, scope.keeps)
    is_bad = damage.names_one(mine, bad)
    return Held(
        version,
        outputs,
        carried=_pairs(mine.filter(pc.invert(is_bad))),
        done=frozenset(records["key"].to_pylist()),
        run=run,
        kept=_pairs(kept),
        damaged=_pairs(mine.filter(is_bad)),
        damaged_files=bad,
        identities=frozenset(
            zip(*(both[name].to_pylist() for name in ("url", "identity")), strict=True)
        ),
    )


def current_outputs(root: str) -> Mapping[str, Mapping[str, Any]]:
    """What the current snapshot says of its outputs, by name; {} without one."""
    entry = log.latest(root)
    if entry is None or entry.state["snapshot"] is None:
        return {}
    return to_info(entry.state["snapshot"]).outputs


def _pairs(manifest: pa.Table) -> frozenset[tuple[str, str]]:
    columns = (manifest[name].to_pylist() for name in ("output", "key"))
    return frozenset(zip(*columns, strict=True))


def make_plan(
    spec: EncodeSpec,
    units: Sequence[Unit],
    schema: pa.Schema,
    encoders: Mapping[str, EncoderSettings],
    held: Held,
) -> Plan:
    """Subtract what exists from what the spec wants. Pure.

    Raises:
        SpecError: the spec lacks an output that the dataset has, or would have an output of two
            encoders.
    """
    if missing := sorted(held.outputs.keys() - encoders.keys()):
        raise SpecError(
            f"models: {spec.output.path} has the outputs {', '.join(sorted(held.outputs))}, the "
            f"spec only {', '.join(encoders)}; add {', '.join(missing)}, or set another output.path"
        )
    if held.kept:
        _refuse_a_mixture(spec, encoders, held)
    parts = {}
    for name, settings in encoders.items():
        digest = fingerprint(settings)
        keys = unit_keys(spec, units, schema, name, digest)
        carried = [(name, key) in held.carried for key in keys]
        due = tuple(i for i, key in enumerate(keys) if not carried[i] and key not in held.done)
        rows_due = sum(units[index].n_rows for index in due)
        parts[name] = Part(
            settings=settings,
            fingerprint=digest,
            keys=keys,
            due=due,
            n_carried=sum(carried),
            n_done=len(keys) - sum(carried) - len(due),
            rows_due=rows_due,
            rows_to_encode=rows_due,
            source=find_source(name, settings, held.outputs) if due else None,
        )
    return Plan(spec.inputs.paths, spec.output.path, tuple(units), parts)


def _refuse_a_mixture(
    spec: EncodeSpec, encoders: Mapping[str, EncoderSettings], held: Held
) -> None:
    for name, settings in encoders.items():
        if held.outputs.get(name, {}).get("fingerprint") != fingerprint(settings):
            raise SpecError(
                f"backfill: output {name} of {spec.output.path} is of another encoder, or not "
                "there; a backfill cannot mix them, encode the whole corpus first"
            )


def find_source(
    name: str, settings: EncoderSettings, outputs: Mapping[str, Mapping[str, Any]]
) -> Source | None:
    """The output of the current snapshot that an output's vectors can be taken from, if any.

    That is one of the same encoder, itself before others; else one that keeps more dimensions and
    differs in nothing else, for the leading numbers of a vector do not depend on where it is cut.

    Args:
        name: of the output.
        settings: of its encoder.
        outputs: what the snapshot says of its outputs.
    """
    order = sorted(outputs, key=lambda other: other != name)
    for other in order:
        if outputs[other]["fingerprint"] == fingerprint(settings):
            return Source(other)
    for other in order:
        if settings.truncate_dim and _is_longer(outputs[other], settings):
            return Source(other, settings.truncate_dim, settings.normalize)
    return None


def _is_longer(facts: Mapping[str, Any], settings: EncoderSettings) -> bool:
    if facts["type"] != "dense" or facts["dim"] <= settings.truncate_dim:
        return False
    as_long = replace(settings, truncate_dim=facts["settings"]["truncate_dim"])
    return bool(facts["fingerprint"] == fingerprint(as_long))


def is_current(plan: Plan, held: Held) -> bool:
    """Whether the current snapshot is exactly what the plan wants, no more and no less."""
    wanted = {(name, key) for name, part in plan.parts.items() for key in part.keys}
    # A corpus without rows has no keys to compare.
    fingerprints = {name: part.fingerprint for name, part in plan.parts.items()}
    same = {name: facts["fingerprint"] for name, facts in held.outputs.items()} == fingerprints
    return held.version > 0 and same and wanted == held.carried and not held.damaged
