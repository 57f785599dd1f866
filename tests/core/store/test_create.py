import errno
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from stx_core.errors import StoreError
from stx_core.store.files import create as module
from stx_core.store.files.create import create, outcome_of, probe
from stx_core.store.files.filesystem import list_names, read_bytes
from stx_core.store.files.urls import join

WRITERS = 12


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(module.tenacity.nap.time, "sleep", lambda seconds: None)


def test_of_many_writers_exactly_one_wins_and_all_see_its_body(root):
    for number in range(10):
        url = join(root, f"{number}.json")
        start = threading.Barrier(WRITERS)

        def write(writer, url=url, start=start):
            start.wait()
            return writer, create(url, {"writer": writer})

        with ThreadPoolExecutor(WRITERS) as pool:
            results = list(pool.map(write, range(WRITERS)))

        winners = [writer for writer, result in results if result.won]
        assert len(winners) == 1
        assert {result.body["writer"] for _, result in results} == set(winners)
        assert json.loads(read_bytes(url))["writer"] == winners[0]


def test_debris_of_a_crash_does_not_win(tmp_path):
    (tmp_path / ".1.json.dead.tmp").write_bytes(b'{"writer": "dead"')

    assert create(str(tmp_path / "1.json"), {"writer": "alive"}).won
    assert list_names(str(tmp_path)) == ["1.json"]


def test_a_taken_name_with_garbage_is_lost_with_an_empty_body(tmp_path):
    (tmp_path / "1.json").write_bytes(b"\x00\x01")

    created = create(str(tmp_path / "1.json"), {"a": 1})

    assert (created.won, created.body) == (False, {})


class Answer(Exception):
    """As botocore's ClientError: what the server said is in `response`."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


def s3_error(status, number):
    """As s3fs raises it: an OSError whose cause is the client's error."""
    error = OSError(number, "")
    error.__cause__ = Answer(status)
    return error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (FileExistsError("key"), "exists"),
        (s3_error(412, errno.EINVAL), "exists"),  # Ceph: the XML names no condition
        (s3_error(409, errno.EBUSY), "unclear"),
        (s3_error(503, errno.EBUSY), "unclear"),
        (TimeoutError("read"), "unclear"),
        (ConnectionResetError(), "unclear"),
        (OSError(errno.EINVAL, "who knows"), "unclear"),
        (PermissionError("403"), "failed"),
        (FileNotFoundError("NoSuchBucket"), "failed"),
        (s3_error(501, errno.EINVAL), "failed"),
        (TypeError("our mistake"), "failed"),
        (Answer(412), "exists"),
    ],
)
def test_only_a_false_condition_means_that_the_object_exists(error, outcome):
    assert outcome_of(error) == outcome


class FakeS3(MemoryFileSystem):
    """Stores conditionally, and answers with the given errors: (error, whether it was applied)."""

    store = {}
    cachable = False

    def __init__(self, answers):
        super().__init__()
        self.answers = list(answers)
        self.bodies = []

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        assert mode == "create"
        self.bodies.append(value)
        error, applied = self.answers.pop(0) if self.answers else (None, True)
        if applied:
            if self.exists(path):
                raise s3_error(412, errno.EINVAL)
            super().pipe_file(path, value)
        if error:
            raise error


@pytest.fixture
def s3(monkeypatch):
    def use(*answers):
        FakeS3.store.clear()
        fake = FakeS3(answers)
        for name in (
            "stx_core.store.files.create.connect",
            "stx_core.store.files.filesystem.connect",
        ):
            monkeypatch.setattr(name, lambda url: (fake, "/" + url.split("://")[1]))
        return fake

    return use


def test_a_lost_answer_of_our_own_success_is_a_win(s3):
    fake = s3((TimeoutError("no answer"), True))

    created = create("s3://bucket/1.json", {"a": 1})

    assert created.won
    assert len(fake.bodies) == 2
    assert fake.bodies[0] == fake.bodies[1]


def test_a_conflict_is_tried_again_until_the_store_decides(s3):
    fake = s3((s3_error(409, errno.EBUSY), False), (s3_error(503, errno.EBUSY), False))

    assert create("s3://bucket/1.json", {"a": 1}).won
    assert len(fake.bodies) == 3


def test_a_refusal_of_ceph_is_lost_with_the_winners_body(s3):
    s3()
    create("s3://bucket/1.json", {"a": "first"})

    created = create("s3://bucket/1.json", {"a": "second"})

    assert not created.won
    assert created.body["a"] == "first"


def test_no_definite_answer_is_an_error_that_says_so(s3, monkeypatch):
    monkeypatch.setattr(module, "DEADLINE_S", 0.0)
    s3((TimeoutError("gone"), False))

    with pytest.raises(StoreError, match="outcome unknown"):
        create("s3://bucket/1.json", {"a": 1})


def test_a_denied_write_fails_at_once(s3):
    fake = s3((PermissionError("403"), False))

    with pytest.raises(StoreError, match="403"):
        create("s3://bucket/1.json", {"a": 1})
    assert len(fake.bodies) == 1


def test_a_store_that_cannot_create_conditionally_is_refused():
    with pytest.raises(StoreError, match="ftp:// cannot create"):
        create("ftp://host/1.json", {"a": 1})


def test_the_probe_passes_twice_and_leaves_one_object(root):
    probe(root)
    probe(root)

    assert list_names(join(root, "_stx")) == ["probe.json"]


def test_the_probe_refuses_a_store_that_ignores_conditions(monkeypatch, tmp_path):
    def overwrite(url, data):
        with open(url, "wb") as file:
            file.write(data)

    (tmp_path / "_stx").mkdir()
    monkeypatch.setattr(module, "put_if_absent", overwrite)

    with pytest.raises(StoreError, match="If-None-Match is ignored"):
        probe(str(tmp_path))


def test_a_file_where_a_folder_is_needed_is_an_error_and_no_lost_race(tmp_path):
    (tmp_path / "out").write_bytes(b"")

    with pytest.raises(StoreError, match="is a file, a folder is needed"):
        create(str(tmp_path / "out" / "1.json"), {"a": 1})


def test_a_file_system_without_hard_links_is_named(tmp_path, monkeypatch):
    def no_links(*args):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr("os.link", no_links)

    with pytest.raises(StoreError, match="hard links"):
        probe(str(tmp_path))


def test_writers_to_memory_cannot_both_find_the_name_free(monkeypatch):
    exists = MemoryFileSystem.exists

    def slow(self, path, **kwargs):
        found = exists(self, path, **kwargs)
        threading.Event().wait(0.02)
        return found

    monkeypatch.setattr(MemoryFileSystem, "exists", slow)
    url = "memory://create-race/1.json"

    with ThreadPoolExecutor(4) as pool:
        won = [created.won for created in pool.map(lambda n: create(url, {"n": n}), range(4))]

    assert sum(won) == 1
