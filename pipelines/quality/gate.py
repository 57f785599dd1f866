"""Judgement of a snapshot before it is published: the checks of the spec's part `quality`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.quality.neighbours import Version, neighbour_overlap
from stx.pipelines.quality.statistics import (
    SCRIPTS,
    Statistics,
    StatisticsValues,
    from_json,
    merge_texts,
    stability_index,
)
from stx.pipelines.spec.quality import ABOVE, LOW_IS_BAD, EmptyQuality, Quality
from stx_core.errors import DamagedFile, QualityRefused
from stx_core.store.commit import Base
from stx_core.store.files.urls import redact
from stx_core.store.log_state import OutputFacts


@dataclass(frozen=True)
class Check:
    """Result of a check of an output: its value, the numbers behind it, and where to look."""

    name: str
    value: float
    details: str
    advice: str


class QualityFacts(TypedDict):
    """Facts that a snapshot keeps of checks: statistics of an output, {} of none, and values."""

    statistics: StatisticsValues | dict[str, float]
    checks: dict[str, float]


@dataclass(frozen=True)
class _Parts:
    """Rows that an output is judged by, and their statistics.

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

    @classmethod
    def of(cls, name: str, rows: pa.Table, base: Base) -> "_Parts":
        """Of an output, given all manifest rows and the version that they follow."""
        own = rows.filter(pc.equal(rows["output"], name))
        before = base.rows.filter(pc.equal(base.rows["output"], name))
        new = own.filter(pc.invert(pc.is_in(own["key"], value_set=before["key"])))
        facts = base.outputs.get(name, {}).get("quality", {})
        return cls(
            name=name,
            rows=own,
            new=new,
            before=before,
            statistics=merge_texts(own["quality"].to_pylist()),
            new_statistics=merge_texts(new["quality"].to_pylist()),
            old_statistics=from_json(facts.get("statistics")),
        )


@dataclass
class QualityGate:
    """Judges what a run is about to commit, see `commit.Judge`.

    Attributes:
        root: the dataset.
        limits: thresholds; a check that has none is not made.
        facts: what the snapshot will say of the outputs that are judged.
        warnings: of the last call, one line each.
    """

    root: str
    limits: EmptyQuality
    facts: Mapping[str, OutputFacts]
    warnings: list[str] = field(default_factory=list, init=False)

    def __call__(self, rows: pa.Table, base: Base) -> dict[str, OutputFacts]:
        """Statistics and values of the checks by output, as facts to keep.

        Raises:
            QualityRefused: a check refuses; nothing may be published.
            StoreError: a file of the sample cannot be read.
        """
        self.warnings = []
        refused: list[str] = []
        added: dict[str, OutputFacts] = {}
        for name in self.facts:
            parts = _Parts.of(name, rows, base)
            checks = list(_row_checks(parts))
            if isinstance(self.limits, Quality):
                checks += [*_new_row_checks(parts, self.limits.min_rows)]
                checks += [*self._neighbours(parts, base, self.limits.sample)]
            checks = [check for check in checks if check.name in self.limits.limits]
            for check in checks:
                limits = self.limits.limits[check.name]
                line = f"quality: output {name}: {check.name} is {check.value:.3g}"
                why = f"{check.details}; {check.advice}"
                refuse = _crossed(check, "refused", limits.refuse)
                # A warning comes first, where there is one.
                mildest = limits.refuse if limits.warn is None else limits.warn
                warn = _crossed(check, "warned of", mildest)
                if refuse and not self.limits.accept:
                    refused.append(f"{line}, {refuse}: {why}")
                elif warn:
                    self.warnings.append(f"{line}, {warn}: {why}")
            added[name] = {
                "quality": {
                    "statistics": parts.statistics.to_json() if parts.statistics else {},
                    "checks": {check.name: check.value for check in checks},
                }
            }
        if refused:
            n_checks = "a check" if len(refused) == 1 else f"{len(refused)} checks"
            raise QualityRefused(
                "\n".join(refused)
                + f"\n{redact(self.root)}: {n_checks} refused, nothing was committed; finished "
                "units are kept: mend the cause and run again, or commit them as they are with "
                "--accept-quality"
            )
        return added

    def _neighbours(self, parts: _Parts, base: Base, n_rows: int) -> Iterator[Check]:
        if parts.name not in base.outputs:
            return
        old = Version(parts.before, base.outputs[parts.name])
        new = Version(parts.new, self.facts[parts.name])
        try:
            value = neighbour_overlap(self.root, old, new, n_rows)
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


def _crossed(check: Check, what: str, limit: float | None) -> str | None:
    """The threshold in words, if a check has crossed it."""
    if limit is None:
        return None
    if check.name in LOW_IS_BAD:
        return f"{what} up to {limit:g}" if check.value <= limit else None
    if check.name in ABOVE:
        return f"{what} above {limit:g}" if check.value > limit else None
    return f"{what} from {limit:g}" if check.value >= limit else None


def _row_checks(parts: _Parts) -> Iterator[Check]:
    """Checks of all rows, for any number of them."""
    read, bad, out = (_sum(parts.rows, f"rows_{name}") for name in ("in", "quarantined", "out"))
    details = f"all {bad:,} rows are quarantined" if bad else "the input has no rows"
    if not read and (filtered := _sum(parts.rows, "rows_filtered")):
        details = f"the filters leave none of {filtered:,} rows"
    empty = not _sum(parts.rows, "file_rows")
    yield Check(
        "no_rows", float(empty), details,
        "is the input there, and is the spec right about its columns and filters?",
    )  # fmt: skip
    if out_before := _sum(parts.before, "rows_out"):
        yield Check(
            "rows_lost", max(0.0, 1 - out / out_before),
            f"{out_before:,} rows of the version before became {out:,}"
            + (f", {bad:,} are quarantined" if bad else ""),
            "are all files of the corpus there, and are its filters what they were?",
        )  # fmt: skip
    if read_before := _sum(parts.before, "rows_in"):
        change = 1 - min(read_before, read) / max(read_before, read)
        yield Check(
            "rows_change", change, f"{read_before:,} rows became {read:,}",
            "are all files of the corpus there, and each once?",
        )  # fmt: skip
    if parts.statistics is not None:
        share = parts.statistics.repeated_texts
        yield Check(
            "duplicate_texts", share,
            f"about {share:.0%} of {parts.statistics.rows:,} rows repeat a text",
            "is a file in the corpus twice, or a column of constants taken for the text?",
        )  # fmt: skip


def _new_row_checks(parts: _Parts, min_rows: int) -> Iterator[Check]:
    """Checks of the new rows and their vectors, where there are enough of them."""
    rows, bad = _sum(parts.new, "rows_in"), _sum(parts.new, "rows_quarantined")
    new, old = parts.new_statistics, parts.old_statistics
    if rows < min_rows:
        return
    yield Check(
        "quarantined", bad / rows, f"{bad:,} of {rows:,} new rows are quarantined",
        "the files in quarantine/ give the reason of each",
    )  # fmt: skip
    if new is None:
        return
    yield Check(
        "not_finite", new.not_finite / rows,
        f"{new.not_finite:,} of {rows:,} new vectors have NaN or infinity",
        "are the model's files whole, and is dtype one that it was trained for?",
    )  # fmt: skip
    if new.rows < min_rows:
        return
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
    if old is not None and old.rows >= min_rows:
        yield from _drift_checks(old, new)


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
    if lengths >= scripts:
        # Bounds of the median lengths, to a power of two.
        halves = (np.searchsorted(np.cumsum(s.lengths), sum(s.lengths) / 2) for s in (new, old))
        now, then = (f"less than {2 ** int(place):,}" for place in halves)
        details = f"half of the texts have {now} characters, it was {then}"
    else:
        before, after = (np.divide(s.scripts, max(1, sum(s.scripts))) for s in (old, new))
        most = int(np.argmax(np.abs(after - before)))
        details = (
            f"{SCRIPTS[most]} were {before[most]:.0%} of the characters, now {after[most]:.0%}"
        )
    yield Check(
        "text_shift", max(lengths, scripts), details,
        "is the text column the right one, and was it decoded rightly?",
    )  # fmt: skip


def _sum(rows: pa.Table, column: str) -> int:
    return pc.sum(rows[column]).as_py() or 0
