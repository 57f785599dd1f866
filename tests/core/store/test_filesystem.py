import os

import fsspec
import pytest

from stx_core.errors import SpecError, StoreError
from stx_core.store.files import filesystem, retries
from stx_core.store.files.create import probe
from stx_core.store.files.filesystem import (
    connect,
    file_info,
    list_names,
    list_sizes,
    open_file,
    read_bytes,
    retry,
    write_new,
)
from stx_core.store.files.listing import list_files
from stx_core.store.files.urls import join, redact


def put(root, *names):
    for name in names:
        write_new(join(root, name), name.encode())


def below(root, files):
    return [file.url.removeprefix(root).strip("/") for file in files]


def test_a_folder_is_listed_with_all_below_it_sorted_and_without_hidden_names(root):
    put(root, "b.parquet", "sub/a.parquet", "_SUCCESS", ".crc", "_stx/log/1.json", "sub/_tmp/x")

    files = list_files(root)

    assert below(root, files) == ["b.parquet", "sub/a.parquet"]
    assert [file.size for file in files] == [9, 13]


def test_a_glob_gives_the_names_that_match(root):
    put(root, "part-1.jsonl", "part-2.jsonl", "other.jsonl", "deep/part-3.jsonl")

    assert below(root, list_files(join(root, "part-*.jsonl"))) == ["part-1.jsonl", "part-2.jsonl"]
    assert below(root, list_files(join(root, "**/part-3.jsonl"))) == ["deep/part-3.jsonl"]


def test_one_file_is_listed_as_itself_even_if_its_name_is_hidden(root):
    put(root, "_odd.jsonl")

    assert below(root, list_files(join(root, "_odd.jsonl"))) == ["_odd.jsonl"]


@pytest.mark.parametrize("name", ["absent", "absent/*.parquet", "*.parquet"])
def test_nothing_there_is_an_error_that_names_the_place(root, name):
    put(root, "x.jsonl")

    with pytest.raises(FileNotFoundError, match="absent|parquet"):
        list_files(join(root, name))


def test_relative_and_absolute_local_paths_give_the_same_urls(tmp_path, monkeypatch):
    put(str(tmp_path), "x.jsonl")
    monkeypatch.chdir(tmp_path)

    assert list_files(".") == list_files(f"file://{tmp_path}") == list_files(str(tmp_path))


def test_identity_changes_with_the_content(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"one")
    before = file_info(str(file))
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))

    assert file_info(str(file)).size == before.size
    assert file_info(str(file)).identity != before.identity


def test_what_was_written_is_read_back(root):
    put(root, "deep/er/x")

    assert read_bytes(join(root, "deep/er/x")) == b"deep/er/x"
    with open_file(join(root, "deep/er/x")) as file:
        assert file.read() == b"deep/er/x"


def test_an_absent_file_is_file_not_found(root):
    with pytest.raises(FileNotFoundError):
        read_bytes(join(root, "absent"))


def test_names_are_sorted(root):
    put(root, "log/2.json", "log/1.json", "log/3.json", "log/deep/4.json")

    assert list_names(join(root, "log")) == ["1.json", "2.json", "3.json"]
    assert list_names(join(root, "absent")) == []


def test_temporary_files_of_a_killed_writer_are_not_listed(tmp_path):
    (tmp_path / ".1.json.abc.tmp").write_bytes(b"half")

    assert list_names(str(tmp_path)) == []
    assert list_sizes(str(tmp_path)) == {}
    assert list_files(str(tmp_path)) == []


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(StoreError, match="No space left"):
        write_new(str(tmp_path / "x"), b"data")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scheme_names_what_to_do():
    with pytest.raises(SpecError, match="nosuch://"):
        read_bytes("nosuch://bucket/key")


def test_chained_urls_are_refused():
    with pytest.raises(SpecError, match="chained"):
        list_files("simplecache::memory://x")


def test_a_transient_error_of_a_remote_store_is_tried_again(monkeypatch):
    monkeypatch.setattr(retries.tenacity.nap.time, "sleep", lambda seconds: None)
    calls = []

    def call():
        calls.append(1)
        if len(calls) < 3:
            raise TimeoutError("slow down")
        return "answer"

    assert retry(call, "s3://bucket/key") == "answer"
    assert len(calls) == 3


def test_a_denial_is_not_tried_again_and_hides_secrets():
    calls = []

    def call():
        calls.append(1)
        raise PermissionError("403 for s3://b/k?X-Amz-Signature=abc")

    with pytest.raises(StoreError, match="403") as caught:
        retry(call, "s3://user:secret@b/k")
    assert len(calls) == 1
    assert "abc" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_mistake_of_ours_is_not_a_storage_error():
    def call():
        raise TypeError("wrong argument")

    with pytest.raises(TypeError):
        retry(call, "s3://bucket/key")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pass@host/a", "https://…@host/a"),
        ("az://c/x?sv=1&sig=abc rest", "az://c/x?… rest"),
        ("abfs://container@account/x", "abfs://container@account/x"),
        ("s3://bucket/part-?.parquet", "s3://bucket/part-?.parquet"),
        ("/plain/path", "/plain/path"),
    ],
)
def test_redaction_keeps_the_place_and_hides_the_secret(text, shown):
    assert redact(text) == shown


def test_clients_of_stores_are_private_and_cache_no_listings(monkeypatch):
    seen = {}

    def url_to_fs(url, **options):
        seen.update(options, url=url)
        return fsspec.filesystem("memory"), ""

    monkeypatch.setattr(filesystem.fsspec.core, "url_to_fs", url_to_fs)

    filesystem.connect("memory://some-bucket-of-its-own/key")

    assert seen == {
        "url": "memory://some-bucket-of-its-own",
        "skip_instance_cache": True,
        "use_listings_cache": False,
    }


def test_a_name_that_is_taken_is_never_overwritten(tmp_path):
    put(str(tmp_path), "x")

    with pytest.raises(StoreError, match="cannot be written"):
        write_new(str(tmp_path / "x"), b"other")
    assert read_bytes(str(tmp_path / "x")) == b"x"


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data", "https://example.org/a.jsonl",
        "ftp://host/a.jsonl", "sftp://host/a", "github://org:repo@/a", "zip://a.jsonl",
        "local:///etc/passwd", "jar://a", "data://text", "reference://a", "hdfs://host/a",
    ],
)  # fmt: skip
def test_schemes_that_are_not_listed_are_refused_before_anything_is_fetched(url, monkeypatch):
    monkeypatch.setattr(filesystem.fsspec.core, "url_to_fs", lambda *_, **__: pytest.fail("asked"))

    with pytest.raises(
        SpecError, match="is not supported; use a path or file, memory, s3"
    ) as error:
        connect(url)

    assert "\n" not in str(error.value)


def test_links_to_files_are_read_as_files(tmp_path):
    outside = tmp_path / "cache" / "blob"
    outside.parent.mkdir()
    outside.write_bytes(b"content")
    (tmp_path / "data").mkdir()
    link = tmp_path / "data" / "a.jsonl"
    link.symlink_to(outside)

    (found,) = list_files(str(tmp_path / "data"))
    outside.write_bytes(b"changed")

    assert (found.url, found.size) == (str(link), 7)
    assert file_info(str(link)).identity != found.identity


@pytest.mark.parametrize("target", ["..", "nowhere"])
def test_links_to_folders_and_to_nothing_are_named_not_skipped(tmp_path, target):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_bytes(b"")
    (tmp_path / "data" / "more").symlink_to(target)

    with pytest.raises(FileNotFoundError, match="data/more: a link"):
        list_files(str(tmp_path / "data"))


@pytest.mark.parametrize("name", ["data", "quarantine", "_stx", "data/dense"])
def test_a_linked_folder_in_the_output_is_not_written_through(tmp_path, name):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    link = tmp_path / "out" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)

    with pytest.raises(StoreError, match="does not write through links"):
        probe(str(tmp_path / "out"))

    assert list(outside.iterdir()) == []


def test_the_output_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")

    probe(str(tmp_path / "out"))

    assert (tmp_path / "disk" / "_stx" / "probe.json").is_file()


@pytest.mark.parametrize(
    "evil", ["a\nstx: all is well", "a\r\x1b[2Kb", "a\u2028b", "a\x85b", "a\u202eb", "a\x00b"]
)
def test_errors_that_name_a_place_stay_one_visible_line(evil, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        list_files(str(tmp_path / evil.replace("\x00", "\x01")))

    assert str(error.value).isprintable()
    assert redact(evil).isprintable()
    assert redact("Zürich 東京 s3://b/k") == "Zürich 東京 s3://b/k"
