"""What a full disk and a crash of the machine leave."""

import errno
import os

import pytest

from stx_core.errors import StoreError
from stx_core.store.files import local_disk
from stx_core.store.files.create import create
from stx_core.store.files.local_disk import link_new, own_folder, scratch_space


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_named_while_the_log_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    url = str(tmp_path / "_stx/log/1.json")

    with pytest.raises(StoreError, match="no space left on the disk") as error:
        create(url, {"n": 1})

    assert url in str(error.value)
    assert "hard links" not in str(error.value)


def test_a_full_folder_for_temporary_files_is_named(tmp_path):
    message = f"{tmp_path}: no space left .*TMPDIR"

    with pytest.raises(StoreError, match=message), scratch_space(str(tmp_path)):
        full()


def test_a_system_without_room_for_temporary_files_is_named(monkeypatch):
    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/x']")

    monkeypatch.setattr("tempfile.gettempdir", none)

    with pytest.raises(StoreError, match=r"No usable temporary .*TMPDIR"), scratch_space():
        pass


def test_a_full_disk_elsewhere_is_not_blamed_on_temporary_files(tmp_path):
    with pytest.raises(OSError, match="elsewhere") as error, scratch_space(str(tmp_path)):
        raise OSError(errno.ENOSPC, "full", "/elsewhere/file")

    assert not isinstance(error.value, StoreError)


def test_each_new_folder_is_synced_into_its_parent(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(local_disk, "_sync_folder", synced.append)

    link_new(str(tmp_path / "a/b/c.json"), b"{}")
    link_new(str(tmp_path / "a/b/d.json"), b"{}")

    assert synced == [str(tmp_path), str(tmp_path / "a"), *[str(tmp_path / "a/b")] * 2]


def test_a_private_folder_of_another_owner_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = own_folder("mine")
    assert os.stat(folder).st_mode & 0o777 == 0o700

    os.chmod(folder, 0o755)
    with pytest.raises(StoreError, match="open to them"):
        own_folder("mine")
