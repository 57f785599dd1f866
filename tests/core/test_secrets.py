"""Secrets stay out of errors: whatever a URL or the environment holds, messages do not."""

import pytest

from stx_core.errors import SpecError, StxError
from stx_core.store.corpus.readers import list_shards
from stx_core.store.files.create import create
from stx_core.store.files.filesystem import arrow_filesystem, read_bytes, write_new
from stx_core.store.files.listing import list_files
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


# What AWS, passwords and tokens may hold beside letters: all that ends a part of a URL.
_AWKWARD = "wJalr/XUtn?FE#MI:K7+MD@ENG"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"s3://AKIA7:{_AWKWARD}@bucket/key", "s3://…@bucket/key"),
        (f"s3a://{_AWKWARD}@bucket/key", "s3a://…@bucket/key"),
        (f"gs://token:{_AWKWARD}@bucket/key", "gs://…@bucket/key"),
        (f"abfs://c:{_AWKWARD}@account/x", "abfs://…@account/x"),
        (f"https://user:{_AWKWARD}@host/a", "https://…@host/a"),
        (f"http://qdrant:6333{_AWKWARD}@host:1/docs", "http://…@host:1/docs"),
        (
            f"at http://u:{_AWKWARD}@proxy:80, s3://k:{_AWKWARD}@b/c",
            "at http://…@proxy:80, s3://…@b/c",
        ),
        (f"http://proxy/http://u:{_AWKWARD}@host/x", "http://proxy/http://…@host/x"),
        (f"postgres://me:{_AWKWARD}@db/x", "postgres://…@db/x"),
        (f"http://me:it's{_AWKWARD}@host/x", "http://…@host/x"),
        (f"host=db password='it\\'s {_AWKWARD}' user=me", "host=db password=… user=me"),
        (f"host=db password = a\\ {_AWKWARD} user=me", "host=db password = … user=me"),
        (f"{{'secret_key': '{_AWKWARD}'}}", "{'secret_key': …}"),
        (f"AccountName=a;AccountKey={_AWKWARD}==;x", "AccountName=a;AccountKey=…"),
        (f"Authorization: Bearer {_AWKWARD}", "Authorization: …"),
        (f"api-key: {_AWKWARD}", "api-key: …"),
        (
            f"https://hooks.slack.com/services/T0/B0/{_AWKWARD} said",
            "https://hooks.slack.com/… said",
        ),
        (f"https://discord.com/api/webhooks/1/{_AWKWARD}", "https://discord.com/…"),
        (f"https://api.telegram.org/bot12:{_AWKWARD}/send", "https://api.telegram.org/…"),
        # Cut off in the middle, as by a client that quotes some characters of it.
        ("s3://AKIA7:wJalr/XUtn", "s3://…"),
        ("http://me:wJalr/XUtn", "http://…"),
    ],
)
def test_a_secret_is_hidden_whatever_it_holds(text, shown):
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/user@v1/part.parquet",
        "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/mine/key@1",
        "hf://datasets/owner/name@main/x.parquet",
        "abfs://container@account.dfs.core.windows.net/x",
        "http://qdrant:6333/docs",
        "http://[::1]:6333/docs",
        "['s3://bucket/a', 'me@example.org']",
        "/plain/path@v1:2",
        "file:///a/b@c",
    ],
)
def test_what_is_no_secret_is_shown_and_allowed(text):
    assert redact(text) == text
    assert not holds_secret(text)


@pytest.mark.parametrize("url", ["s3://b/token=en/x", "s3://Old_Bucket/k@v", "http://h:80/a@b"])
def test_what_may_well_be_a_place_is_not_refused(url):
    assert not holds_secret(url)


def test_a_proxys_password_is_hidden_without_its_url(monkeypatch):
    monkeypatch.setenv("https_proxy", f"http://me:{PLANTED}@proxy:8080")

    assert redact(f"tunnel to proxy failed: me:{PLANTED} is refused").endswith(": … is refused")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (f"s3://AKIA7:{_AWKWARD}@bucket/x", "s3://…@bucket/x: holds credentials; leave"),
        ("s3://buc:ket/x", "s3://…: no bucket has ':' in its name; leave"),
    ],
)
def test_a_place_with_credentials_is_refused_before_any_client_sees_it(url, problem):
    for call in (read_bytes, list_files, open_snapshot, arrow_filesystem):
        with pytest.raises(SpecError) as refused:
            call(url)
        shown, reason = problem.split(": ", 1)
        assert str(refused.value).startswith(shown)
        assert f": {reason}" in str(refused.value)
        assert "wJalr" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "s3://bucket", "https://host", "http://h:80"]
)
def test_a_colon_behind_a_url_is_of_the_sentence(url):
    assert redact(f"{url}: no answer") == f"{url}: no answer"
    assert redact("http://user:pass: no answer") == "http://… no answer"
