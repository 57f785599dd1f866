"""``stx show``: what is in a dataset."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stx.jobs.terminal import say

if TYPE_CHECKING:
    import pyarrow as pa

# Characters of a cell that are shown.
_CELL = 110


def show(
    path: Annotated[str, typer.Argument(help="Dataset that `stx encode` wrote.")],
    files: Annotated[bool, typer.Option("--files", help="List the files, one a line.")] = False,
    output: Annotated[str | None, typer.Option(help="Only this output.")] = None,
    version: Annotated[int | None, typer.Option(help="A version other than the current.")] = None,
    rows: Annotated[int | None, typer.Option(help="Print the first rows instead.")] = None,
    all_versions: Annotated[
        bool, typer.Option("--versions", help="List the versions that can be opened.")
    ] = False,
) -> None:
    """Show the current snapshot, or list its files for other engines."""
    from stx.pipelines.telemetry.report import page_url
    from stx_core.store.data_file import head
    from stx_core.store.files.filesystem import list_names
    from stx_core.store.snapshot import open_snapshot, snapshot_files, snapshot_info, versions

    if all_versions:
        for each in versions(path):
            rows = ", ".join(f"{name} {part['rows']:,}" for name, part in each.outputs.items())
            say(f"{each.version}  {each.created}  run {each.run}  rows: {rows}")
        return
    if files:
        for url in snapshot_files(path, output=output, version=version):
            say(url)
        return
    if rows is not None:
        _say_rows(head(open_snapshot(path, output=output, version=version), rows))
        return
    info = snapshot_info(path, version=version)
    say(f"{path}: version {info.version}, committed {info.created} by run {info.run}")
    _tell_state(path)
    page = page_url(path, info.version)
    if list_names(page.rpartition("/")[0]):
        say(f"  report: {page}")
    for name, part in info.outputs.items():
        if output in (None, name):
            size = f"{part['bytes'] / 1e6:,.1f} MB"
            say(f"  {name}: {part['file_rows']:,} rows, {_shape(part)}, {size}")
            if "model" in part:
                say(f"    model        {part['model']}{_how(part)}")
            say(f"    fingerprint  {part['fingerprint']}")
            say(f"    quarantined  {part['rows_quarantined']:,} rows")
            for field in open_snapshot(path, output=name, version=version).schema:
                say(f"    {field.name:<18} {field.type}")


def _say_rows(table: "pa.Table") -> None:
    for row in table.to_pylist():
        for name, value in row.items():
            say(f"  {name:<14} {_short(value)}")
        say()


def _tell_state(path: str) -> None:
    """Whether a version is held, and when all bytes were last read and compared."""
    from stx_core.store import log
    from stx_core.store.verify import last_verified

    last = log.latest(path)
    if last is not None and (held := log.pinned_version(last.state)) is not None:
        say(f"  held         version {held}, by `stx rollback`; --release lets runs commit")
    told = last_verified(path)
    said = "never (stx verify)"
    if told is not None:
        said = f"version {told['version']}, {told['at']}, problems: {told['problems']}"
    say(f"  verified     {said}")


def _short(value: Any) -> str:  # noqa: ANN401  (a cell)
    """A cell in one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"


def _how(part: dict[str, Any]) -> str:
    """What is known of how the model ran."""
    dtype = part.get("settings", {}).get("dtype")
    similarity = part.get("similarity")
    facts = [f"computed in {dtype}"] if dtype else []
    facts += [f"{similarity} similarity"] if similarity else []
    return f" ({', '.join(facts)})" if facts else ""


def _shape(part: dict[str, Any]) -> str:
    if part["type"] == "dense":
        return f"{part['dim']} x {part['store_as']}"
    return str(part["type"])
