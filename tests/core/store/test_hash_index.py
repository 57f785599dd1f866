import os
import shutil
import threading
import time
import uuid
from pathlib import Path

import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from stx_core.errors import StoreError
from stx_core.store import hash_index
from stx_core.store.digests import blake2b
from stx_core.store.files.filesystem import write_new
from stx_core.store.files.urls import join
from stx_core.store.hash_index import (
    HASH,
    HashIndex,
    build_index,
    hash_ids,
    open_index,
    publish_index,
    published_index,
    to_hashes,
)  # fmt: skip
from stx_core.store.schema import to_parquet
from tests.forged import forged_pair


def write_files(root, files):
    """Data files of hexadecimal hashes."""
    for name, hashes in files.items():
        write_new(join(root, name), to_parquet(pa.table({"content_hash": pa.array(hashes)})))


def hexes(*texts):
    return [blake2b(str(text).encode()).hex() for text in texts]


def found(index, hashes):
    files, rows = index.find(to_hashes(pa.array(hashes, pa.string())))
    return [(index.files[f], r) if f >= 0 else None for f, r in zip(files, rows, strict=True)]


@pytest.fixture
def private_temp(tmp_path, monkeypatch):
    """A folder for temporary files of this test alone."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


# Few distinct bytes, zeros among them: hashes that share a partition, a beginning, an end.
HASHES = st.lists(st.sampled_from([0, 1, 255]), min_size=32, max_size=32).map(
    lambda values: bytes(values).hex()
)


@settings(max_examples=50, deadline=None)
@given(files=st.lists(st.lists(HASHES, max_size=6), max_size=4), asked=st.lists(HASHES, max_size=6))
def test_every_hash_is_found_where_it_is_first_and_no_other(tmp_path_factory, files, asked):
    root = str(tmp_path_factory.mktemp("root"))
    named = {f"data/{i}.parquet": hashes for i, hashes in enumerate(files)}
    write_files(root, named)

    build_index(root, list(named), join(root, "index.arrow"))

    first = {}
    for name, hashes in named.items():
        for row, each in enumerate(hashes):
            first.setdefault(each, (name, row))
    wanted = [*asked, *first]
    assert found(HashIndex(join(root, "index.arrow")), wanted) == [first.get(h) for h in wanted]


def test_a_build_in_many_small_steps_gives_the_same_file(tmp_path, monkeypatch):
    files = {f"{i}.parquet": hexes(*range(i * 5, i * 5 + 20)) for i in range(9)}
    write_files(str(tmp_path), files)
    build_index(str(tmp_path), list(files), str(tmp_path / "once.arrow"))
    monkeypatch.setattr(hash_index, "_ENTRIES_AT_ONCE", 30)
    monkeypatch.setattr(hash_index, "_FILES_AT_ONCE", 2)

    build_index(str(tmp_path), list(files), str(tmp_path / "steps.arrow"))

    assert (tmp_path / "steps.arrow").read_bytes() == (tmp_path / "once.arrow").read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} == {".arrow", ".parquet"}


def test_rows_of_a_data_file_that_is_gone_are_left_out_and_it_is_named(tmp_path, caplog):
    write_files(str(tmp_path), {"a.parquet": hexes("x")})

    build_index(str(tmp_path), ["lost.parquet", "a.parquet"], str(tmp_path / "index.arrow"))

    assert found(HashIndex(str(tmp_path / "index.arrow")), hexes("x")) == [("a.parquet", 0)]
    assert "lost.parquet: missing" in caplog.text


def test_hashes_of_an_earlier_stx_are_not_trusted(tmp_path):
    hashes = [xxhash.xxh3_128_hexdigest(b"x"), *hexes("y")]
    write_files(str(tmp_path), {"a.parquet": hashes})

    build_index(str(tmp_path), ["a.parquet"], str(tmp_path / "index.arrow"))

    assert found(HashIndex(str(tmp_path / "index.arrow")), hexes("x", "y")) == [
        None,
        ("a.parquet", 1),
    ]


def test_ids_with_the_same_xxh3_are_different_ids():
    one, other = hash_ids(pa.array(forged_pair()))

    assert one != other


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", None])
def test_a_damaged_index_is_not_found_again_and_not_opened(tmp_path, damage):
    write_files(str(tmp_path), {"a.parquet": hexes("x")})
    build_index(str(tmp_path), ["a.parquet"], str(tmp_path / "index.arrow"))
    url = publish_index(str(tmp_path / "index.arrow"), str(tmp_path / "published"))
    data = Path(url).read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    Path(url).write_bytes(damage(data) if damage else flipped)

    with pytest.raises(StoreError, match="damaged index"):
        open_index(url)
    assert published_index(str(tmp_path / "published"), ["a.parquet"]) is None


def test_an_index_is_published_once_and_found_by_its_data_files(root, tmp_path, private_temp):
    write_files(root, {"a.parquet": hexes("x", "y"), "b.parquet": hexes("z")})
    build_index(root, ["a.parquet", "b.parquet"], str(tmp_path / "index.arrow"))
    folder = join(root, "index")

    url = publish_index(str(tmp_path / "index.arrow"), folder)

    assert publish_index(str(tmp_path / "index.arrow"), folder) == url
    assert published_index(folder, ["a.parquet", "b.parquet"]) == url
    assert published_index(folder, ["a.parquet"]) is None
    assert found(open_index(url), hexes("z", "?", "y")) == [
        ("b.parquet", 0),
        None,
        ("a.parquet", 1),
    ]


def published(tmp_path, text="x"):
    """The URL of an index in a remote store."""
    root = f"memory://{uuid.uuid4().hex}"
    write_files(root, {"a.parquet": hexes(text)})
    build_index(root, ["a.parquet"], str(tmp_path / "index.arrow"))
    return publish_index(str(tmp_path / "index.arrow"), join(root, "index"))


def test_a_remote_index_is_fetched_once_to_a_private_folder(tmp_path, private_temp, monkeypatch):
    url = published(tmp_path)
    first = open_index(url)
    open_index.cache_clear()
    monkeypatch.setattr(hash_index, "download", lambda *_: pytest.fail("fetched again"))

    second = open_index(url)

    assert found(first, hexes("x")) == found(second, hexes("x")) == [("a.parquet", 0)]
    (folder,) = private_temp.iterdir()
    assert os.stat(folder).st_mode & 0o777 == 0o700


def test_many_readers_fetch_an_index_at_once(tmp_path, private_temp, monkeypatch):
    url = published(tmp_path)
    # Threads of one process may not share the files of fsspec's memory store.
    local = tmp_path / "index.arrow"
    monkeypatch.setattr(hash_index, "download", lambda _, path: shutil.copyfile(local, path))
    together = threading.Barrier(8)
    results = []

    def fetch():
        together.wait()
        results.append(hash_index._fetched(url))

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 8
    (path,) = set(results)
    assert found(HashIndex(path), hexes("x")) == [("a.parquet", 0)]
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


def test_a_damaged_copy_is_refused(tmp_path, private_temp, monkeypatch):
    url = published(tmp_path)
    download = hash_index.download

    def damaged(source, path):
        download(source, path)
        with open(path, "r+b") as file:
            file.seek(0)
            file.write(b"WRONG1")

    monkeypatch.setattr(hash_index, "download", damaged)

    with pytest.raises(StoreError, match="its bytes do not match its name; run again"):
        open_index(url)


def test_a_folder_that_others_can_write_to_is_refused(tmp_path, private_temp):
    url = published(tmp_path)
    folder = private_temp / f"stx-index-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)

    with pytest.raises(StoreError, match="open to them; remove it"):
        open_index(url)


def test_copies_that_nobody_used_for_a_day_are_removed(tmp_path, private_temp):
    old = hash_index._fetched(published(tmp_path))
    recent = hash_index._fetched(published(tmp_path, "y"))
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))

    hash_index._fetched(published(tmp_path, "z"))

    assert os.path.exists(recent)
    assert not os.path.exists(old)


def test_hashes_of_no_rows_are_no_hashes():
    assert to_hashes(pa.array([], pa.string())).dtype == HASH
    assert len(to_hashes(pa.array([], pa.string()))) == 0
