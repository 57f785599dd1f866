"""Damaged files of a dataset, written again from their input: ``stx verify --repair``."""

from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa

from stx.pipelines.encode import run_encode
from stx.pipelines.encoding.stored_encoder import stored_encoder
from stx.pipelines.engine.runs import View
from stx.pipelines.planning.corpus import list_corpus, with_held_identities
from stx.pipelines.spec.code import refuse_code
from stx.pipelines.spec.encode import EncodeSpec
from stx.pipelines.spec.file import read_spec
from stx.pipelines.spec.parts import Output
from stx.pipelines.telemetry.report import Report
from stx_core.errors import SpecError
from stx_core.store import damage
from stx_core.store.files.urls import redact
from stx_core.store.snapshot import read_manifest, snapshot_info


@dataclass(frozen=True)
class Repaired:
    """Outcome of a repair of the damaged files of a snapshot.

    Attributes:
        report: of the run that wrote them again; None where nothing could be.
        n_files: that were damaged.
        lost: URLs of shards that are gone or have changed, whose files stay as they are.
    """

    report: Report | None
    n_files: int
    lost: tuple[str, ...]


def repair(
    root: str,
    view: View | None = None,
    *,
    model: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    allow_code: bool = False,
) -> Repaired:
    """Encode the units of files that are missing, cut or noted as damaged; commit a new version.

    Nothing else changes: other units are named as they are, and what the corpus has become since is
    left to the next `stx encode`. Where to read and how comes from the dataset, which may come
    from anyone; so its store, alerts and trust are not taken from there.

    Args:
        root: the dataset, of `stx encode`.
        view: watches the run.
        model: folder of the model, if it is not where the dataset says.
        trust_remote_code: run code of the model's folder, if the output was written that way.
        allow_pickle: load pickled weights, if the output was written that way.
        allow_code: run the function that its ``inputs.map`` named.

    Raises:
        SpecError: how its texts were read is not known any more, or needs more trust.
        ModelError: the model's files are not there, or need more trust.
        StoreError: there is no snapshot.
    """
    manifest = read_manifest(root)
    bad = damage.damaged_files(root, manifest)
    rows = manifest.filter(damage.names_one(manifest, bad))
    if not bad:
        return Repaired(None, 0, ())
    trust = {"trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle}
    spec = _spec(root, manifest, model, trust)
    if not allow_code:
        refuse_code(spec, redact(root))
    places = set(zip(*(rows[name].to_pylist() for name in ("url", "identity")), strict=True))
    corpus = with_held_identities(list_corpus(spec.inputs), places)
    same = {shard.url for shard in corpus.shards if (shard.url, shard.identity) in places}
    lost = tuple(sorted({url for url, _ in places} - same))
    report = run_encode(spec, view, repairs=frozenset(same)) if same else None
    return Repaired(report, len(bad), lost)


def _spec(root: str, manifest: pa.Table, model: str | None, trust: dict[str, bool]) -> EncodeSpec:
    """The spec of the run that wrote a snapshot, as far as it decides the rows."""
    info = snapshot_info(root)
    runs = [info.run, *sorted(manifest["run"].unique().to_pylist(), reverse=True)]
    for run in runs:
        with suppress(FileNotFoundError, SpecError):
            stored = read_spec(root, run)
            break
    else:
        raise SpecError(
            f"{redact(root)}: how its texts were read is not known any more (gc removed the runs); "
            "run `stx encode` with its spec, which encodes damaged units again, too"
        )
    models = {}
    for name, facts in info.outputs.items():
        settings = stored_encoder(facts, redact(root), model=model, **trust)
        written_by = {key: getattr(settings, key) for key in ("model", "revision", *trust)}
        models[name] = stored.models[name].model_copy(update=written_by)
    output = Output(path=root, empty_text=stored.output.empty_text)
    resources = {"rows_per_unit": stored.resources.rows_per_unit}
    values = EncodeSpec(inputs=stored.inputs, models=models, output=output)
    return values.model_copy(update={"resources": values.resources.model_copy(update=resources)})
