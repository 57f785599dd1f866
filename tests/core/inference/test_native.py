"""The compiled kernels, against the definitions in float64.

Each test runs on the kernels that the CPU has the units for, and on the same sources without them.
"""

import ctypes
import resource
from pathlib import Path

import pytest
import torch

from stx_core.inference import kernel_library, native
from stx_core.inference import linear as layers
from stx_core.inference.linear import OrderedWeights, fast_linear, max_outputs
from tests.core.inference.kernels import PORTABLE_FLAGS, needs_bfloat16_units, needs_compiler


@pytest.fixture(scope="module")
def portable(tmp_path_factory):
    return native.load(kernel_library.build(tmp_path_factory.mktemp("portable"), PORTABLE_FLAGS))


@pytest.fixture(
    params=[
        pytest.param("avx512-bf16", marks=[needs_bfloat16_units, needs_compiler]),
        pytest.param("portable", marks=needs_compiler),
    ]
)
def kernels(request, monkeypatch):
    """Kernels of one build in place of this machine's; says which."""
    if request.param == "portable":
        library = request.getfixturevalue("portable")
        monkeypatch.setattr(native, "_library", lambda: library)
    for module in (native, layers):
        monkeypatch.setattr(module, "cpu_class", lambda: "avx512-bf16")
    return request.param


pytestmark = pytest.mark.usefixtures("kernels")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (5, 0), (4, 4), (40, 40)])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("width", native.HEAD_SIZES)
def test_attention_kernel_computes_attention(width, heads, key_heads, window, bias):
    lengths = [1, 2, 5, 6, 7, 0, 15, 16, 17, 31, 32, 33, 64, 65, 130]
    torch.manual_seed(width)
    total = sum(lengths)
    query = torch.randn(total, heads, width).bfloat16()
    # Views into a larger tensor, as fused projections give them.
    key, value = torch.randn(total, 2, key_heads, width).bfloat16().unbind(1)
    more = torch.randn(heads, 130, 130) if bias else None
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    assert native.has_attention(query, value)

    output = native.attend(query, key, value, offsets, 0.2, window, more)

    for start, length in zip(offsets[:-1].tolist(), lengths, strict=True):
        part = slice(start, start + length)
        expected = _attention(query[part], key[part], value[part], 0.2, window, more)
        torch.testing.assert_close(output[part].float(), expected, atol=0.03, rtol=0.02)


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


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 5, 6, 193, 4000])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 32), (64, 100), (96, 384), (2048, 70)])
def test_linear_kernel_computes_a_linear_layer(inputs, outputs, rows, gelu, kernels):
    rows = min(rows, 1000) if kernels == "portable" else rows  # 4000 take it 10 s together
    torch.manual_seed(rows)
    x = torch.randn(rows, inputs).bfloat16()
    weight = torch.randn(outputs, inputs).bfloat16() * (2 * inputs**-0.5)
    bias = torch.randn(outputs).bfloat16()
    ordered = native.order_weight(weight)

    output = native.linear(x, ordered, outputs, bias, gelu=gelu)
    without = native.linear(x, ordered, outputs, None, gelu=gelu)

    activation = torch.nn.functional.gelu if gelu else torch.nn.Identity()
    product = x.double() @ weight.double().T
    # What bfloat16 rounds away, and GELU's own 1.5e-3, or 3e-6 far below zero.
    close = {"rtol": 2**-8 + (1.5e-3 if gelu else 0), "atol": 4e-6}
    torch.testing.assert_close(output.double(), activation(product + bias.double()), **close)
    torch.testing.assert_close(without.double(), activation(product), **close)
    for row in range(0, rows, 97):  # the same bits, whatever is beside it
        alone = native.linear(x[row : row + 1], ordered, outputs, bias, gelu=gelu)
        assert torch.equal(alone[0], output[row])


@pytest.mark.parametrize(("inputs", "outputs"), [(32, 70), (768, 3000)])
def test_segment_max_kernel_computes_the_maximum_over_rows(inputs, outputs):
    torch.manual_seed(inputs)
    lengths = [1, 0, 5, 6, 7, 13, 200, 2]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    x = torch.randn(sum(lengths), inputs).bfloat16()
    weight = torch.randn(outputs, inputs).bfloat16() * inputs**-0.5
    bias = torch.randn(outputs).bfloat16()

    output = max_outputs(x, weight, bias, torch.tensor(lengths))

    product = x.double() @ weight.double().T + bias.double()
    for row, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        expected = product[start:end].amax(0) if end > start else torch.tensor(float("-inf"))
        expected = expected.double().expand(outputs)
        torch.testing.assert_close(output[row].double(), expected, atol=4e-6, rtol=2**-8)


def test_segment_max_propagates_nan():
    x = torch.ones(9, 32).bfloat16()
    x[3, 0] = float("nan")

    output = max_outputs(x, torch.ones(64, 32).bfloat16(), None, torch.tensor([7, 2]))

    assert output[0].isnan().all()
    assert torch.equal(output[1], torch.full((64,), 32.0).bfloat16())


def test_gelu_far_from_zero_is_zero_or_its_input():
    x = torch.tensor([[-1e4, 0], [-20, 0], [-6, 0], [6, 0], [20, 0], [1e4, 0]]).bfloat16()
    weight = torch.zeros(32, 2).bfloat16()
    weight[:, 0] = 1

    output = native.linear(x, native.order_weight(weight), 32, None, gelu=True)[:, 0]

    assert torch.equal(output[3:], x[3:, 0])
    assert output[:3].abs().max() < 1e-7


@needs_bfloat16_units  # oneDNN's layers in bfloat16, too
def test_layers_that_the_kernel_does_not_fit_are_computed_all_the_same():
    torch.manual_seed(0)
    modules = [torch.nn.Linear(*shape).bfloat16() for shape in [(33, 64), (64, 1), (64, 64)]]
    inputs = [torch.randn(2, 7, layer.in_features).bfloat16() for layer in modules]
    expected = [layer(x).float() for layer, x in zip(modules, inputs, strict=True)]

    with torch.inference_mode(), fast_linear(torch.bfloat16, torch.device("cpu"), OrderedWeights()):
        outputs = [layer(x).float() for layer, x in zip(modules, inputs, strict=True)]

    for output, torch_s in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, torch_s, atol=0.01, rtol=0.01)


@pytest.mark.parametrize("width", [16, 384, 768])
def test_add_norm_kernel_computes_a_sum_and_its_layer_norm(width):
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
def test_deferred_sums_are_computed_before_anything_reads_them(change, dtype):
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
                output = block(seen)

    for one, other in zip(output, expected, strict=True):
        torch.testing.assert_close(
            one, other, atol=0.04 if dtype == torch.bfloat16 else 1e-5, rtol=0.01
        )


def test_another_struct_than_the_kernels_own_is_refused(monkeypatch):
    class Longer(native._AddNormArguments):
        _fields_ = (("more", ctypes.c_int64),)

    monkeypatch.setattr(native, "_AddNormArguments", Longer)
    library = native._library()
    monkeypatch.setattr(library.stx_add_norm, "argtypes", None)
    x = torch.ones(2, 32).bfloat16()

    with pytest.raises(AssertionError, match="stx_add_norm: .* built for other arguments"):
        native.add_norm(x, x, x[0], x[0], 1e-5)


def test_without_memory_for_the_scores_there_is_a_memory_error():
    tokens = 1 << 19  # their scores take 128 MiB
    one_token = torch.ones(1, 1, 32).bfloat16()
    many = one_token.expand(tokens, 1, 32)
    arguments = (many, many, many, torch.tensor([0, tokens]).int(), 1.0, (0, 0))
    few = torch.tensor([0, 1]).int()
    native.attend(one_token, one_token, one_token, few, 1.0, (0, 0))  # starts the threads
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20), limits[1]))
    try:
        with pytest.raises(MemoryError, match="stx_attention: no memory to work in"):
            native.attend(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)

    assert torch.equal(native.attend(*arguments)[-1], one_token[0])


@needs_bfloat16_units
def test_the_portable_build_gives_the_same_bits(kernels, portable, monkeypatch):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 70, 2, 64).bfloat16()
    offsets = torch.tensor([0, 33, 70]).int()
    x, weight = torch.randn(70, 96).bfloat16(), torch.randn(100, 96).bfloat16()

    def outputs():
        ordered = native.order_weight(weight)
        return [
            native.attend(query, key, value, offsets, 0.2, (-1, 0)),
            native.linear(x, ordered, 100, None, gelu=False),
            native.linear_max(x, ordered, 100, None, offsets.long()),
            *native.add_norm(x, x * 3, x[0], x[1], 1e-5),
        ]

    native_outputs = outputs()
    monkeypatch.setattr(native, "_library", lambda: portable)

    assert all(map(torch.equal, native_outputs, outputs()))
