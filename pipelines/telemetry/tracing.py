"""OpenTelemetry spans of a run's phases, where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says where to."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@contextmanager
def span(name: str, **attributes: str | int) -> Iterator[None]:
    """The block as one span; nothing where no endpoint is set, or the SDK is not installed."""
    tracer = _tracer(os.environ.get(ENDPOINT, ""))
    if tracer is None:
        yield
        return
    with tracer.start_as_current_span(
        name, attributes={f"stx.{key}": value for key, value in attributes.items()}
    ):
        yield


@cache
def _tracer(endpoint: str) -> Any:  # noqa: ANN401  (an optional library)
    if not endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("%s is set, but no spans can be sent: pip install 'stx[otel]'", ENDPOINT)
        return None
    name = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "stx")}
    # Not the global provider: that is for the program that runs us. At exit it sends what is left.
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("stx")
