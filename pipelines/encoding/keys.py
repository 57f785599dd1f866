"""Hashes of the work of `encode`: of a whole run, and of each unit."""

import hashlib
import json
from collections.abc import Mapping, Sequence, Set

import pyarrow as pa

from stx.pipelines.models.settings import EncoderSettings, fingerprint
from stx.pipelines.planning.mapping import map_code
from stx.pipelines.spec.encode import EncodeSpec
from stx.pipelines.spec.parts import Inputs
from stx_core.store.corpus.units import Units, unit_key

# Keys of `inputs` that every hash has.
_FIRST_INPUTS = (
    *("path", "format", "id_column", "text_column", "text_separator", "columns"),
    *("max_text_bytes", "filter"),
)

# Part of every unit key: what is written for the same input changes with it.
FORMAT_VERSION = 1


def run_hash(
    spec: EncodeSpec, encoders: Mapping[str, EncoderSettings], repairs: Sequence[str] = ()
) -> str:
    """Hash of the work of a spec: two starts with the same one are the same run.

    Args:
        spec: of the job.
        encoders: by output.
        repairs: shards whose damaged files alone are to be written again; none for a usual run.
    """
    values: dict[str, object] = {
        "inputs": _reading(spec.inputs),
        "fingerprints": {name: fingerprint(settings) for name, settings in encoders.items()},
        "backfill": spec.backfill and spec.backfill.model_dump(mode="json"),
        "empty_text": spec.output.empty_text,
        "rows_per_unit": spec.resources.rows_per_unit,
        "format": FORMAT_VERSION,
        **_joining(spec),
    }
    if repairs:
        values["repairs"] = list(repairs)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _reading(inputs: Inputs, exclude: Set[str] = frozenset()) -> dict[str, object]:
    """Values that decide how rows are read; a key that came later only where it is set.

    So what an earlier stx made of the same spec is still the same work.
    """
    later = {
        name
        for name, field in Inputs.model_fields.items()
        if name not in _FIRST_INPUTS
        and getattr(inputs, name) == field.get_default(call_default_factory=True)
    }
    values = inputs.model_dump(mode="json", exclude={*exclude, *later})
    if code := map_code(inputs):
        values["map_code"] = code
    return values


def unit_keys(
    spec: EncodeSpec,
    units: Units,
    schema: pa.Schema,
    *,
    output: str,
    output_fingerprint: str,
) -> pa.Array:
    """(N,) string, the key of each unit for one output: same work, same key, in every run."""
    copied = (spec.inputs.id_column, *spec.inputs.columns)
    fields = {
        # A new shard may widen the type of a column for all of them.
        "types": {field.name: str(field.type) for field in schema if field.name in copied},
        "output": output,
        "fingerprint": output_fingerprint,
        "inputs": _reading(spec.inputs, exclude={"path"}),
        "empty_text": spec.output.empty_text,
        "format": FORMAT_VERSION,
        **_joining(spec),
    }
    return pa.array((unit_key(unit, fields) for unit in units), pa.string())


def _joining(spec: EncodeSpec) -> dict[str, int]:
    """Joining of several text columns to one text; 2 since empty ones are left out as nulls are.

    Units of one text column keep the keys that they had. Of others the texts that are the same as
    before are carried over by their hashes.
    """
    return {"joining": 2} if len(spec.inputs.text_columns) > 1 else {}
