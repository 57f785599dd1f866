"""Access to S3: one set of options and credentials for both of its clients.

pyarrow reads data files, s3fs does all else: listings, small objects, conditional writes, uploads.
Each process has one client of a kind per set of options.
"""

import atexit
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import pyarrow.fs

from stx_core.errors import SpecError, StoreError
from stx_core.store.files import retries

Checksums = Literal["when_required", "when_supported"]

# Attempts of one request inside a client, with jitter; above it a whole call is repeated.
_REQUEST_ATTEMPTS = 3

_CHECKSUM_VARIABLES = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")


@dataclass(frozen=True)
class S3Options:
    """Settings that the environment does not say, or says differently. No credentials.

    Attributes:
        endpoint: URL of a server that is not AWS; None for AWS_ENDPOINT_URL, else AWS.
        region: None for AWS_REGION, AWS_DEFAULT_REGION or the profile's.
        profile: of the AWS configuration files; it wins over keys in the environment.
        anonymous: sign nothing, for public buckets.
        checksums: None for AWS_REQUEST_CHECKSUM_CALCULATION, else ``when_required``: the SDKs' own
            default, trailers with each upload, is refused by Ceph, R2 and older MinIO servers.
        connect_timeout: seconds to open a connection.
        request_timeout: seconds without an answer.
    """

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False
    checksums: Checksums | None = None
    connect_timeout: float = 5.0
    request_timeout: float = 30.0


_options = S3Options()

_region_of_bucket = functools.lru_cache(maxsize=64)(pyarrow.fs.resolve_s3_region)


def use_options(options: S3Options) -> None:
    """Reach S3 with these options from now on, in this process."""
    global _options
    _options = options


def current_options() -> S3Options:
    """The options of this process, part of the identity of its clients."""
    return _options


def control_client(options: S3Options) -> Any:  # noqa: ANN401  (an s3fs.S3FileSystem)
    """Make a client for listings, small objects and uploads.

    Raises:
        SpecError: s3fs is not installed, or the profile is unknown.
    """
    try:
        import s3fs
    except ImportError as error:
        raise SpecError(f"s3:// needs s3fs ({error}): pip install 'stx[s3]'") from error
    options = _completed(options)
    client = s3fs.S3FileSystem(
        anon=options.anonymous,
        profile=options.profile,
        endpoint_url=options.endpoint,
        client_kwargs={"region_name": options.region},
        config_kwargs={
            "retries": {"mode": "standard", "total_max_attempts": _REQUEST_ATTEMPTS},
            "connect_timeout": options.connect_timeout,
            "read_timeout": options.request_timeout,
            "request_checksum_calculation": options.checksums,
            "response_checksum_validation": options.checksums,
        },
        # Listings must be fresh: other processes write, and this cache never expires.
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    # Its own loop has no jitter, and counts nothing.
    client.retries = 1
    client.connect()
    client._s3.meta.events.register("needs-retry.s3", _count_retry)
    return client


def _count_retry(
    response: tuple[object, Mapping[str, Any]] | None,
    caught_exception: BaseException | None,
    attempts: int,
    **_: object,
) -> None:
    """Watch botocore decide on another attempt; None leaves the decision to it."""
    if attempts >= _REQUEST_ATTEMPTS:
        return
    if caught_exception is not None:
        retries.add_counts({retries.kind_of(caught_exception): 1})
    elif response is not None:
        status, code = retries.parsed_answer(response[1])
        if status in (429, 500, 502, 503, 504) or code == "RequestTimeout":
            retries.add_counts({str(status): 1})


def find(client: Any, path: str, url: str) -> Iterator[tuple[str, Mapping[str, Any]]]:  # noqa: ANN401
    """Path of each object below a folder, with facts as s3fs gives them; a page at a time.

    Args:
        client: see `control_client`.
        path: bucket and folder.
        url: the same, for messages.

    Raises:
        FileNotFoundError: there is no such bucket.
        StoreError: it cannot be listed.
    """
    bucket, _, folder = path.partition("/")
    below = f"{folder.rstrip('/')}/" if folder else ""
    ask = partial(client.call_s3, "list_objects_v2", Bucket=bucket, Prefix=below)
    marker: dict[str, str] = {}
    while True:
        page = retries.retry(partial(ask, **marker), url)
        for item in page.get("Contents", []):
            yield f"{bucket}/{item['Key']}", {**item, "size": item["Size"]}
        if not page.get("IsTruncated"):
            return
        marker = {"ContinuationToken": page["NextContinuationToken"]}


def data_client(options: S3Options, bucket: str) -> Any:  # noqa: ANN401  (a pyarrow filesystem)
    """Give the client for reading data files.

    The credentials are those that botocore finds for both clients; when they were refreshed, so is
    the client.
    """
    options = _completed(options)
    keys: tuple[str | None, ...] = ()
    if not options.anonymous:
        credentials = _session(options.profile).get_credentials()
        if credentials is None:
            raise StoreError(
                f"s3://{bucket}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or AWS_PROFILE, or store.anonymous: true"
            )
        frozen = credentials.get_frozen_credentials()
        keys = (frozen.access_key, frozen.secret_key, frozen.token)
    if options.region is None:
        # A server of one's own has any region; buckets of AWS know theirs.
        region = "us-east-1" if options.endpoint else _region_of_bucket(bucket)
        options = replace(options, region=region)
    return _data_client(options, keys, os.getpid())


@functools.lru_cache(maxsize=8)
def _data_client(
    options: S3Options,
    keys: tuple[str | None, ...],
    process: int,  # noqa: ARG001  (clients do not survive a fork)
) -> Any:  # noqa: ANN401
    for variable in _CHECKSUM_VARIABLES:
        # The SDK inside pyarrow takes this from the environment alone.
        os.environ[variable] = str(options.checksums)
    server = urlsplit(options.endpoint or "")
    secrets = dict(zip(("access_key", "secret_key", "session_token"), keys, strict=False))
    return pyarrow.fs.S3FileSystem(
        **secrets,
        anonymous=options.anonymous,
        region=options.region,
        scheme=server.scheme or "https",
        endpoint_override=(server.netloc + server.path) or None,
        connect_timeout=options.connect_timeout,
        request_timeout=options.request_timeout,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=_REQUEST_ATTEMPTS),
    )


# Before pyarrow, which registered earlier, ends its S3 part: a client that outlives it may hang.
atexit.register(_data_client.cache_clear)


@functools.lru_cache(maxsize=8)
def _session(profile: str | None) -> Any:  # noqa: ANN401  (a botocore session)
    import botocore.exceptions
    import botocore.session

    session = botocore.session.Session(profile=profile)
    try:
        session.get_scoped_config()
    except botocore.exceptions.ProfileNotFound as error:
        raise SpecError(f"store.profile: {error}; see ~/.aws/config") from error
    return session


def _completed(options: S3Options) -> S3Options:
    """Options with what the environment and the profile say where they say nothing."""
    session, variables = _session(options.profile), os.environ
    endpoint = (
        options.endpoint
        or variables.get("AWS_ENDPOINT_URL_S3")
        or variables.get("AWS_ENDPOINT_URL")
        or session.get_scoped_config().get("endpoint_url")
    )
    # botocore does not know AWS_REGION, which all other SDKs read.
    region = options.region or variables.get("AWS_REGION") or session.get_config_variable("region")
    checksums = options.checksums or variables.get(_CHECKSUM_VARIABLES[0], "when_required")
    return replace(
        options, endpoint=endpoint, region=region, checksums=cast("Checksums", checksums)
    )
