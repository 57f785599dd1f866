"""Storage calls that failed: which are worth another attempt, and how many attempts there were."""

import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import tenacity

from stx_core.errors import StoreError, StxError
from stx_core.store.files.local_disk import is_full
from stx_core.store.files.urls import LOCAL, redact, scheme

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

READ_ATTEMPTS = 5
DEADLINE_S = 120.0

# Errors that the same call would meet again, whatever status came with them.
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, StoreError)
_FINAL_STATUS = (301, 400, 401, 403, 404, 405, 411, 501)
# S3 answers 400 also where the request was damaged on its way.
_PASSING_CODES = {"RequestTimeout", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
# By name, as importing the clients would be slow.
_NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "DefaultCredentialsError",
}
# Clients raise some network errors outside the OSError tree.
_CLIENTS = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure", "requests", "httpx"}
# pyarrow has only words for what an S3 server answered; a status where it knows none.
_ARROW = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))?")
_ARROW_STATUS = {
    "ACCESS_DENIED": 403,
    "INVALID_ACCESS_KEY_ID": 403,
    "SIGNATURE_DOES_NOT_MATCH": 403,
    "NO_SUCH_BUCKET": 404,
    "NO_SUCH_KEY": 404,
    "RESOURCE_NOT_FOUND": 404,
    "INTERNAL_FAILURE": 500,
    "SERVICE_UNAVAILABLE": 503,
    "SLOW_DOWN": 503,
    "THROTTLING": 503,
}

_lock = threading.Lock()
_counts: Counter[str] = Counter()


def add_counts(counts: Mapping[str, int]) -> None:
    """Note storage calls that are made again, here or in another process, by kind of the error."""
    with _lock:
        _counts.update(counts)


def take_counts() -> dict[str, int]:
    """Repeated calls of this process by kind (``503``, ``timeout`` …) since the last time asked."""
    with _lock:
        taken = dict(_counts)
        _counts.clear()
    return taken


def retry(call: Callable[[], Result], url: str) -> Result:
    """Make a storage call, again with jitter when a remote store fails for the moment.

    Raises:
        FileNotFoundError, FileExistsError, IsADirectoryError: as the store says.
        StoreError: it failed for good.
    """

    def note(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            add_counts({kind_of(error): 1})
            logger.info("%s: again after %s", redact(url), redact(_say(error)))

    attempts = 1 if scheme(url) == LOCAL else READ_ATTEMPTS
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(attempts) | tenacity.stop_after_delay(DEADLINE_S),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
        retry=tenacity.retry_if_exception(is_transient),
        before_sleep=note,
        reraise=True,
    )
    try:
        return retrying(call)
    except FileNotFoundError as error:
        # Not its own text: that holds the path without the scheme by which `redact` finds secrets.
        raise FileNotFoundError(redact(f"{url}: not found")) from error
    except (FileExistsError, IsADirectoryError, StxError):
        raise
    except Exception as error:
        if is_transient(error):
            made = retrying.statistics["attempt_number"]
            raise StoreError(f"{explain(url, error)} (after {made} attempts)") from error
        if is_final(error):
            raise StoreError(explain(url, error)) from error
        raise


def is_transient(error: BaseException) -> bool:
    """Tell whether a storage error may be gone at the next attempt."""
    module = type(error).__module__.split(".")[0]
    return not is_final(error) and (isinstance(error, OSError) or module in _CLIENTS)


def is_final(error: BaseException) -> bool:
    """Tell whether the same call would meet this storage error again."""
    if isinstance(error, _FINAL) or is_denied(error):
        return True
    status, code = answer(error)
    return status in _FINAL_STATUS and code not in _PASSING_CODES


def is_decoding(error: BaseException) -> bool:
    """Tell whether pyarrow read bytes and could not make sense of them: no other attempt will."""
    if isinstance(error, KeyError):
        return True
    if type(error).__module__.split(".")[0] == "pyarrow":
        return type(error).__name__ not in ("ArrowCancelled", "ArrowMemoryError")
    # Errors of the system have a number, those of S3 say whose they are; what is left is a plain
    # OSError too.
    plain = type(error) is OSError and error.errno is None
    return plain and error.__cause__ is None and not _ARROW.search(str(error))


def is_denied(error: BaseException) -> bool:
    """Tell whether a store refuses what these credentials, or the lack of any, ask for."""
    if isinstance(error, PermissionError) or type(error).__name__ in _NO_CREDENTIALS:
        return True
    # gcsfs has no better class for a 403.
    return answer(error)[0] in (401, 403) or str(error).startswith("Forbidden: ")


def answer(error: BaseException) -> tuple[int | None, str]:
    """HTTP status and error code that a server gave, in an error or its causes; (None, "") if none.

    s3fs, for one, hides the refusal of a condition by Ceph in the cause.
    """
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__module__ == "aiohttp.http_exceptions":
            # An answer that broke off: the code in it is aiohttp's own, no server said it.
            seen = seen.__cause__
            continue
        response = getattr(seen, "response", None)
        if isinstance(response, Mapping):
            return parsed_answer(response)
        status = getattr(seen, "status_code", getattr(seen, "code", None))
        if isinstance(status, int):
            return status, ""
        if isinstance(seen, OSError) and (words := _ARROW.search(str(seen))):
            number = words[2] or _ARROW_STATUS.get(words[1])
            return (int(number) if number else None), words[1]
        seen = seen.__cause__
    return None, ""


def parsed_answer(response: Mapping[str, Any]) -> tuple[int | None, str]:
    """HTTP status and error code in a response as botocore parses it."""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status, str(response.get("Error", {}).get("Code", ""))


def kind_of(error: BaseException) -> str:
    """Why a call is made again, in a word: the HTTP status, ``timeout`` or ``connection``."""
    status, _ = answer(error)
    if status is not None:
        return str(status)
    name = type(error).__name__.lower()
    return "timeout" if "timeout" in name or "timed out" in str(error).lower() else "connection"


def explain(url: str, error: BaseException) -> str:
    """One line for people: the place, what happened, what to do. Holds no secrets."""
    status, code = answer(error)
    advice = ""
    if is_denied(error):
        advice = "; check the credentials (environment or profile), their expiry and the policy"
    elif code in ("NoSuchBucket", "NO_SUCH_BUCKET"):
        advice = "; make the bucket first, or mend its name"
    elif status == 301 or code == "AuthorizationHeaderMalformed":
        advice = "; set store.region to the bucket's region"
    elif status == 411 or "x-amz-content-sha256" in str(error).lower():
        advice = "; the server knows no checksum trailers, set store.checksums: when_required"
    elif is_full(error):
        advice = "; free some space on that disk, or raise the quota, and run again"
    elif scheme(url) != LOCAL and is_transient(error) and kind_of(error) == "connection":
        advice = "; check the endpoint and the network"
    return redact(f"{url}: {_say(error)}{advice}")


def _say(error: BaseException) -> str:
    # s3fs drops the message of answers without a body, its cause does not.
    said = str(error)
    if said in ("", "None") and error.__cause__ is not None:
        said = str(error.__cause__)
    return f"{type(error).__name__}: {' '.join(said.split())}"
