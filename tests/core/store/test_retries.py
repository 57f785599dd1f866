import asyncio
import errno

import aiohttp.http_exceptions
import azure.core.exceptions
import gcsfs.retry
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, NoCredentialsError
from s3fs.errors import translate_boto_error

from stx_core.errors import InputError, StoreError
from stx_core.store.files import retries
from stx_core.store.files.create import outcome_of
from stx_core.store.files.retries import explain, is_transient, kind_of, retry, take_counts


@pytest.fixture(autouse=True)
def _no_waiting_and_no_counts(monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    take_counts()


def s3(status, code="", condition=None):
    """What s3fs raises for an answer of a server."""
    error = {"Code": code} | ({"Condition": condition} if condition else {})
    answer = {"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(answer, "PutObject"))


def gcs(status, content="{}"):
    """What gcsfs raises for an answer of the JSON API."""
    try:
        gcsfs.retry.validate_response(status, content, "b/bucket/o/key")
    except Exception as error:
        return error
    raise AssertionError("no error")


def azure_blob(status, code):
    """What adlfs lets through: FileExistsError for the SDK's ResourceExistsError, else its own."""

    class Response:
        status_code, reason, headers = status, code, {}

    if status == 409:
        return FileExistsError("key")
    return azure.core.exceptions.HttpResponseError(message=code, response=Response())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        # AWS and moto; Ceph; a race that wrote nothing; trouble; refusals.
        (s3(412, "PreconditionFailed", "If-None-Match"), "exists"),
        (s3(412, "PreconditionFailed"), "exists"),
        (s3(409, "ConditionalRequestConflict"), "unclear"),
        (s3(409, "OperationAborted"), "unclear"),
        (s3(503, "SlowDown"), "unclear"),
        (s3(500, "InternalError"), "unclear"),
        (s3(400, "RequestTimeout"), "unclear"),
        (s3(400, "BadDigest"), "unclear"),
        (s3(400, "InvalidArgument"), "failed"),
        (s3(403, "AccessDenied"), "failed"),
        (s3(404, "NoSuchBucket"), "failed"),
        (s3(501, "NotImplemented"), "failed"),
        (ConnectTimeoutError(endpoint_url="http://x"), "unclear"),
        (NoCredentialsError(), "failed"),
        (gcs(412), "exists"),
        (gcs(403, '{"error": {"message": "no storage.objects.create"}}'), "failed"),
        (gcs(404), "failed"),
        (gcs(429, '{"error": {"message": "rate limit"}}'), "unclear"),
        (gcs(502), "unclear"),
        (gcs(503, "backend error"), "unclear"),
        (azure_blob(409, "BlobAlreadyExists"), "exists"),
        (azure_blob(412, "ConditionNotMet"), "exists"),
        (azure_blob(403, "AuthorizationFailure"), "failed"),
        (azure_blob(503, "ServerBusy"), "unclear"),
        (azure.core.exceptions.ServiceRequestError("no connection"), "unclear"),
    ],
    ids=repr,
)
def test_the_answer_of_each_store_to_a_conditional_write_is_understood(error, outcome):
    assert outcome_of(error) == outcome


def arrow(word):
    return OSError(f"When reading information for key 'k' in bucket 'b': AWS Error {word} during X")


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (s3(503, "SlowDown"), True),
        (s3(403, "ExpiredToken"), False),
        (s3(404, "NoSuchKey"), False),
        (s3(400, "AuthorizationHeaderMalformed"), False),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (asyncio.IncompleteReadError(b"", 4), False),  # EOFError: no client lets it through
        (arrow("NETWORK_CONNECTION"), True),
        (arrow("SLOW_DOWN"), True),
        (arrow("ACCESS_DENIED"), False),
        (arrow("UNKNOWN (HTTP status 411)"), False),
        (arrow("UNKNOWN (HTTP status 504)"), True),
        (gcs(503), True),
        (gcs(403), False),
        (TypeError(), False),
        (InputError("our own"), False),
    ],
    ids=repr,
)
def test_only_transient_errors_are_retried(error, transient):
    assert is_transient(error) == transient


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (s3(503, "SlowDown"), "503"),
        (arrow("SLOW_DOWN"), "503"),
        (ConnectTimeoutError(endpoint_url="http://x"), "timeout"),
        (TimeoutError(), "timeout"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "connection"),
    ],
    ids=repr,
)
def test_the_kind_of_an_error_is_status_timeout_or_connection(error, kind):
    assert kind_of(error) == kind


def test_each_further_attempt_is_counted_once_by_kind():
    answers = [s3(503, "SlowDown"), TimeoutError(), s3(503, "SlowDown")]

    def call():
        if answers:
            raise answers.pop()
        return "done"

    assert retry(call, "s3://bucket/key") == "done"
    assert take_counts() == {"503": 2, "timeout": 1}
    assert take_counts() == {}


def test_a_store_that_stays_down_is_an_error_with_the_number_of_attempts():
    def call():
        raise s3(503, "SlowDown")

    with pytest.raises(StoreError, match=f"SlowDown.*after {retries.READ_ATTEMPTS} attempts"):
        retry(call, "s3://bucket/key")


def test_an_error_of_ours_passes_unchanged_even_if_the_store_caused_it():
    def call():
        try:
            raise s3(403, "AccessDenied")
        except PermissionError as error:
            raise InputError("part.parquet: damaged") from error

    with pytest.raises(InputError, match="damaged"):
        retry(call, "s3://bucket/key")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (s3(403, "AccessDenied"), "check the credentials"),
        (NoCredentialsError(), "check the credentials"),
        (gcs(403), "check the credentials"),
        (s3(404, "NoSuchBucket"), "make the bucket first"),
        (s3(301, "PermanentRedirect"), "store.region"),
        (s3(411, "MissingContentLength"), "store.checksums: when_required"),
        (arrow("UNKNOWN (HTTP status 411)"), "store.checksums: when_required"),
        (OSError("missing x-amz-content-sha256"), "store.checksums: when_required"),
        (ConnectionRefusedError(), "check the endpoint"),
    ],
    ids=repr,
)
def test_the_error_says_what_to_do(error, advice):
    told = explain("s3://bucket/key", error)

    assert told.startswith("s3://bucket/key: ")
    assert advice in told
    assert "\n" not in told


def test_an_answer_that_broke_off_is_asked_for_again():
    # aiohttp gives its own errors the code 400, which no server has said.
    broken = aiohttp.ClientPayloadError("Response payload is not completed")
    broken.__cause__ = aiohttp.http_exceptions.ContentLengthError("not enough data")

    assert retries.answer(broken) == (None, "")
    assert is_transient(broken)
