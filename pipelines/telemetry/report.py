"""Counts and timings of a finished run."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.telemetry.unit_counts import TRUNCATED_CARRIED, read_json
from stx_core.store.files.filesystem import write_over
from stx_core.store.files.retries import take_counts
from stx_core.store.files.urls import join
from stx_core.store.log_state import OutputFacts
from stx_core.store.snapshot import SnapshotInfo


@dataclass(frozen=True)
class OutputReport:
    """One output of the committed snapshot.

    Attributes:
        rows, files, size, quarantined: of the whole snapshot; size in bytes.
        file_rows: rows of its files; of rankings there are several per query.
        of_texts: whether its rows are texts that were encoded.
        encoded_rows, encoded_tokens: what this start gave the encoder.
        carried_rows: what this start took from the snapshot before, row by row.
        truncated: of the encoded rows, those whose text was cut.
        reasons: quarantined rows of the units that this start finished, by reason.
    """

    rows: int
    file_rows: int
    of_texts: bool
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
    """Result of a start of a run.

    Attributes:
        output: the dataset.
        version: the snapshot that holds the result; None after a dry run.
        committed: whether this start committed it; False if it was there already.
        seconds: the whole start.
        stream_seconds: from the first unit to the last.
        parts: by output.
        retries: storage calls that were made again, by kind: an HTTP status, ``timeout`` or
            ``connection``. What pyarrow repeats inside a read is not among them.
        warnings: lines that a person should read.
        lines: what else the job has to say.
    """

    output: str
    version: int | None
    committed: bool
    seconds: float = 0.0
    stream_seconds: float = 0.0
    parts: Mapping[str, OutputReport] = field(default_factory=dict)
    retries: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    lines: Sequence[str] = ()

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


def output_report(name: str, facts: OutputFacts, fresh: pa.Table) -> OutputReport:
    """Put together what the snapshot says of an output and what this start encoded for it.

    Args:
        name: of the output.
        facts: what the snapshot says of it.
        fresh: records of this start, see `ledger.RECORDS`.
    """
    own = fresh.filter(pc.equal(fresh["output"], name))
    reasons: Counter[str] = Counter()
    for counts in own["reasons"]:
        reasons.update(json.loads(counts.as_py()))
    # Older records do not say it.
    truncated_carried = sum(counts.get(TRUNCATED_CARRIED, 0) for counts in read_json(own, "counts"))
    return OutputReport(
        rows=facts["rows"],
        file_rows=facts["file_rows"],
        of_texts=facts["type"] in ("dense", "sparse"),
        files=facts["files"],
        size=facts["bytes"],
        quarantined=facts["rows_quarantined"],
        encoded_rows=_total(own["rows_out"]) - _total(own["rows_carried"]),
        encoded_tokens=_total(own["n_tokens"]) - _total(own["tokens_carried"]),
        carried_rows=_total(own["rows_carried"]),
        truncated=_total(own["n_truncated"]) - truncated_carried,
        reasons=dict(reasons),
    )


def _total(counts: pa.ChunkedArray) -> int:
    return pc.sum(counts).as_py() or 0


def snapshot_report(
    info: SnapshotInfo, root: str, fresh: pa.Table, *, began: float, stream_seconds: float = 0.0
) -> Report:
    """Report of a run that has committed a snapshot.

    Args:
        info: the snapshot.
        root: the dataset.
        fresh: records of this start, see `ledger.RECORDS`.
        began: `time.monotonic` when the command began.
        stream_seconds: from the first unit to the last.
    """
    return Report(
        output=root,
        version=info.version,
        committed=True,
        seconds=time.monotonic() - began,
        stream_seconds=stream_seconds,
        parts={name: output_report(name, facts, fresh) for name, facts in info.outputs.items()},
        retries=take_counts(),
    )


def page_url(root: str, version: int, ending: str = "html") -> str:
    """URL of the page of a version; ``md`` for the same in Markdown."""
    return join(root, "_stx", "reports", str(version), f"report.{ending}")


def write_page(root: str, version: int, pages: Mapping[str, str]) -> str:
    """Write the page of a version, by ending; the URL of the HTML.

    Raises:
        StoreError: it cannot be written.
    """
    for ending, page in pages.items():
        write_over(page_url(root, version, ending), page.encode())
    return page_url(root, version)
