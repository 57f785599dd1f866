"""Counts and timings of a finished run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stx_core.store.ledger import Record


@dataclass(frozen=True)
class OutputReport:
    """One output of the committed snapshot.

    Attributes:
        rows, files, size, truncated, quarantined, reasons: of the whole snapshot; size in bytes,
            reasons as row counts by reason.
        encoded_rows, encoded_tokens: of this start alone.
    """

    rows: int
    files: int
    size: int
    truncated: int
    quarantined: int
    reasons: Mapping[str, int]
    encoded_rows: int
    encoded_tokens: int


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


def output_report(records: Sequence[Record], encoded: Sequence[Record]) -> OutputReport:
    """Add up the records of an output: all of the snapshot's, and those of this start."""
    reasons: dict[str, int] = {}
    for record in records:
        for reason, count in record.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return OutputReport(
        rows=sum(record.rows_out for record in records),
        files=sum(bool(record.file) for record in records),
        size=sum(record.size for record in records),
        truncated=sum(record.n_truncated for record in records),
        quarantined=sum(record.rows_quarantined for record in records),
        reasons=reasons,
        encoded_rows=sum(record.rows_out for record in encoded),
        encoded_tokens=sum(record.n_tokens for record in encoded),
    )
