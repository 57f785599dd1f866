"""Numbers of a run for Prometheus: through Ray's endpoint, or through a port of this process."""

import os
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from stx.pipelines.telemetry.progress import FinishedUnit, Progress, by_stage
from stx_core.errors import SpecError
from stx_core.store.files.urls import redact

PORT = "STX_METRICS_PORT"


class Metric(NamedTuple):
    """Name, whether it only grows, what it says, and its labels."""

    name: str
    grows: bool
    description: str
    labels: tuple[str, ...]


_OUTPUT = ("run", "job", "output")
_RUN = ("run", "job")

# Ray and Prometheus' client export counters under the same names as here, because these end in
# `_total`; Ray puts `ray_` before them.
METRICS = (
    Metric("stx_rows_total", True, "Rows of finished units", _OUTPUT),
    Metric("stx_tokens_total", True, "Tokens that models read", _OUTPUT),
    Metric("stx_units_total", True, "Finished units", _OUTPUT),
    Metric("stx_quarantined_rows_total", True, "Rows in quarantine", _OUTPUT),
    Metric("stx_stage_seconds_total", True, "Time of workers", (*_OUTPUT, "stage")),
    Metric("stx_progress_ratio", False, "Share of the due rows that is done", _RUN),
    Metric("stx_eta_seconds", False, "Time that the rest takes at the speed so far", _RUN),
    Metric("stx_run_info", False, "1 for each output of a run", (*_OUTPUT, "dataset")),
)


class _RayMeters:
    """Ray's agent on this node exports them, as ``ray_stx_…``, while this process lives."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        self._all = {
            metric.name: (Counter if metric.grows else Gauge)(
                metric.name, description=metric.description, tag_keys=metric.labels
            )
            for metric in METRICS
        }

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Add to a counter."""
        if value > 0:  # Ray refuses to add nothing
            self._all[name].inc(value, tags=dict(labels))

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Set a gauge."""
        self._all[name].set(value, tags=dict(labels))


class _OwnMeters:
    """A server of this process, for a run without Ray; its methods as those of `_RayMeters`."""

    def __init__(self, host: str, port: int) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

        registry = CollectorRegistry()
        self._counters = {
            metric.name: Counter(metric.name, metric.description, metric.labels, registry=registry)
            for metric in METRICS
            if metric.grows
        }
        self._gauges = {
            metric.name: Gauge(metric.name, metric.description, metric.labels, registry=registry)
            for metric in METRICS
            if not metric.grows
        }
        start_http_server(port, host, registry)

    def add(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        self._counters[name].labels(**labels).inc(value)

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        self._gauges[name].labels(**labels).set(value)


class RunMetrics:
    """Follows one start of a run.

    Args:
        meters: where numbers go.
        run: its id.
        job: `encode`, `retrieve` …
        dataset: that it writes.
        progress: of the start; units are added here.
    """

    def __init__(
        self,
        meters: _RayMeters | _OwnMeters,
        run: str,
        job: str,
        *,
        dataset: str,
        progress: Progress,
    ) -> None:
        self._meters, self._progress, self._dataset = meters, progress, redact(dataset)
        self._labels = {"run": run, "job": job}
        self._set_gauges()

    def add(self, unit: FinishedUnit) -> None:
        """Count a unit."""
        self._progress.add(unit)
        for record in unit.records:
            labels = self._labels | {"output": record.output}
            self._meters.set("stx_run_info", 1, labels | {"dataset": self._dataset})
            for name, value in (
                ("stx_rows_total", record.rows_in),
                ("stx_tokens_total", record.n_tokens - record.tokens_carried),
                ("stx_units_total", 1),
                ("stx_quarantined_rows_total", record.rows_quarantined),
            ):
                self._meters.add(name, value, labels)
            for stage, seconds in by_stage([record.seconds]).items():
                self._meters.add("stx_stage_seconds_total", seconds, labels | {"stage": stage})
        self._set_gauges()

    def _set_gauges(self) -> None:
        self._meters.set("stx_progress_ratio", self._progress.ratio, self._labels)
        if (eta_s := self._progress.eta_s) is not None:
            self._meters.set("stx_eta_seconds", eta_s, self._labels)


def metered(
    units: Iterator[FinishedUnit],
    runner: str,
    run: str,
    *,
    job: str,
    dataset: str,
    progress: Progress,
) -> Iterator[FinishedUnit]:
    """Pass finished units through, and count them where somebody may look.

    With Ray that is its own endpoint. A run in this process is only seen where the environment
    names a port: ``STX_METRICS_PORT=9464``, or ``0.0.0.0:9464`` for other machines too.

    Raises:
        SpecError: the port is no number, or taken.
    """
    address = os.environ.get(PORT, "")
    if runner != "ray" and not address:
        yield from units
        return
    meters = _meters(None if runner == "ray" else address)
    metrics = RunMetrics(meters, run, job=job, dataset=dataset, progress=progress)
    for unit in units:
        metrics.add(unit)
        yield unit


# Once for a process: names cannot be registered twice, and a flow has several runs.
@cache
def _meters(address: str | None) -> _RayMeters | _OwnMeters:
    """Those of Ray where there is no address, else of a server there."""
    if address is None:
        return _RayMeters()
    host, _, port = address.rpartition(":")
    try:
        return _OwnMeters(host or "127.0.0.1", int(port))
    except (ValueError, OverflowError, OSError) as error:
        raise SpecError(
            f"{PORT}={address!r} cannot be served ({error}); write a free port"
        ) from None
