"""Counts and timings of a finished run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stx_core.store.ledger import Record


@dataclass(frozen=True)
class OutputReport:
    """One output of the committed snapshot.

    Attributes:
        rows, files, size, quarantined: of the whole snapshot; size in bytes.
        encoded_rows, encoded_tokens: what this start gave the encoder.
        carried_rows: what this start took from the snapshot before, row by row.
        truncated, reasons: of the units that this start finished; reasons are quarantined rows by
            reason.
    """

    rows: int
    files: int
    size: int
    quarantined: int
    encoded_rows: int
    encoded_tokens: int
    carried_rows: int
    truncated: int
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class Report:
    """What a start of a run came to.

    Attributes:
        output: the dataset.
        version: the snapshot that holds the result; None after a dry run.
        committed: whether this start committed it; False if it was there already.
        seconds: the whole start.
        stream_seconds: from the first unit to the last.
        parts: by output.
        warnings: lines that a person should read.
    """

    output: str
    version: int | None
    committed: bool
    seconds: float = 0.0
    stream_seconds: float = 0.0
    parts: Mapping[str, OutputReport] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @property
    def quarantined_share(self) -> float:
        """Quarantined rows among all rows, of the output where it is highest."""
        return max(
            (
                part.quarantined / max(1, part.quarantined + part.rows)
                for part in self.parts.values()
            ),
            default=0.0,
        )


def output_report(name: str, facts: Mapping[str, Any], fresh: Mapping[str, Record]) -> OutputReport:
    """Put together what the snapshot says of an output and what this start encoded for it."""
    mine = [record for record in fresh.values() if record.output == name]
    reasons: Counter[str] = Counter()
    for record in mine:
        reasons.update(record.reasons)
    return OutputReport(
        rows=facts["rows"],
        files=facts["files"],
        size=facts["bytes"],
        quarantined=facts["rows_quarantined"],
        encoded_rows=sum(record.rows_out - record.rows_carried for record in mine),
        encoded_tokens=sum(record.n_tokens - record.tokens_carried for record in mine),
        carried_rows=sum(record.rows_carried for record in mine),
        truncated=sum(record.n_truncated for record in mine),
        reasons=dict(reasons),
    )
