"""Ray's job API: start a job, or find it at work; follow its log; read how it ended."""

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from stx.pipelines.running.stopping import STOPPED_EXIT_CODE
from stx.pipelines.submit.submission import Submission
from stx_core.errors import StxError
from stx_core.store.files.urls import redact

# Ray's variables for the address; it lets them win over what it is told.
_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")

# Ray's client would wait for ever: to connect, and for an answer. An upload may take its time.
_TIMEOUT_S = (10, 300)

_EXIT_CODE = re.compile(r"exit code (-?\d+)")

# After its entrypoint a job takes a moment until its status says so.
_POLL_S = 0.5

# A job's log is followed again after a lost connection; so often without a new line in between.
_MAX_RECONNECTS = 10


class JobApi:
    """The jobs of one cluster.

    The token is taken by Ray from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.

    Args:
        address: ``http://host:8265``; None: what the environment says, else this machine.

    Raises:
        StxError: it does not answer, asks for another token, or is no Ray cluster.

    Attributes:
        address: of the dashboard.
        shown_address: the same without what is secret in it.
        version: of Ray on the cluster; None where it does not say.
    """

    def __init__(self, address: str | None = None) -> None:
        if address is not None:
            for name in _ADDRESSES:
                os.environ.pop(name, None)
        named = address or next(filter(None, map(os.environ.get, _ADDRESSES)), None)
        self.shown_address = redact(named or "a Ray cluster of this machine")
        with self._errors():
            self._client = _client(address)
        self.address: str = self._client.get_address()
        self.version: str | None = getattr(self._client, "_server_ray_version", None)
        self.shown_address = redact(self.address)

    def running(self, submission: Submission) -> str | None:
        """The id of the spec's job that is at work, or waits for its start; None without one."""
        jobs = (job for job in self._jobs(submission) if not job.status.is_terminal())
        return next((job.submission_id for job in jobs), None)

    def next_id(self, submission: Submission) -> str:
        """The id that the spec's next job has."""
        return submission.numbered([job.submission_id for job in self._jobs(submission)])

    def start(self, submission: Submission, id_: str) -> bool:
        """Start a job; False if another start of the same spec was faster, and has the id.

        Raises:
            StxError: Ray refuses it.
        """
        environment = {"working_dir": submission.folder, **submission.runtime_env}
        if submission.excludes:
            # The patterns say what is shipped, whatever the .gitignore of the folder says.
            os.environ["RAY_RUNTIME_ENV_IGNORE_GITIGNORE"] = "1"
        with self._errors():
            try:
                self._client.submit_job(
                    entrypoint=submission.entrypoint,
                    submission_id=id_,
                    runtime_env=environment,
                    metadata=dict(submission.metadata),
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                return False
        return True

    def stop(self, id_: str) -> bool:
        """Ask a job to stop, and wait for it; False if it had ended before."""
        with self._errors():
            stopped = bool(self._client.stop_job(id_))
            while not self._client.get_job_info(id_).status.is_terminal():
                time.sleep(_POLL_S)
        return stopped

    def log(self, id_: str) -> Iterator[str]:
        """The log of a job from its beginning, piece by piece, until it ends.

        Raises:
            StxError: the connection is lost and does not come back.
        """
        n_seen = failures = 0
        while True:
            with self._errors():
                n_before = n_seen
                for piece in _pieces(self._client.tail_job_logs(id_), n_seen):
                    n_seen += len(piece)
                    yield piece
                if self._client.get_job_info(id_).status.is_terminal():
                    return
            failures = 1 if n_seen > n_before else failures + 1
            if failures > _MAX_RECONNECTS:
                raise StxError(
                    f"{self.shown_address}: the log of {id_} breaks off; the job goes on"
                )
            time.sleep(min(failures, 5))

    def exit_code(self, id_: str) -> tuple[int, str]:
        """The exit code of a job once it has ended, and a line about it.

        A job that was stopped has the code of a run that was stopped; one that ended without a code
        (its node was lost, its folder could not be prepared) has 1.
        """
        with self._errors():
            job = self._client.get_job_info(id_)
            while not job.status.is_terminal():
                time.sleep(_POLL_S)
                job = self._client.get_job_info(id_)
        status, message = job.status.value, job.message or ""
        if status == "STOPPED":
            return STOPPED_EXIT_CODE, f"{id_} was stopped; finished units are kept"
        if status == "SUCCEEDED":
            return 0, f"{id_} ended with exit code 0"
        code = job.driver_exit_code
        if code is None and (match := _EXIT_CODE.search(message)):
            code = int(match[1])
        if code is None:
            return 1, f"{id_} failed: {redact(_first_line(message))}"
        code = 128 - code if code < 0 else code  # as a shell counts what a signal ended
        return code, f"{id_} ended with exit code {code}"

    def _jobs(self, submission: Submission) -> list[Any]:
        with self._errors():
            return [job for job in self._client.list_jobs() if submission.has_id(job.submission_id)]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Say in one line why the cluster cannot be asked."""
        import requests
        from ray.exceptions import AuthenticationError, RayError

        try:
            yield
        except AuthenticationError as error:
            problem = (
                "the cluster refuses this token (403); RAY_AUTH_TOKEN must be the cluster's own"
                if "Authentication failed" in str(error)
                else "the cluster asks for a token (401); set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
            )
            raise StxError(f"{self.shown_address}: {problem}") from None
        except requests.Timeout:
            raise StxError(
                f"{self.shown_address}: no answer; is it the address of a dashboard?"
            ) from None
        except (requests.RequestException, ConnectionError, RayError) as error:
            response = getattr(error, "response", None)
            status = type(error).__name__ if response is None else f"HTTP {response.status_code}"
            raise StxError(
                f"{self.shown_address}: Ray's job API cannot be reached ({status}); name the "
                "dashboard's address, http://host:8265, by --address or RAY_ADDRESS"
            ) from None
        except (RuntimeError, ValueError) as error:
            raise StxError(f"{self.shown_address}: {redact(_first_line(str(error)))}") from None


def _client(address: str | None) -> Any:  # noqa: ANN401  (ray ships no usable types)
    from ray.dashboard.modules.job import sdk
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]
        """Ray's client, with timeouts."""

        def _do_request(self, *arguments: Any, **settings: Any) -> Any:  # noqa: ANN401
            return super()._do_request(*arguments, **{"timeout": _TIMEOUT_S, **settings})

    # It tells about its connections and uploads.
    for name in (sdk.__name__, "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray._private.runtime_env").setLevel(logging.ERROR)
    return Client(address)


def _pieces(stream: AsyncIterator[str], n_seen: int) -> Iterator[str]:
    """Drive Ray's asynchronous log, without the characters that are known; a lost link ends it."""
    import aiohttp

    async def following() -> str | None:
        return await anext(stream, None)

    with asyncio.Runner() as runner, suppress(aiohttp.ClientError, TimeoutError):
        while True:
            try:
                piece = runner.run(following())
            except RuntimeError:  # Ray's word for a connection that was cut
                return
            if piece is None:
                return
            skipped = min(n_seen, len(piece))
            n_seen -= skipped
            if skipped < len(piece):
                yield piece[skipped:]


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "no reason is known"
