"""The kernels' library: where it is built, who may have put it there, what is said without it."""

import pytest
import torch

from stx_core import SentenceTransformer
from stx_core.inference import kernel_library, native
from tests.core.inference.kernels import needs_compiler


@pytest.fixture
def minimal_sources(monkeypatch, tmp_path):
    """Sources that compile in a moment, in place of the kernels'."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "lanes.h").write_text("")
    (folder / "kernel.cpp").write_text('#include "lanes.h"\nextern "C" int stx() { return 0; }\n')
    monkeypatch.setattr(kernel_library, "SOURCES", folder)
    return folder


@pytest.fixture
def unbuilt(monkeypatch, tmp_path):
    """A CPU with the units, for which nothing is built."""
    native._library.cache_clear()
    monkeypatch.setattr(native, "cpu_class", lambda: "avx512-bf16")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    native._library.cache_clear()


def test_without_a_compiler_torch_s_kernels_are_used(request, monkeypatch, tiny_bert, caplog):
    options = {"device": "cpu", "model_kwargs": {"dtype": torch.bfloat16}}
    texts = ["a b c", "d", "e f a b c d e f a"]
    expected = SentenceTransformer(tiny_bert, **options).encode(texts)
    request.getfixturevalue("unbuilt")
    monkeypatch.setenv("CXX", "no-such-compiler")

    embeddings = SentenceTransformer(tiny_bert, **options).encode(texts)

    assert native._library() is None
    assert "cannot be built (no C++ compiler" in caplog.text
    torch.testing.assert_close(embeddings, expected, atol=0.1, rtol=0.1)


def test_a_cache_that_others_can_write_to_is_not_used(monkeypatch, tmp_path):
    folder = tmp_path / "stx" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with pytest.raises(PermissionError, match="others could write"):
        kernel_library.built()


def test_a_cache_below_a_folder_that_others_may_write_to_is_not_used(monkeypatch, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
    assert kernel_library._cache_folder() == shared / "cache/stx/native"

    shared.chmod(0o777)
    with pytest.raises(PermissionError, match=rf"they may write to {shared}"):
        kernel_library._cache_folder()

    # As /tmp is: what is there cannot be replaced by others.
    shared.chmod(0o1777)
    assert kernel_library._cache_folder() == shared / "cache/stx/native"


def test_a_link_to_a_cache_is_checked_where_it_leads(monkeypatch, tmp_path):
    open_to_all = tmp_path / "open"
    (open_to_all / "cache").mkdir(parents=True)
    open_to_all.chmod(0o777)
    (tmp_path / "link").symlink_to(open_to_all / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))

    with pytest.raises(PermissionError, match="others could replace it"):
        kernel_library._cache_folder()


@needs_compiler
def test_kernels_that_were_built_beside_their_sources_need_no_compiler(
    minimal_sources, monkeypatch, tmp_path
):
    built = kernel_library.build(minimal_sources)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))

    assert kernel_library.built() == built
    (minimal_sources / "lanes.h").write_text("// changed")
    with pytest.raises(FileNotFoundError, match="compiler"):
        kernel_library.built()


@needs_compiler
def test_messages_of_the_compiler_are_logged(minimal_sources, unbuilt, caplog):
    (minimal_sources / "lanes.h").write_text("#error no such thing")

    assert native._library() is None
    assert "#error no such thing" in caplog.text
