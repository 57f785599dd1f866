"""Datasets written in the forms of other tools."""

import os
from dataclasses import fields
from typing import Any

import pyarrow.compute as pc

from stx.pipelines.exports.forms import FORMS, ExportForm
from stx.pipelines.exports.options import ExportOptions
from stx_core.errors import SpecError
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.files.filesystem import SCHEMES, refuse_credentials
from stx_core.store.files.urls import scheme
from stx_core.store.snapshot import open_snapshot, read_manifest, snapshot_info

_OPTIONS = {field.name for field in fields(ExportOptions)}


def run_export(
    path: str,
    destination: str,
    format: str,
    *,
    output: str | None = None,
    tag: str = "stx",
    **more: Any,  # noqa: ANN401
) -> int:
    """Write one output of a dataset in another form.

    Args:
        path: the dataset.
        destination: file, folder, URL or name inside an engine; see the form's writer.
        format: a name of `stx.pipelines.exports.forms.FORMS`.
        output: which output; needed when there are several.
        tag: see `ExportOptions`.
        more: further fields of `ExportOptions`, or options of the form's own; None where not given.

    Returns:
        How many rows were written.

    Raises:
        SpecError: the format is unknown, an option does not go with it, the destination exists or
            its name does not fit, the kind of vectors does not, or a package is not installed.
        InputError: the dataset holds what the form cannot; see its writer.
        StoreError: no snapshot, no such output, or the destination cannot be written.
    """
    form = FORMS.named(format, f"--format {format}")
    more = {name: value for name, value in more.items() if value is not None}
    _check_options(format, form, list(more))
    destination = os.path.expanduser(destination)
    if scheme(destination) in SCHEMES:
        refuse_credentials(destination)
    if not form.one_file and not more.get("catalog"):
        refuse_overlap(destination, [path], "the destination")
    info = snapshot_info(path)
    dataset = open_snapshot(path, output=output, version=info.version)
    name = output or next(iter(info.outputs))
    # The files of the output, in the order in which it is opened.
    manifest = read_manifest(path, info.version)
    is_file = pc.and_(pc.equal(manifest["output"], name), pc.not_equal(manifest["file"], ""))
    files = manifest.filter(is_file)
    options = ExportOptions(
        source=path,
        facts=info.outputs[name],
        file_rows=tuple(files["rows_out"].to_pylist()),
        checksums=tuple(files["checksum"].to_pylist()),
        tag=tag,
        own={key: value for key, value in more.items() if key not in _OPTIONS},
        **{key: value for key, value in more.items() if key in _OPTIONS},
    )
    return form.writer()(dataset, destination, options)


def _check_options(format: str, form: ExportForm, names: list[str]) -> None:
    for name in names:
        if name in form.options:
            continue
        others = [other for other, own in FORMS.usable().items() if name in own.options]
        if not others:
            takes = ", ".join(form.options) or "none"
            raise SpecError(f"--option {name}: no form has it; those of {format}: {takes}")
        raise SpecError(f"--{name} goes with {', '.join(others)}, not {format}")
