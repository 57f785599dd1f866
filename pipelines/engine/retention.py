"""Old versions go after a commit, where the spec says so: as `stx gc` does it."""

from dataclasses import dataclass

from stx.pipelines.spec.parts import Dataset
from stx_core.errors import StxError
from stx_core.store.files.urls import one_line
from stx_core.store.gc import gc


@dataclass(frozen=True)
class Retention:
    """Lines for the report about versions that were given up, and about failures."""

    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def give_up_old(output: Dataset) -> Retention:
    """Delete versions beyond ``keep_snapshots`` that were last current before ``keep_for``.

    The current version stays, and so do those that unfinished runs build on. The snapshot is
    committed when this begins: what fails here is a warning.
    """
    if output.keep_snapshots is None and output.keep_for is None:
        return Retention()
    try:
        # The current version is among the newest.
        garbage = gc(output.path, keep=output.keep_snapshots or 1, keep_for_s=output.keep_for_s)
    except (StxError, OSError) as error:
        problem = one_line(str(error))
        return Retention(warnings=(f"old versions were not removed: {problem}; run `stx gc`",))
    if not garbage.versions and not garbage.files:
        return Retention()
    versions = ", ".join(map(str, garbage.versions)) or "none"
    line = (
        f"  kept     versions given up: {versions}; {len(garbage.files):,} files deleted, "
        f"{garbage.size / 1e6:,.1f} MB"
    )
    return Retention(lines=(line,))
