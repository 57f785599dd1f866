"""``stx show``: what is in a dataset."""

from typing import Annotated, Any

import typer


def show(
    path: Annotated[str, typer.Argument(help="Dataset that `stx encode` wrote.")],
    files: Annotated[bool, typer.Option("--files", help="List the files, one a line.")] = False,
    output: Annotated[str | None, typer.Option(help="Only this output.")] = None,
    version: Annotated[int | None, typer.Option(help="A version other than the current.")] = None,
    all_versions: Annotated[
        bool, typer.Option("--versions", help="List the versions that can be opened.")
    ] = False,
) -> None:
    """Show the current snapshot, or list its files for other engines."""
    from stx_core.store.snapshot import open_snapshot, snapshot_files, snapshot_info, versions

    if all_versions:
        for each in versions(path):
            rows = ", ".join(f"{name} {part['rows']:,}" for name, part in each.outputs.items())
            print(f"{each.version}  {each.created}  run {each.run}  rows: {rows}")
        return
    if files:
        for url in snapshot_files(path, output=output, version=version):
            print(url)
        return
    info = snapshot_info(path, version=version)
    print(f"{path}: version {info.version}, committed {info.created} by run {info.run}")
    for name, part in info.outputs.items():
        if output in (None, name):
            size = f"{part['bytes'] / 1e6:,.1f} MB"
            print(f"  {name}: {part['file_rows']:,} rows, {_shape(part)}, {size}")
            if "model" in part:
                print(f"    model        {part['model']} ({part['similarity']} similarity)")
            print(f"    fingerprint  {part['fingerprint']}")
            print(f"    quarantined  {part['rows_quarantined']:,} rows")
            for field in open_snapshot(path, output=name, version=version).schema:
                print(f"    {field.name:<18} {field.type}")


def _shape(part: dict[str, Any]) -> str:
    if part["type"] == "dense":
        return f"{part['dim']} x {part['store_as']}"
    return str(part["type"])
