"""OpenLineage events of a run, where a server is configured: what was read, what was written.

Each start of a run is a run of OpenLineage. That an event cannot be sent is a warning, once.
"""

import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stx.pipelines.running.stopping import at_stop
from stx.pipelines.spec.file import public_values
from stx_core.errors import CommitConflict, Stopped
from stx_core.store.files.urls import LOCAL, local_path, redact, scheme
from stx_core.store.log import Claim
from stx_core.store.snapshot import snapshot_info

logger = logging.getLogger(__name__)

_PRODUCER = "https://pypi.org/project/stx"
_VARIABLES = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT")
_FILES = ("openlineage.yml", "~/.openlineage/openlineage.yml")
# Keys of specs that name what is read; the parts that name none.
_INPUTS = ("path", "positives", "qrels")
_NO_INPUTS = ("output", "models", "resources", "store")


@contextmanager
def lineage_events(root: str, job: str, claim: Claim, spec: BaseModel) -> Iterator[None]:
    """Tell of the start of a run, and of its end when the block ends: complete, failed or aborted.

    Does nothing where no server is configured, by ``OPENLINEAGE_URL``, other variables of the
    official client, or an ``openlineage.yml`` in the working folder or in ``~/.openlineage``.

    Args:
        root: the dataset.
        job: `encode`, `retrieve` …
        claim: of the run.
        spec: names the inputs.
    """
    variables = any(name.startswith(_VARIABLES) for name in os.environ)
    if not variables and not any(Path(name).expanduser().is_file() for name in _FILES):
        yield
        return
    events = _Events(root, job, claim, spec)
    events.send("START")
    try:
        with at_stop(lambda: events.send("ABORT")):
            yield
    except (Stopped, KeyboardInterrupt, CommitConflict) as stop:
        events.send("ABORT", stop)
        raise
    except Exception as error:
        events.send("FAIL", error)
        raise
    events.send("COMPLETE")


class _Events:
    """Makes the events of one start, and sends them."""

    def __init__(self, root: str, job: str, claim: Claim, spec: BaseModel) -> None:
        self._root, self._job, self._claim = root, job, claim
        self._inputs = list(dict.fromkeys(input_urls(public_values(spec))))
        self._id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"stx:{claim.run}:{claim.epoch}"))
        self._warned = False

    def send(self, kind: str, error: BaseException | None = None) -> None:
        """Send an event; that it cannot be sent is a warning, once."""
        try:
            from openlineage.client import OpenLineageClient

            OpenLineageClient().emit(self._event(kind, error))
            return
        except ImportError:
            why = "its client is not installed: pip install 'stx[lineage]'"
        except Exception as failure:  # whatever a transport raises: the run matters more
            why = f"{type(failure).__name__}: {redact(str(failure))}"
        if not self._warned:
            logger.warning("OpenLineage is configured, but events cannot be sent: %s", why)
        self._warned = True

    def _event(self, kind: str, error: BaseException | None) -> Any:  # noqa: ANN401
        from openlineage.client import event_v2, facet_v2

        tags = {"stx_run": self._claim.run, "stx_epoch": str(self._claim.epoch)}
        field = facet_v2.tags_run.TagsRunFacetFields
        facets = {
            "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet(
                version=version("stx"), name="stx"
            ),
            "tags": facet_v2.tags_run.TagsRunFacet([field(*tag, "stx") for tag in tags.items()]),
        }
        if error is not None:
            message = redact(f"{type(error).__name__}: {error}")
            facets["errorMessage"] = facet_v2.error_message_run.ErrorMessageRunFacet(
                message, "python"
            )
        return event_v2.RunEvent(
            eventType=event_v2.RunState(kind),
            eventTime=datetime.now(UTC).isoformat(),
            run=event_v2.Run(self._id, facets),
            job=event_v2.Job(
                os.environ.get("OPENLINEAGE_NAMESPACE", "stx"), f"{self._job} {redact(self._root)}"
            ),
            inputs=[event_v2.InputDataset(*dataset_name(url)) for url in self._inputs],
            outputs=[self._output(kind)],
            producer=_PRODUCER,
        )

    def _output(self, kind: str) -> Any:  # noqa: ANN401
        from openlineage.client import event_v2, facet_v2

        output = event_v2.OutputDataset(*dataset_name(self._root))
        if kind == "COMPLETE":
            info = snapshot_info(self._root)
            rows, size, files = (
                sum(part[name] for part in info.outputs.values())
                for name in ("rows", "bytes", "files")
            )
            output.facets = {
                "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet(
                    str(info.version)
                )
            }
            statistics = facet_v2.output_statistics_output_dataset
            output.outputFacets = {
                "outputStatistics": statistics.OutputStatisticsOutputDatasetFacet(
                    rowCount=rows, size=size, fileCount=files
                )
            }
        return output


def input_urls(spec: Mapping[str, Any]) -> Iterator[str]:
    """URLs or paths that a spec names as its inputs."""
    for key, value in spec.items():
        if key in _NO_INPUTS or value is None:
            continue
        if isinstance(value, Mapping):
            yield from input_urls(value)
        elif key in _INPUTS:
            yield from (value,) if isinstance(value, str) else value


def dataset_name(url: str) -> tuple[str, str]:
    """Namespace and name of a dataset, as OpenLineage's conventions have it."""
    kind = scheme(url)
    if kind == LOCAL:
        return "file", local_path(url)
    bucket, _, name = redact(url).partition("://")[2].partition("/")
    return f"{kind}://{bucket}", name.rstrip("/") or "/"
