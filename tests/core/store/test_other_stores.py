"""Google's and Azure's stores: their real clients against their documented answers.

The two handlers below give the answers of the services' documentation to the few requests that the
commit protocol makes.
"""

import base64
import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import pytest

from stx_core.errors import StoreError
from stx_core.store.files import create as create_module
from stx_core.store.files import filesystem
from stx_core.store.files.create import create, probe
from stx_core.store.files.filesystem import read_bytes
from tests.servers.canned import Answer

HTTP_DATE = "Sat, 21 Nov 2026 09:00:00 GMT"
WRITERS = 8


class Bucket:
    """Objects that are created under a lock; trouble is answered first."""

    def __init__(self):
        self.objects, self.trouble, self.lock = {}, [], threading.Lock()

    def write(self, name, data, only_if_absent):
        with self.lock:
            if only_if_absent and name in self.objects:
                return False
            self.objects[name] = data
            return True


class Google(Bucket):
    """The JSON API: multipart uploads with ifGenerationMatch=0, media downloads."""

    def __call__(self, request):
        if self.trouble:
            return self.trouble.pop(0)
        if request.path.startswith("/upload/"):
            boundary = request.headers["content-type"].split("boundary=")[1].strip("'\"").encode()
            _, meta, data, _ = request.body.split(b"--" + boundary)
            name = json.loads(meta.split(b"\n\n" if b"\r\n" not in meta else b"\r\n\r\n", 1)[1])
            content = data.split(b"\n\n", 1)[1][:-1]
            absent = request.query.get("ifGenerationMatch") == "0"
            if not self.write(name["name"], content, absent):
                return Answer(412, b'{"error": {"code": 412, "message": "conditionNotMet"}}')
            return self._described(name["name"])
        name = unquote(request.path.rsplit("/o/", 1)[-1])
        if name not in self.objects:
            return Answer(404, b'{"error": {"code": 404, "message": "No such object"}}')
        return Answer(200, self.objects[name])

    def _described(self, name):
        digest = base64.b64encode(hashlib.md5(self.objects[name]).digest()).decode()
        body = {"name": name, "bucket": "b", "size": len(self.objects[name]), "md5Hash": digest}
        return Answer(200, json.dumps(body).encode(), (("Content-Type", "application/json"),))


class Azure(Bucket):
    """Put Blob with If-None-Match: *, Get Blob."""

    def __call__(self, request):
        if self.trouble:
            return self.trouble.pop(0)
        facts = (("ETag", '"0x1"'), ("Last-Modified", HTTP_DATE), ("x-ms-blob-type", "BlockBlob"))
        if request.method == "PUT":
            absent = request.headers.get("if-none-match") == "*"
            if not self.write(request.path, request.body, absent):
                return Answer(409, b"", (("x-ms-error-code", "BlobAlreadyExists"),))
            return Answer(201, b"", facts)
        data = self.objects.get(request.path)
        if data is None:
            return Answer(404, b"", (("x-ms-error-code", "BlobNotFound"),))
        if "x-ms-range" in request.headers:
            whole = ("Content-Range", f"bytes 0-{len(data) - 1}/{len(data)}")
            return Answer(206, data, (*facts, whole))
        return Answer(200, data, facts)


@pytest.fixture(params=["google", "azure"])
def store(request, canned, monkeypatch):
    """A store of each kind, with the URL of an empty place in it."""
    monkeypatch.setattr(create_module.tenacity.nap.time, "sleep", lambda seconds: None)
    filesystem._client.cache_clear()
    if request.param == "google":
        bucket = Google()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", canned(bucket))
        bucket.url = "gs://bucket/out"
    else:
        bucket = Azure()
        account = canned(bucket) + "/account"
        key = base64.b64encode(b"planted-account-key").decode()
        monkeypatch.setenv(
            "AZURE_STORAGE_CONNECTION_STRING",
            f"DefaultEndpointsProtocol=http;AccountName=account;AccountKey={key};"
            f"BlobEndpoint={account};",
        )
        bucket.url = "az://bucket/out"
    yield bucket
    filesystem._client.cache_clear()


def test_of_many_writers_one_wins_and_all_see_its_body(store):
    url = f"{store.url}/1.json"

    with ThreadPoolExecutor(WRITERS) as pool:
        results = list(pool.map(lambda writer: create(url, {"writer": writer}), range(WRITERS)))

    assert sum(result.won for result in results) == 1
    assert len({result.body["writer"] for result in results}) == 1
    assert json.loads(read_bytes(url))["writer"] == results[0].body["writer"]


def test_the_probe_passes(store):
    probe(store.url)
    probe(store.url)


def test_an_absent_object_is_file_not_found(store):
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{store.url}/absent")


def test_a_denial_is_an_error_at_once_that_says_what_to_do(store):
    store.trouble = [Answer(403, b"", (("x-ms-error-code", "AuthorizationFailure"),))] * 9

    with pytest.raises(StoreError, match="check the credentials"):
        create(f"{store.url}/1.json", {})
    assert store.objects == {}
