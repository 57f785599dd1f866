"""What only S3 does, on a real server where there is one (the test run's header names it)."""

import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from botocore.retries.standard import ExponentialBackoff

from stx_core.errors import InputError, SpecError, StoreError
from stx_core.store import log
from stx_core.store.corpus.readers import list_shards
from stx_core.store.files import retries, s3
from stx_core.store.files.create import create, probe
from stx_core.store.files.filesystem import (
    arrow_filesystem,
    file_info,
    list_names,
    list_sizes,
    open_file,
    read_bytes,
    write_new,
)
from stx_core.store.files.listing import list_files
from stx_core.store.files.s3 import S3Options, use_options
from stx_core.store.files.urls import join
from stx_core.store.gc import gc
from stx_core.store.schema import to_parquet
from tests.servers.canned import Answer

WRITERS, ROUNDS = 12, 20
HTTP_DATE = "Sat, 21 Nov 2026 09:00:00 GMT"


@pytest.fixture
def options(monkeypatch):
    """Use other options for one test; few attempts, as pyarrow's own pauses are real."""
    monkeypatch.setattr(retries, "READ_ATTEMPTS", 2)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.0)
    s3._session.cache_clear()  # it remembers credentials
    yield use_options
    use_options(S3Options())
    s3._session.cache_clear()


@pytest.fixture
def clean_environment(monkeypatch, tmp_path, options):
    """No variable and no file says how to reach S3."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


def test_of_many_writers_one_wins_in_every_round(s3_root):
    winners = []
    for number in range(ROUNDS):
        url = join(s3_root, f"{number}.json")
        start = threading.Barrier(WRITERS)

        def write(writer, url=url, start=start):
            start.wait()
            return create(url, {"writer": writer}).won

        with ThreadPoolExecutor(WRITERS) as pool:
            winners.append(sum(pool.map(write, range(WRITERS))))

    assert winners == [1] * ROUNDS


def test_parquet_is_read_by_pyarrow_and_small_objects_by_s3fs(s3_root):
    url = join(s3_root, "part.parquet")
    write_new(url, to_parquet(pa.table({"id": ["a", "b"]})))

    filesystem, path = arrow_filesystem(url)

    assert isinstance(filesystem, pa.fs.S3FileSystem)
    assert path == url.removeprefix("s3://")
    with open_file(url) as file:
        assert not isinstance(file, pa.PythonFile)
        assert pq.read_table(file).column("id").to_pylist() == ["a", "b"]


def test_pyarrow_can_write_with_the_default_checksums(s3_root):
    # Servers that know no checksum trailers answer 411 to uploads in parts.
    filesystem, path = arrow_filesystem(join(s3_root, "large"))
    data = os.urandom(12 << 20)

    with filesystem.open_output_stream(path) as stream:
        stream.write(data)

    assert read_bytes(join(s3_root, "large")) == data


def test_a_large_object_written_in_parts_is_read_back(s3_root):
    data = np.random.default_rng(0).bytes(120 << 20)

    write_new(join(s3_root, "large"), data)

    assert file_info(join(s3_root, "large")).size == len(data)
    assert read_bytes(join(s3_root, "large")) == data


def test_gc_aborts_uploads_that_killed_processes_left(s3_root, s3_server):
    if s3_server.kind == "moto":
        pytest.skip("moto says of every upload that it began in 2010")
    bucket, prefix = s3_root.split("/", 3)[2:]
    client = s3_server.client()
    log.claim(s3_root, "spec")
    elsewhere = client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}-other/large")
    client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/data/dense/part.parquet")

    young = gc(s3_root)
    old = gc(s3_root, margin_s=-60)

    assert (young.n_uploads, old.n_uploads) == (0, 1)
    found = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert [each["UploadId"] for each in found if prefix in each["Key"]] == [elsewhere["UploadId"]]


def test_folder_markers_are_no_files(s3_root, s3_server):
    prefix = s3_root.split("/", 3)[3]
    client = s3_server.client()
    for key in (f"{prefix}/", f"{prefix}/data/", f"{prefix}/data/deep/"):
        client.put_object(Bucket=s3_server.bucket, Key=key, Body=b"")
    write_new(join(s3_root, "data", "x.parquet"), b"x")

    assert [file.url for file in list_files(s3_root)] == [join(s3_root, "data", "x.parquet")]
    assert list_sizes(s3_root) == {"data/x.parquet": 1}
    assert list_names(join(s3_root, "data")) == ["x.parquet"]


def test_more_names_than_fit_into_one_answer_are_all_listed(s3_root):
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda n: write_new(join(s3_root, f"{n:04}"), b""), range(1010)))

    names = [f"{n:04}" for n in range(1010)]
    assert list_names(s3_root) == names
    assert list(list_sizes(s3_root)) == names


@pytest.mark.parametrize("name", ["with space", "per%20cent", "plus+and&", "ünïcode-語", "a=b/c@d"])
def test_odd_names_are_written_and_read_by_both_clients(s3_root, name):
    url = join(s3_root, name, "x.parquet")
    write_new(url, b"data")

    assert read_bytes(url) == b"data"
    assert [file.url for file in list_files(s3_root)] == [url]
    assert list_sizes(s3_root) == {f"{name}/x.parquet": 4}
    with open_file(url) as file:
        assert file.read() == b"data"


def test_another_process_sees_what_was_written_at_once(s3_root, s3_server):
    assert list_names(s3_root) == []
    key = join(s3_root, "new").removeprefix(f"s3://{s3_server.bucket}/")

    s3_server.client().put_object(Bucket=s3_server.bucket, Key=key, Body=b"from elsewhere")

    assert list_names(s3_root) == ["new"]
    assert read_bytes(join(s3_root, "new")) == b"from elsewhere"


def test_a_missing_bucket_is_named_with_what_to_do(s3_root):
    missing = f"s3://absent-{uuid.uuid4().hex[:8]}"

    with pytest.raises(StoreError, match=f"{missing}.*make the bucket first"):
        probe(join(missing, "out"))
    with pytest.raises(InputError, match="no such bucket or folder"):
        list_shards([join(missing, "in")])


def test_wrong_keys_are_a_denial_for_both_clients(s3_server, s3_root, clean_environment, options):
    if s3_server.kind == "moto":
        pytest.skip("moto takes any key")
    write_new(join(s3_root, "x.parquet"), b"x")
    profile = "[wrong]\naws_access_key_id = AKTEST\naws_secret_access_key = not-the-secret-of-it\n"
    (clean_environment / "credentials").write_text(profile)
    options(S3Options(endpoint=s3_server.endpoint, profile="wrong"))

    for call in (read_bytes, open_file, list_files, lambda url: create(url, {})):
        with pytest.raises(StoreError, match="check the credentials") as caught:
            call(join(s3_root, "x.parquet"))
        assert "not-the-secret-of-it" not in str(caught.value)


def test_a_profile_is_used_by_both_clients(s3_server, s3_root, clean_environment, options):
    keys = s3_server.environment
    (clean_environment / "credentials").write_text(
        f"[mine]\naws_access_key_id = {keys['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {keys['AWS_SECRET_ACCESS_KEY']}\n"
    )
    (clean_environment / "config").write_text(
        f"[profile mine]\nregion = us-east-1\nendpoint_url = {s3_server.endpoint}\n"
    )
    options(S3Options(profile="mine"))

    write_new(join(s3_root, "x"), b"by profile")

    assert read_bytes(join(s3_root, "x")) == b"by profile"
    with open_file(join(s3_root, "x")) as file:
        assert file.read() == b"by profile"


def test_an_unknown_profile_is_a_mistake_in_the_spec(clean_environment, options):
    options(S3Options(profile="nobody"))

    with pytest.raises(SpecError, match="store.profile.*nobody"):
        read_bytes("s3://bucket/x")


def test_a_public_object_is_read_without_keys(s3_server, s3_root, clean_environment, options):
    key = f"{s3_root.split('/', 3)[3]}/public"
    client = s3_server.client()
    client.put_object(Bucket=s3_server.bucket, Key=key, Body=b"all", ACL="public-read")
    options(S3Options(endpoint=s3_server.endpoint, anonymous=True))

    assert read_bytes(f"s3://{s3_server.bucket}/{key}") == b"all"
    with open_file(f"s3://{s3_server.bucket}/{key}") as file:
        assert file.read() == b"all"


def test_no_keys_at_all_is_said_at_once(s3_server, s3_root, clean_environment, options):
    options(S3Options(endpoint=s3_server.endpoint, region="us-east-1"))

    for call in (read_bytes, open_file):
        with pytest.raises(StoreError, match="credentials"):
            call(join(s3_root, "x"))


def test_a_server_that_is_not_there_ends_in_an_error_that_says_so(s3_root, options, monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    options(S3Options(endpoint="http://127.0.0.1:1", connect_timeout=1))

    for call in (read_bytes, open_file):
        with pytest.raises(StoreError, match="check the endpoint"):
            call(join(s3_root, "x"))


SLOW_DOWN = Answer(503, b"<Error><Code>SlowDown</Code><Message>Slow down</Message></Error>")
OBJECT = Answer(200, b"data", (("ETag", '"abc"'), ("Last-Modified", HTTP_DATE)))


@pytest.fixture
def troubled(canned, monkeypatch, options):
    """A server of S3 that gives the answers of a list, and serves an object when it is empty."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-key")
    retries.take_counts()

    def start(*answers, **settings):
        left = list(answers)
        endpoint = canned(lambda request: left.pop(0) if left else OBJECT)
        options(S3Options(endpoint=endpoint, region="us-east-1", **settings))
        return left

    return start


def test_requests_that_the_client_repeats_are_counted(troubled):
    left = troubled(SLOW_DOWN, SLOW_DOWN)

    assert read_bytes("s3://bucket/x") == b"data"
    assert left == []
    assert retries.take_counts() == {"503": 2}


def test_beyond_the_clients_attempts_the_whole_call_is_repeated_and_counted(troubled):
    troubled(*[SLOW_DOWN] * 4)

    assert read_bytes("s3://bucket/x") == b"data"
    assert retries.take_counts() == {"503": 4}


@pytest.mark.faults
def test_a_store_that_slows_us_down_for_long_is_not_taken_for_empty(troubled):
    troubled(*[SLOW_DOWN] * 1000)

    for call in (read_bytes, file_info, open_file, list_names, list_sizes, list_files):
        with pytest.raises(StoreError, match="after 2 attempts"):
            call("s3://bucket/x")


def test_pyarrow_reads_on_after_trouble(troubled):
    troubled(SLOW_DOWN, SLOW_DOWN)

    with open_file("s3://bucket/x") as file:
        assert file.size() == 4


def test_a_refused_checksum_names_the_setting(troubled):
    troubled(*[Answer(411, b"<Error><Code>MissingContentLength</Code></Error>")] * 9)

    with pytest.raises(StoreError, match="store.checksums: when_required"):
        write_new("s3://bucket/x", b"data")


def test_secrets_that_a_store_repeats_are_hidden(troubled):
    body = b"<Error><Code>AccessDenied</Code><Message>planted-secret-key, sig=abc</Message></Error>"
    troubled(*[Answer(403, body)] * 9)

    with pytest.raises(StoreError, match="check the credentials") as caught:
        write_new("s3://bucket/x", b"data")
    assert "planted-secret-key" not in str(caught.value)
    assert "abc" not in str(caught.value)
