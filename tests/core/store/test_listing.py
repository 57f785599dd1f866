"""What a path names: nothing is left out in silence, and each file is one file."""

import os
import stat

import pytest

from stx_core.errors import InputError, SpecError, StoreError
from stx_core.store.corpus.readers import list_shards
from stx_core.store.files import filesystem
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.files.filesystem import list_objects, list_sizes, write_new
from stx_core.store.files.listing import list_files
from stx_core.store.files.urls import join, normal


def put(root, *names):
    for name in names:
        write_new(join(str(root), name), name.encode())


def below(root, url):
    root = str(root)
    return [file.url.removeprefix(root).strip("/") for file in list_files(str(url))]


def info_of_jsonl(url):
    """Stands in for `file_info`: what is no .jsonl file is not there."""
    if not url.endswith(".jsonl"):
        raise FileNotFoundError(url)


@pytest.fixture
def closed(monkeypatch):
    """Closes folders and files to this user; the tests may run as root, whom no mode stops."""

    def close(*paths):
        shut = {str(path) for path in paths}

        def refuse(path):
            if os.fspath(path) in shut:
                raise PermissionError(13, "Permission denied", os.fspath(path))

        scandir, stat_of = os.scandir, os.stat
        monkeypatch.setattr(os, "scandir", lambda path: refuse(path) or scandir(path))
        monkeypatch.setattr(os, "stat", lambda p, **more: refuse(p) or stat_of(p, **more))

    return close


@pytest.mark.parametrize("look", ["", "**/*.jsonl", "*/*.jsonl", "*/b/*.jsonl", "**"])
@pytest.mark.parametrize("folder", ["day=1", "day=1/b"])
def test_a_folder_that_cannot_be_listed_is_an_error_that_names_it(tmp_path, closed, look, folder):
    put(tmp_path, "day=1/b/x.jsonl", "day=1/y.jsonl", "day=2/b/x.jsonl")
    if look == "*/*.jsonl" and folder == "day=1/b":
        pytest.skip("the glob does not look there")
    closed(tmp_path / folder)

    with pytest.raises(StoreError, match=f"{folder}: cannot be listed .*give this user the right"):
        list_files(join(str(tmp_path), look))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_without_rights_is_an_error_that_names_it(tmp_path):
    put(tmp_path, "day=1/x.jsonl", "day=2/x.jsonl")
    (tmp_path / "day=1").chmod(0)

    with pytest.raises(StoreError, match="day=1: cannot be listed"):
        list_shards([str(tmp_path)])


def test_folders_that_are_not_asked_for_may_be_closed(tmp_path, closed):
    put(tmp_path, "en/x.jsonl", "de/x.jsonl", "_tmp/x.jsonl")
    closed(tmp_path / "de", tmp_path / "_tmp")

    assert below(tmp_path, tmp_path / "e*" / "*.jsonl") == ["en/x.jsonl"]


def test_the_folder_itself_and_those_above_are_named_too(tmp_path, closed):
    put(tmp_path, "in/x.jsonl")
    closed(tmp_path / "in")

    with pytest.raises(StoreError, match="/in: "):
        list_files(str(tmp_path / "in"))


@pytest.mark.parametrize("look", [list_sizes, list_objects])
def test_listing_an_output_is_complete_or_an_error(tmp_path, closed, look):
    put(tmp_path, "data/a/x.parquet", "data/b/x.parquet")
    closed(tmp_path / "data" / "b")

    with pytest.raises(StoreError, match="data/b"):
        look(str(tmp_path))


@pytest.mark.parametrize("look", ["", "*.jsonl", "*"])
@pytest.mark.parametrize("target", ["a.jsonl", "nowhere", "."])
def test_links_that_lead_nowhere_or_in_a_circle_are_named(tmp_path, look, target):
    put(tmp_path, "b.jsonl")
    (tmp_path / "a.jsonl").symlink_to(target)

    with pytest.raises(FileNotFoundError, match=r"a\.jsonl: a link to a folder or to nothing"):
        list_files(join(str(tmp_path), look))
    with pytest.raises((InputError, StoreError), match=r"a\.jsonl"):
        list_shards([join(str(tmp_path), "a.jsonl")])


@pytest.mark.parametrize("look", ["", "x", "*"])
def test_a_pipe_is_an_error_that_says_what_to_do(tmp_path, look):
    os.mkfifo(tmp_path / "x")

    with pytest.raises(InputError, match="/x: no file but a pipe.*write it into a file first"):
        list_files(join(str(tmp_path), look))


def test_a_shell_substitution_is_an_error_that_says_what_to_do():
    reader, writer = os.pipe()
    try:
        assert stat.S_ISFIFO(os.stat(f"/dev/fd/{reader}").st_mode)
        with pytest.raises(InputError, match="a pipe, socket or device"):
            list_files(f"/dev/fd/{reader}")
    finally:
        os.close(reader)
        os.close(writer)


def test_names_that_are_no_text_are_named(tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), b"\xff.jsonl"), "wb"):
        pass

    with pytest.raises(InputError, match=r"\\xff.jsonl: the name is not valid UTF-8"):
        list_files(str(tmp_path))
    with pytest.raises(SpecError, match="NUL"):
        list_files("a\0b")


@pytest.mark.parametrize("name", ["a[1].jsonl", "what?.jsonl", "all*.jsonl", "[x]/a.jsonl"])
def test_a_name_that_is_there_is_no_pattern(root, name):
    put(root, name, "a1.jsonl", "allx.jsonl", "x/a.jsonl")

    assert below(root, join(root, name)) == [name]
    assert below(root, join(root, "a[0-9].jsonl")) == ["a1.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**", ["a.jsonl", "x/b.jsonl", "x/y/c.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "x/b.jsonl", "x/y/c.jsonl"]),
        ("x/**", ["x/b.jsonl", "x/y/c.jsonl"]),
        ("*/*/*.jsonl", ["x/y/c.jsonl"]),
        ("**/y/*", ["x/y/c.jsonl"]),
        ("?.json[l]", ["a.jsonl"]),
        ("[!x]/*", None),
        ("*", ["a.jsonl"]),
        ("x*", None),
        ("_*/*", ["_hidden/d.jsonl"]),
    ],
)
def test_globs_name_files_at_every_depth(root, pattern, names):
    put(root, "a.jsonl", "x/b.jsonl", "x/y/c.jsonl", "_hidden/d.jsonl", "x/.crc")

    if names is None:
        with pytest.raises(FileNotFoundError, match="no file matches; a glob names files"):
            list_files(join(root, pattern))
    else:
        assert below(root, join(root, pattern)) == names


def test_partitions_that_begin_with_an_underscore_are_no_hidden_folders(root):
    put(root, "_year=2020/a.jsonl", "_tmp/b.jsonl", ".x=1/c.jsonl", "_y=1.jsonl")

    assert below(root, root) == ["_year=2020/a.jsonl"]
    assert below(root, join(root, "**/*.jsonl")) == ["_year=2020/a.jsonl"]


def test_a_remote_folder_that_cannot_be_listed_is_an_error(monkeypatch):
    store, _ = filesystem.connect("memory://lake/x")
    put("memory://lake", "a/x.jsonl", "b/x.jsonl")
    plain = type(store).ls

    def ls(self, path, detail=True, **more):
        if path.rstrip("/").endswith("/b"):
            raise PermissionError("403 Forbidden")
        return plain(self, path, detail=detail, **more)

    monkeypatch.setattr(type(store), "ls", ls)

    with pytest.raises(StoreError, match="403"):
        list_files("memory://lake/*/*.jsonl")


def n_files(*urls):
    return len(list_shards([str(url) for url in urls]))


def test_a_file_is_one_file_whatever_it_is_called(tmp_path, monkeypatch):
    put(tmp_path, "in/a.jsonl", "in/b.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "c.jsonl").symlink_to("a.jsonl")
    os.link(tmp_path / "in" / "a.jsonl", tmp_path / "in" / "d.jsonl")
    monkeypatch.chdir(tmp_path)

    spellings = [
        tmp_path / "in", f"/{tmp_path}/in", "in/", "./in", "in/../in", f"file://{tmp_path}/in",
        f"file:{tmp_path}/in", f"file://localhost{tmp_path}/in", tmp_path / "link", "in/*.jsonl",
        "in/a.jsonl", "in/*a*", "**/b.jsonl",
    ]  # fmt: skip
    for spelling in spellings:
        assert n_files(tmp_path / "in", spelling) == 2
    assert [shard.url for shard in list_shards(list(map(str, spellings)))] == [
        str(tmp_path / "in" / "a.jsonl"),
        str(tmp_path / "in" / "b.jsonl"),
    ]


def test_equal_files_are_two_and_so_is_one_under_two_partitions(tmp_path):
    put(tmp_path, "lang=en/a.jsonl")
    (tmp_path / "lang=de").mkdir()
    (tmp_path / "lang=de" / "a.jsonl").symlink_to("../lang=en/a.jsonl")
    for name in "xy":
        (tmp_path / f"{name}.jsonl").write_text("same")

    assert n_files(tmp_path) == 4


def test_a_bucket_has_one_name_in_all_spellings():
    assert normal("S3://b/k/") == "s3://b/k"
    assert normal("//x//y/./z/") == normal("file:///x/y/z") == normal("FILE:/x/y/z") == "/x/y/z"


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ("in", "in"), ("in", "in/"), ("in", "in/out"), ("in", "./in//out/"), ("in", "in/../in"),
        ("in", "in/deep/er/out"), ("in/sub", "in"), ("link", "in/out"), ("in", "link/out"),
        ("in", "link"), ("link", "in"), ("in", "file://{}/in/out"), ("/{}/in", "in/out"),
        ("in/**", "in/out"), ("in/**/*.parquet", "in/out"), ("*/*/data/*/*", "in/out"),
        ("**/*.jsonl", "out"), ("i?/*/quarantine/*", "in/out"), ("in/data/x.jsonl", "in"),
        ("in/data/*", "in"), ("link/**", "in/out"),
        ("s3://b/in", "s3a://b/in/out"), ("s3://b//in", "s3://b/in/out"), ("s3://b", "s3://b/out"),
        ("S3://b/in/", "s3://b/in"), ("az://c/in", "abfs://c@account.dfs.core.windows.net/in/x"),
        ("gs://b/in/**", "gcs://b/in/out"),
    ],
)  # fmt: skip
def test_an_output_that_overlaps_an_input_is_refused(tmp_path, monkeypatch, given, output):
    put(tmp_path, "in/a.jsonl", "in/sub/b.jsonl", "in/data/x.jsonl")
    (tmp_path / "link").symlink_to("in")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stx_core.store.files.apart.file_info", info_of_jsonl)

    with pytest.raises(SpecError, match=r"output\.path: .* overlap"):
        refuse_overlap(output.format(tmp_path), [given.format(tmp_path)])


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ("in", "out"), ("in", "in2"), ("in/sub", "in/out"), ("in/*.jsonl", "in/out"),
        ("in/a.jsonl", "in/out"), ("in/a.jsonl", "in"), ("in/*.jsonl", "in"), ("in", "../in"),
        ("in/*/*.jsonl", "in/out"), ("in", "s3://b/in/out"), ("s3://in", "in/out"),
        ("s3://b/in", "s3://b/in2"), ("s3://a/in", "s3://b/in/out"), ("gs://b/in", "s3://b/in/out"),
    ],
)  # fmt: skip
def test_an_output_beside_its_inputs_is_taken(tmp_path, monkeypatch, given, output):
    put(tmp_path, "in/a.jsonl", "in/sub/b.jsonl")
    monkeypatch.chdir(tmp_path)

    refuse_overlap(output, [given])


def test_case_does_not_hide_an_overlap_where_the_disk_does_not_tell_it(tmp_path, monkeypatch):
    put(tmp_path, "in/a.jsonl")
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda p, **more: real(str(p).replace("/IN", "/in"), **more))

    with pytest.raises(SpecError, match="overlap"):
        refuse_overlap(str(tmp_path / "IN" / "out"), [str(tmp_path / "in")])
