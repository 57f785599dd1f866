"""Whether a snapshot is good enough to be published: the checks of the spec's part `quality`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.quality.neighbours import Version, neighbour_overlap
from stx.pipelines.quality.statistics import (
    SCRIPTS,
    Statistics,
    from_json,
    merge_texts,
    stability_index,
)
from stx.pipelines.spec.quality import ABOVE, LOW_IS_BAD, EmptyQuality, Quality
from stx_core.errors import DamagedFile, QualityRefused
from stx_core.store.commit import Base
from stx_core.store.files.urls import redact


@dataclass(frozen=True)
class Check:
    """What a check found in an output: its value, the numbers behind it, and where to look."""

    name: str
    value: float
    found: str
    advice: str


@dataclass(frozen=True)
class _Parts:
    """What an output is judged by.

    Attributes:
        name: of the output.
        rows: its manifest rows in the snapshot that shall be published.
        new: those of them that are not in the one before.
        before: its manifest rows there.
        statistics: of all rows; None if no unit has any, likewise below.
        new_statistics: of the new ones.
        old_statistics: of the snapshot before.
    """

    name: str
    rows: pa.Table
    new: pa.Table
    before: pa.Table
    statistics: Statistics | None
    new_statistics: Statistics | None
    old_statistics: Statistics | None


class QualityGate:
    """Judges what a run is about to commit, see `commit.Judge`.

    Args:
        root: the dataset.
        limits: thresholds; a check that has none is not made.
        facts: what the snapshot will say of the outputs that are judged.

    Attributes:
        warnings: of the last call, one line each.
    """

    def __init__(
        self, root: str, limits: EmptyQuality, facts: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._root, self._limits, self._facts = root, limits, facts
        self.warnings: list[str] = []

    def __call__(self, rows: pa.Table, base: Base) -> dict[str, dict[str, Any]]:
        """Statistics and values of the checks by output, as facts to keep.

        Raises:
            QualityRefused: a check refuses; nothing may be published.
            StoreError: a file of the sample cannot be read.
        """
        self.warnings = []
        refused: list[str] = []
        added = {}
        for name in self._facts:
            parts = _parts(name, rows, base)
            checks = list(_lost_rows(parts))
            if isinstance(self._limits, Quality):
                checks += [*_checks(parts, self._limits.min_rows)]
                checks += [*self._neighbours(parts, base, self._limits.sample)]
            checks = [check for check in checks if check.name in self._limits.limits]
            for check in checks:
                self._sort(name, check, refused)
            told = parts.statistics.to_json() if parts.statistics else {}
            values = {check.name: check.value for check in checks}
            added[name] = {"quality": {"statistics": told, "checks": values}}
        if refused:
            raise QualityRefused("\n".join([*refused, self._what_to_do(refused)]))
        return added

    def _neighbours(self, parts: _Parts, base: Base, n_rows: int) -> Iterator[Check]:
        if parts.name not in base.outputs:
            return
        old = Version(parts.before, base.outputs[parts.name])
        new = Version(parts.new, self._facts[parts.name])
        try:
            value = neighbour_overlap(self._root, old, new, n_rows)
        except DamagedFile as error:
            # What follows the damaged version is not to wait for it.
            self.warnings.append(f"quality: output {parts.name}: no neighbours compared: {error}")
            return
        if value is not None:
            yield Check(
                "neighbour_overlap", value,
                f"{value:.0%} of the ten nearest neighbours of sampled rows are those of version "
                f"{base.version}",
                "is it the right model, with the right prompt, and has each id its own text?",
            )  # fmt: skip

    def _sort(self, output: str, check: Check, refused: list[str]) -> None:
        """Put a line about a check where it belongs, if it has crossed a threshold."""
        limits = self._limits.limits[check.name]
        line = f"quality: output {output}: {check.name} is {check.value:.3g}"
        if _crosses(check, limits.refuse) and not self._limits.accept:
            bound = _bound(check, "refused", limits.refuse)
            refused.append(f"{line}, {bound}: {check.found}; {check.advice}")
        elif _crosses(check, limits.warn) or _crosses(check, limits.refuse):
            mildest = limits.refuse if limits.warn is None else limits.warn
            bound = _bound(check, "warned of", mildest)
            self.warnings.append(f"{line}, {bound}: {check.found}; {check.advice}")

    def _what_to_do(self, refused: list[str]) -> str:
        checks = "a check" if len(refused) == 1 else f"{len(refused)} checks"
        return (
            f"{redact(self._root)}: {checks} refused, nothing was committed; finished units are "
            "kept: mend the cause and run again, or commit them as they are with --accept-quality"
        )


def _crosses(check: Check, limit: float | None) -> bool:
    if limit is None:
        return False
    if check.name in LOW_IS_BAD:
        return check.value <= limit
    return check.value > limit if check.name in ABOVE else check.value >= limit


def _bound(check: Check, what: str, limit: float | None) -> str:
    if check.name in ABOVE:
        return f"{what} above {limit:g}"
    return f"{what} {'up to' if check.name in LOW_IS_BAD else 'from'} {limit:g}"


def _parts(name: str, rows: pa.Table, base: Base) -> _Parts:
    mine = rows.filter(pc.equal(rows["output"], name))
    before = base.rows.filter(pc.equal(base.rows["output"], name))
    new = mine.filter(pc.invert(pc.is_in(mine["key"], value_set=before["key"])))
    facts = base.outputs.get(name, {}).get("quality", {})
    return _Parts(
        name=name,
        rows=mine,
        new=new,
        before=before,
        statistics=merge_texts(mine["quality"].to_pylist()),
        new_statistics=merge_texts(new["quality"].to_pylist()),
        old_statistics=from_json(facts.get("statistics")),
    )


def _checks(parts: _Parts, min_rows: int) -> Iterator[Check]:
    yield from _row_checks(parts)
    if _sum(parts.new, "rows_in") < min_rows:
        return
    yield from _quarantine_checks(parts)
    new, old = parts.new_statistics, parts.old_statistics
    if new is None or new.rows < min_rows:
        return
    yield from _vector_checks(new)
    if old is not None and old.rows >= min_rows:
        yield from _drift_checks(old, new)


def _row_checks(parts: _Parts) -> Iterator[Check]:
    before, now = (_sum(rows, "rows_in") for rows in (parts.before, parts.rows))
    if before:
        change = 1 - min(before, now) / max(before, now)
        yield Check(
            "rows_change", change, f"{before:,} rows became {now:,}",
            "are all files of the corpus there, and each once?",
        )  # fmt: skip
    if parts.statistics is not None:
        share = parts.statistics.repeated_texts
        yield Check(
            "duplicate_texts", share,
            f"about {share:.0%} of {parts.statistics.rows:,} rows repeat a text",
            "is a file in the corpus twice, or a column of constants taken for the text?",
        )  # fmt: skip


def _lost_rows(parts: _Parts) -> Iterator[Check]:
    read, bad, out = (_sum(parts.rows, f"rows_{name}") for name in ("in", "quarantined", "out"))
    found = f"all {bad:,} rows are quarantined" if bad else "the input has no rows"
    if not read and (filtered := _sum(parts.rows, "rows_filtered")):
        found = f"the filters leave none of {filtered:,} rows"
    empty = not _sum(parts.rows, "file_rows")
    yield Check(
        "no_rows", float(empty), found,
        "is the input there, and is the spec right about its columns and filters?",
    )  # fmt: skip
    if before := _sum(parts.before, "rows_out"):
        yield Check(
            "rows_lost", max(0.0, 1 - out / before),
            f"{before:,} rows of the version before became {out:,}"
            + (f", {bad:,} are quarantined" if bad else ""),
            "are all files of the corpus there, and are its filters what they were?",
        )  # fmt: skip


def _quarantine_checks(parts: _Parts) -> Iterator[Check]:
    rows, bad = _sum(parts.new, "rows_in"), _sum(parts.new, "rows_quarantined")
    yield Check(
        "quarantined", bad / rows, f"{bad:,} of {rows:,} new rows are quarantined",
        "the files in quarantine/ give the reason of each",
    )  # fmt: skip
    if parts.new_statistics is not None:
        n = parts.new_statistics.not_finite
        yield Check(
            "not_finite", n / rows, f"{n:,} of {rows:,} new vectors have NaN or infinity",
            "are the model's files whole, and is dtype one that it was trained for?",
        )  # fmt: skip


def _vector_checks(new: Statistics) -> Iterator[Check]:
    yield Check(
        "zero_vectors", new.zeros / new.rows, f"{new.zeros:,} of {new.rows:,} new vectors are zero",
        "are the model's files whole, and does it know the language of the texts?",
    )  # fmt: skip
    lost = new.texts - new.vectors
    yield Check(
        "duplicate_vectors", new.repeated_vectors,
        f"{lost:,} of {new.texts:,} new texts have the vector of another text",
        "does the model tell texts apart, or does a long prompt fill what it reads?",
    )  # fmt: skip


def _drift_checks(old: Statistics, new: Statistics) -> Iterator[Check]:
    if old.mean_norm > 0:
        moved = abs(new.mean_norm - old.mean_norm), abs(new.norm_spread - old.norm_spread)
        yield Check(
            "norm_drift", max(moved) / old.mean_norm,
            f"norms were {old.mean_norm:.3g} ± {old.norm_spread:.2g}, the new ones are "
            f"{new.mean_norm:.3g} ± {new.norm_spread:.2g}",
            "is it the right model, and is normalize what it was?",
        )  # fmt: skip
    lengths = stability_index(old.lengths, new.lengths)
    scripts = stability_index(old.scripts, new.scripts)
    found = _most_moved(old, new)
    if lengths >= scripts:
        found = f"half of the texts have {_median(new)} characters, it was {_median(old)}"
    yield Check(
        "text_shift", max(lengths, scripts), found,
        "is the text column the right one, and was it decoded rightly?",
    )  # fmt: skip


def _most_moved(old: Statistics, new: Statistics) -> str:
    shares = [[count / max(1, sum(each.scripts)) for count in each.scripts] for each in (old, new)]
    i = max(range(len(SCRIPTS)), key=lambda i: abs(shares[0][i] - shares[1][i]))
    return f"{SCRIPTS[i]} were {shares[0][i]:.0%} of the characters, now {shares[1][i]:.0%}"


def _median(statistics: Statistics) -> str:
    """Bound of the median length, to a power of two."""
    counts = np.cumsum(statistics.lengths)
    return f"less than {2 ** int(np.searchsorted(counts, counts[-1] / 2)):,}"


def _sum(rows: pa.Table, column: str) -> int:
    return pc.sum(rows[column]).as_py() or 0
