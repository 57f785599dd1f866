"""Multipart uploads that killed processes left in a store: listed, aborted."""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from stx_core.store.files.filesystem import connect
from stx_core.store.files.retries import retry
from stx_core.store.files.urls import S3, scheme


@dataclass(frozen=True)
class Upload:
    """A multipart upload that was begun and neither completed nor aborted.

    Attributes:
        url: of the object that it was to become.
        id: of the upload.
        begun_s: when, seconds since 1970, by the clock of the store.
    """

    url: str
    id: str
    begun_s: float


def unfinished_uploads(folder: str) -> list[Upload]:
    """Multipart uploads below a folder that killed processes left; none on stores but S3.

    Nobody sees them, and they are paid for until they are aborted.

    Raises:
        StoreError: the store does not list them, or not to these credentials.
    """
    if scheme(folder) not in S3:
        return []
    filesystem, path = connect(folder)
    bucket, _, prefix = path.partition("/")
    uploads: list[Upload] = []
    marker: dict[str, str] = {}
    below = f"{prefix.rstrip('/')}/"
    while True:
        ask = partial(filesystem.call_s3, "list_multipart_uploads", Bucket=bucket, Prefix=below)
        page = retry(partial(ask, **marker), folder)
        for upload in page.get("Uploads", []):
            url = f"{scheme(folder)}://{bucket}/{upload['Key']}"
            uploads.append(Upload(url, upload["UploadId"], upload["Initiated"].timestamp()))
        if not page.get("IsTruncated"):
            return uploads
        marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def abort_upload(upload: Upload) -> None:
    """Abort a multipart upload; one that is gone already is no error.

    Raises:
        StoreError: it cannot be aborted.
    """
    filesystem, path = connect(upload.url)
    bucket, _, key = path.partition("/")
    with suppress(FileNotFoundError):
        retry(
            lambda: filesystem.call_s3(
                "abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload.id
            ),
            upload.url,
        )
