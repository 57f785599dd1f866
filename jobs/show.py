"""``stx show``: what is in a dataset."""

from typing import Annotated

import typer

from stx.jobs.terminal import say

# Characters of a cell that are shown.
_CELL = 110


def show(
    path: Annotated[str, typer.Argument(help="Dataset that `stx encode` wrote.")],
    files: Annotated[bool, typer.Option("--files", help="List the files, one a line.")] = False,
    output: Annotated[str | None, typer.Option(help="Only this output.")] = None,
    version: Annotated[int | None, typer.Option(help="A version other than the current.")] = None,
    rows: Annotated[int | None, typer.Option(help="Print the first rows instead.")] = None,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="List the rows that could not be used, and why.")
    ] = False,
    reason: Annotated[
        str | None, typer.Option(help="Of quarantined rows: only those of this reason.")
    ] = None,
    all_versions: Annotated[
        bool, typer.Option("--versions", help="List the versions that can be opened.")
    ] = False,
) -> None:
    """Show the current snapshot, or list its files for other engines."""
    from stx_core.store.data_file import head
    from stx_core.store.snapshot import open_snapshot, snapshot_files, versions

    if all_versions:
        for info in versions(path):
            counts = ", ".join(f"{name} {part['rows']:,}" for name, part in info.outputs.items())
            say(f"{info.version}  {info.created}  run {info.run}  rows: {counts}")
    elif files:
        for url in snapshot_files(path, output=output, version=version):
            say(url)
    elif quarantined or reason is not None:
        _show_quarantined(path, version=version, output=output, reason=reason, n_rows=rows)
    elif rows is not None:
        for row in head(open_snapshot(path, output=output, version=version), rows).to_pylist():
            for name, value in row.items():
                text = " ".join(str(value).split())
                say(f"  {name:<14} {text if len(text) <= _CELL else text[: _CELL - 1] + '…'}")
            say()
    else:
        _show_snapshot(path, output, version)


def _show_quarantined(
    path: str, *, version: int | None, output: str | None, reason: str | None, n_rows: int | None
) -> None:
    """One line for each quarantined row of a version; then their number by reason."""
    from collections import Counter
    from itertools import islice

    from stx_core.store.snapshot import quarantined_rows

    counts: Counter[str] = Counter()
    for row in islice(quarantined_rows(path, version, output=output, reason=reason), n_rows):
        counts[row["reason"]] += 1
        detail = f": {row['detail']}" if row["detail"] else ""
        say(
            f"{row['file']} row {row['row']} id {row['id']}, column {row['column']}: "
            f"{row['reason']}{detail}"
        )
    say(", ".join(f"{name} {count:,}" for name, count in counts.most_common()) or "no such row")


def _show_snapshot(path: str, output: str | None, version: int | None) -> None:
    """Describe a version and its outputs; also whether one is held, and the last `verify`."""
    from stx.pipelines.telemetry.history import history_url
    from stx.pipelines.telemetry.report import page_url
    from stx_core.store import log
    from stx_core.store.files.filesystem import list_names
    from stx_core.store.log_state import pinned_version
    from stx_core.store.snapshot import open_snapshot, snapshot_info
    from stx_core.store.verify import last_verified

    info = snapshot_info(path, version=version)
    say(f"{path}: version {info.version}, committed {info.created} by run {info.run}")
    entry = log.latest(path)
    if entry is not None and (pinned := pinned_version(entry.state)) is not None:
        say(f"  held         version {pinned}, by `stx rollback`; --release lets runs commit")
    last = last_verified(path)
    verified = "never (stx verify)"
    if last is not None:
        verified = f"version {last.version}, {last.at}, problems: {last.problems}"
    say(f"  verified     {verified}")
    page = page_url(path, info.version)
    if list_names(page.rpartition("/")[0]):
        say(f"  report: {page}")
    folder, _, history = history_url(path).rpartition("/")
    if history in list_names(folder):
        say(f"  history: {folder}/{history}")
    for name, part in info.outputs.items():
        if output not in (None, name):
            continue
        kind = f"{part['dim']} x {part['store_as']}" if part["type"] == "dense" else part["type"]
        say(f"  {name}: {part['file_rows']:,} rows, {kind}, {part['bytes'] / 1e6:,.1f} MB")
        if "model" in part:
            dtype, similarity = part.get("settings", {}).get("dtype"), part.get("similarity")
            facts = [f"computed in {dtype}"] if dtype else []
            facts += [f"{similarity} similarity"] if similarity else []
            how = f" ({', '.join(facts)})" if facts else ""
            say(f"    model        {part['model']}{how}")
        say(f"    fingerprint  {part['fingerprint']}")
        say(f"    quarantined  {part['rows_quarantined']:,} rows")
        for field in open_snapshot(path, output=name, version=version).schema:
            say(f"    {field.name:<18} {field.type}")
