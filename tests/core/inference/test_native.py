"""The compiled kernels, against the definitions in float64."""

import shutil

import pytest
import torch

from stx_core import SentenceTransformer
from stx_core.inference import native
from stx_core.inference.linear import OrderedWeights, fast_linear, highest_outputs
from stx_core.inference.machine import cpu_class

needs_kernels = pytest.mark.skipif(
    cpu_class() == "other" or shutil.which("c++") is None,
    reason="needs AVX-512 BF16 and a compiler",
)


@needs_kernels
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (5, 0), (4, 4), (40, 40)])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("width", native.HEAD_SIZES)
def test_the_kernel_is_attention(width, heads, key_heads, window, bias):
    lengths = [1, 2, 5, 6, 7, 0, 15, 16, 17, 31, 32, 33, 64, 65, 130]
    torch.manual_seed(width)
    total = sum(lengths)
    query = torch.randn(total, heads, width).bfloat16()
    # Views into a larger tensor, as fused projections give them.
    key, value = torch.randn(total, 2, key_heads, width).bfloat16().unbind(1)
    more = torch.randn(heads, 130, 130) if bias else None
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    assert native.has_attention(query, value)

    found = native.attend(query, key, value, offsets, 0.2, window, more)

    for start, length in zip(offsets[:-1].tolist(), lengths, strict=True):
        part = slice(start, start + length)
        expected = _attention(query[part], key[part], value[part], 0.2, window, more)
        torch.testing.assert_close(found[part].float(), expected, atol=0.03, rtol=0.02)


def _attention(query, key, value, scale, window, bias):
    """From the definition, in float64."""
    length, heads, _ = query.shape
    q, k, v = (tensor.double().transpose(0, 1) for tensor in (query, key, value))
    k, v = (tensor.repeat_interleave(heads // key.shape[1], 0) for tensor in (k, v))
    scores = scale * q @ k.transpose(1, 2)
    if bias is not None:
        scores = scores + bias[:, :length, :length]
    ahead = torch.arange(length) - torch.arange(length)[:, None]
    before, after = (length if side < 0 else side for side in window)
    scores = scores.masked_fill((ahead > after) | (ahead < -before), float("-inf"))
    return (scores.softmax(-1) @ v).transpose(0, 1).float()


@needs_kernels
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 5, 6, 193, 4000])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 32), (64, 100), (96, 384), (2048, 70)])
def test_the_kernel_is_a_linear_layer(inputs, outputs, rows, gelu):
    torch.manual_seed(rows)
    x = torch.randn(rows, inputs).bfloat16()
    weight = torch.randn(outputs, inputs).bfloat16() * (2 * inputs**-0.5)
    bias = torch.randn(outputs).bfloat16()
    ordered = native.order_weight(weight)

    found = native.linear(x, ordered, outputs, bias, gelu=gelu)
    without = native.linear(x, ordered, outputs, None, gelu=gelu)

    activation = torch.nn.functional.gelu if gelu else torch.nn.Identity()
    product = x.double() @ weight.double().T
    # What bfloat16 rounds away, and GELU's own 1.5e-3, or 3e-6 far below zero.
    close = {"rtol": 2**-8 + (1.5e-3 if gelu else 0), "atol": 4e-6}
    torch.testing.assert_close(found.double(), activation(product + bias.double()), **close)
    torch.testing.assert_close(without.double(), activation(product), **close)
    for row in range(0, rows, 97):  # the same bits, whatever is beside it
        alone = native.linear(x[row : row + 1], ordered, outputs, bias, gelu=gelu)
        assert torch.equal(alone[0], found[row])


@needs_kernels
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 70), (768, 3000)])
def test_the_kernel_is_the_highest_output_of_rows(inputs, outputs):
    torch.manual_seed(inputs)
    lengths = [1, 0, 5, 6, 7, 13, 200, 2]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    x = torch.randn(sum(lengths), inputs).bfloat16()
    weight = torch.randn(outputs, inputs).bfloat16() * inputs**-0.5
    bias = torch.randn(outputs).bfloat16()

    found = highest_outputs(x, weight, bias, torch.tensor(lengths))

    product = x.double() @ weight.double().T + bias.double()
    for row, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        expected = product[start:end].amax(0) if end > start else torch.tensor(float("-inf"))
        expected = expected.double().expand(outputs)
        torch.testing.assert_close(found[row].double(), expected, atol=4e-6, rtol=2**-8)


@needs_kernels
def test_the_highest_of_what_is_not_a_number_is_not_a_number():
    x = torch.ones(9, 32).bfloat16()
    x[3, 0] = float("nan")

    found = highest_outputs(x, torch.ones(64, 32).bfloat16(), None, torch.tensor([7, 2]))

    assert found[0].isnan().all()
    assert torch.equal(found[1], torch.full((64,), 32.0).bfloat16())


@needs_kernels
def test_gelu_far_from_zero_is_zero_or_the_number():
    x = torch.tensor([[-1e4, 0], [-20, 0], [-6, 0], [6, 0], [20, 0], [1e4, 0]]).bfloat16()
    weight = torch.zeros(32, 2).bfloat16()
    weight[:, 0] = 1

    found = native.linear(x, native.order_weight(weight), 32, None, gelu=True)[:, 0]

    assert torch.equal(found[3:], x[3:, 0])
    assert found[:3].abs().max() < 1e-7


@needs_kernels
def test_layers_that_the_kernel_does_not_fit_are_computed_all_the_same():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(*shape).bfloat16() for shape in [(33, 64), (64, 1), (64, 64)]]
    inputs = [torch.randn(2, 7, layer.in_features).bfloat16() for layer in layers]
    expected = [layer(x).float() for layer, x in zip(layers, inputs, strict=True)]

    with torch.inference_mode(), fast_linear(torch.bfloat16, torch.device("cpu"), OrderedWeights()):
        found = [layer(x).float() for layer, x in zip(layers, inputs, strict=True)]

    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=0.01, rtol=0.01)


@needs_kernels
@pytest.mark.parametrize("width", [16, 384, 768])
def test_the_kernel_is_a_sum_and_its_layer_norm(width):
    torch.manual_seed(width)
    one, other = torch.randn(2, 1, 50, width).mul(3).bfloat16()
    weight, bias = torch.randn(2, width).bfloat16()
    assert native.has_add_norm(one, other, weight, bias)

    total, norm = native.add_norm(one, other, weight, bias, 1e-3)

    assert torch.equal(total, one + other)
    expected = _layer_norm(total.double(), weight.double(), bias.double(), 1e-3)
    torch.testing.assert_close(norm.double(), expected, atol=1e-5, rtol=2**-8)


def _layer_norm(x, weight, bias, epsilon):
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, epsilon)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("change", ["nothing", "in place", "other norm", "a number", "a row"])
def test_a_sum_is_what_it_was_whatever_is_done_with_it(change, dtype):
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64).to(dtype)
    norm, second = (torch.nn.LayerNorm(64).to(dtype) for _ in range(2))
    torch.nn.init.normal_(second.weight)
    x = torch.randn(1, 9, 64).to(dtype)

    def block(changed):
        other = {"a number": 2.0, "a row": x[0, 0]}.get(changed, x)
        total = layer(x) + other
        if changed == "in place":
            total *= x
        normalised = (second if changed == "other norm" else norm)(total)
        return normalised, total + normalised

    with torch.inference_mode():
        expected = block(change)
        weights = OrderedWeights()
        with fast_linear(dtype, torch.device("cpu"), weights):
            for seen in ("nothing", "nothing", change, change):
                found = block(seen)

    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            one, other, atol=0.04 if dtype == torch.bfloat16 else 1e-5, rtol=0.01
        )


@needs_kernels
def test_without_a_compiler_torch_s_kernels_are_used(monkeypatch, tmp_path, tiny_bert, caplog):
    options = {"device": "cpu", "model_kwargs": {"dtype": torch.bfloat16}}
    texts = ["a b c", "d", "e f a b c d e f a"]
    expected = SentenceTransformer(tiny_bert, **options).encode(texts)
    native._library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    try:
        found = SentenceTransformer(tiny_bert, **options).encode(texts)
        assert native._library() is None
    finally:
        native._library.cache_clear()

    assert "cannot be built (no C++ compiler" in caplog.text
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.1)


@needs_kernels
def test_a_cache_that_others_can_write_to_is_not_used(monkeypatch, tmp_path):
    folder = tmp_path / "stx" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with pytest.raises(PermissionError, match="others could write"):
        native._built()


def test_a_cache_below_a_folder_that_others_may_write_to_is_not_used(monkeypatch, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
    assert native._cache_folder() == shared / "cache/stx/native"

    shared.chmod(0o777)
    with pytest.raises(PermissionError, match=rf"they may write to {shared}"):
        native._cache_folder()

    # As /tmp is: what is there cannot be replaced by others.
    shared.chmod(0o1777)
    assert native._cache_folder() == shared / "cache/stx/native"


def test_a_link_to_a_cache_is_checked_where_it_leads(monkeypatch, tmp_path):
    open_to_all = tmp_path / "open"
    (open_to_all / "cache").mkdir(parents=True)
    open_to_all.chmod(0o777)
    (tmp_path / "link").symlink_to(open_to_all / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))

    with pytest.raises(PermissionError, match="others could replace it"):
        native._cache_folder()


@needs_kernels
def test_kernels_that_were_built_beside_their_sources_need_no_compiler(monkeypatch, tmp_path):
    sources = shutil.copytree(native._SOURCES, tmp_path / "kernels")
    monkeypatch.setattr(native, "_SOURCES", sources)
    built = native.build(sources)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))

    assert native._built() == built
    (sources / "lanes.h").write_text("// changed")
    with pytest.raises(FileNotFoundError, match="compiler"):
        native._built()


@needs_kernels
def test_what_the_compiler_says_is_told(monkeypatch, tmp_path, caplog):
    sources = shutil.copytree(native._SOURCES, tmp_path / "kernels")
    (sources / "lanes.h").write_text("#error no such thing")
    monkeypatch.setattr(native, "_SOURCES", sources)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native._library.cache_clear()
    try:
        assert native._library() is None
    finally:
        native._library.cache_clear()

    assert "#error no such thing" in caplog.text
