"""Secrets stay out of errors: whatever a URL or the environment holds, messages do not."""

import pytest

from stx_core.errors import StxError
from stx_core.store.corpus.readers import list_shards
from stx_core.store.files.create import create
from stx_core.store.files.filesystem import list_files, read_bytes, write_new
from stx_core.store.files.urls import holds_secret, redact
from stx_core.store.snapshot import open_snapshot

PLANTED = "pl4nted-s3cret"


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{PLANTED}@host/a",
        f"s3://{PLANTED}@bucket/key",
        f"az://container/x?sv=2024&sig={PLANTED}&se=1",
        f"https://host/x?X-Amz-Algorithm=A&X-Amz-Signature={PLANTED}",
        f"request failed: X-Amz-Credential={PLANTED}&X-Amz-Date=1",
        f"GET /x?x-goog-signature={PLANTED}",
        f"proxy http://me:{PLANTED}@proxy:8080, then http://you:{PLANTED}@other",
        f"connection string password={PLANTED}",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text):
    assert holds_secret(text)
    assert PLANTED not in redact(text)


@pytest.mark.parametrize(
    "variable",
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_SAS_TOKEN"],
)
def test_credentials_of_the_environment_are_hidden_wherever_they_stand(variable, monkeypatch):
    monkeypatch.setenv(variable, PLANTED)

    assert redact(f"the server said: {PLANTED} is unknown") == "the server said: … is unknown"


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/a", "abfs://container@account/x", "s3://b/lang=en/part-?.parquet", "/a/b?c=d"],
)
def test_plain_urls_hold_no_secret(url):
    assert not holds_secret(url)


@pytest.mark.parametrize(
    "url",
    [
        f"memory://user:{PLANTED}@host/x",
        f"memory://host/x?X-Amz-Signature={PLANTED}",
        f"ftp://user:{PLANTED}@host/x",
        f"nosuch://host/x?sig={PLANTED}",
        f"simplecache::https://user:{PLANTED}@host/x",
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        read_bytes,
        list_files,
        open_snapshot,
        lambda url: list_shards([url]),
        lambda url: create(f"{url}&a=1", {"broken": float("nan")}),
        lambda url: write_new("/proc/nothing/x", url),
    ],
    ids=["read", "list", "open", "shards", "create", "write"],
)
def test_errors_about_a_url_hold_no_secret_of_it(url, call):
    with pytest.raises((StxError, OSError, ValueError)) as caught:
        call(url)
    error = caught.value
    while error is not None:
        if isinstance(error, StxError):
            assert PLANTED not in str(error)
        error = error.__cause__
    assert PLANTED not in str(caught.value)
