"""Tell somebody how a job ended, where its spec says so. What fails here is only a warning."""

import json
import logging
import os
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any

import tenacity
from pydantic import BaseModel

from stx.pipelines.spec.alerts import Alerts
from stx.pipelines.telemetry.report import Report
from stx_core.errors import QualityRefused
from stx_core.store.files.urls import redact, scheme

logger = logging.getLogger(__name__)

_COMMAND_TIMEOUT_S = 60.0
_WEBHOOK_TIMEOUT_S = 10.0
_ATTEMPTS = 3
_PAUSE_S = 1.0
_TRY_AGAIN = (408, 425, 429)

# Shorter arguments of a command are words that its errors need.
_SHORTEST_SECRET = 12

# Characters of an error: chat services refuse longer messages.
_LONGEST = 3000


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without the message: it is an error instead."""

    def redirect_request(self, *_: object) -> None:
        """Follow none."""


# Like `urllib.request.urlopen`, but for redirects; proxies of the environment are used.
_OPENER = urllib.request.build_opener(_NoRedirects)


def tell_failure(job: str, spec: BaseModel, error: Exception) -> None:
    """Say that a job failed, or that its result was refused.

    Args:
        job: its name, as the command has it.
        spec: its spec; those without `alerts` tell nobody.
        error: what ended it.
    """
    event = "refused" if isinstance(error, QualityRefused) else "failure"
    lines = [redact(line) for line in str(error).split("\n")]
    _tell(job, spec, event, {"error": type(error).__name__, "text": "\n".join(lines)[:_LONGEST]})


def tell_report(job: str, spec: BaseModel, report: Report) -> None:
    """Say that a job ended well, or with more rows in quarantine than its spec allows.

    Args:
        job: its name.
        spec: likewise.
        report: of the job.
    """
    limit = getattr(getattr(spec, "output", None), "max_quarantined", 1.0)
    share = report.quarantined_share
    text = f"version {report.version}" + ("" if report.committed else ", nothing to do")
    event = "quarantine" if share > limit else "success"
    if event == "quarantine":
        text += f"; {share:.2%} of the rows are quarantined, allowed are {limit:.2%}"
    body = {
        "text": text,
        "version": report.version,
        "committed": report.committed,
        "seconds": round(report.seconds, 1),
        "rows": {name: part.rows for name, part in report.parts.items()},
        "quarantined": {name: part.quarantined for name, part in report.parts.items()},
        "warnings": [redact(line) for line in report.warnings],
    }
    _tell(job, spec, event, body)


def _tell(job: str, spec: BaseModel, event: str, body: Mapping[str, Any]) -> None:
    alerts: Alerts | None = getattr(spec, "alerts", None)
    if alerts is None or event not in alerts.when:
        return
    head = {
        "event": event,
        "job": job,
        "output": redact(str(getattr(getattr(spec, "output", None), "path", ""))),
        "host": socket.gethostname(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    data = json.dumps({**head, **body}).encode()
    problems = {}
    if alerts.command:
        problems["command"] = _run(alerts.command, data)
    if alerts.webhook or alerts.webhook_file:
        problems["webhook"] = _post(alerts, data)
    for way, problem in problems.items():
        if problem:
            logger.warning("alerts.%s: %s; nobody was told by it", way, problem)


def _run(command: tuple[str, ...], data: bytes) -> str | None:
    """Give the message to a command; what went wrong, if anything."""
    try:
        done = subprocess.run(
            (os.path.expanduser(command[0]), *command[1:]),
            input=data,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{redact(command[0])} did not end within {_COMMAND_TIMEOUT_S:.0f} s"
    except (OSError, ValueError) as error:
        return f"{redact(command[0])}: {type(error).__name__}: {redact(str(error))}"
    if not done.returncode:
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    reason = f": {redact(lines[-1])}" if lines else ""
    # Without what it quotes of the command's arguments: one may be a token.
    for argument in sorted(command[1:], key=len, reverse=True):
        for secret in (argument, *argument.split()):
            if len(secret) >= _SHORTEST_SECRET:
                reason = reason.replace(secret, "…")
    return f"{redact(command[0])} ended with exit code {done.returncode}{reason}"


def _post(alerts: Alerts, data: bytes) -> str | None:
    """POST the message; what went wrong, if anything. The URL may be a secret: it is never told."""
    try:
        url = alerts.url(os.environ) or ""
    except KeyError as error:
        return f"there is no variable {error.args[0]} in the environment"
    except (OSError, ValueError) as error:
        return f"webhook_file cannot be read ({type(error).__name__})"
    if scheme(url) not in ("http", "https"):
        return "with its variables it is no http:// or https:// URL"
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=_PAUSE_S),
        retry=tenacity.retry_if_result(lambda refusal: refusal is not None and refusal.transient),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    refusal: _Refusal | None = retrying(_post_once, url, data)
    if refusal is None:
        return None
    return f"{refusal.reason}, {_ATTEMPTS} times" if refusal.transient else refusal.reason


@dataclass(frozen=True)
class _Refusal:
    """Reason why a message did not arrive, and whether another attempt may be of use."""

    reason: str
    transient: bool


def _post_once(url: str, data: bytes) -> _Refusal | None:
    try:
        # Invalid URLs are refused here, with messages that quote them.
        request = urllib.request.Request(  # noqa: S310  (http and https only)
            url, data, {"Content-Type": "application/json", "User-Agent": "stx"}, method="POST"
        )
        with _OPENER.open(request, timeout=_WEBHOOK_TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return _Refusal(f"status {error.code}", error.code >= 500 or error.code in _TRY_AGAIN)
    except urllib.error.URLError as error:
        return _Refusal(f"no connection ({type(error.reason).__name__})", transient=True)
    except OSError as error:
        return _Refusal(f"no answer ({type(error).__name__})", transient=True)
    except (HTTPException, ValueError) as error:
        return _Refusal(f"no valid URL or answer ({type(error).__name__})", transient=False)
