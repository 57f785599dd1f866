"""Linear layers that wait for what follows them: fused where it does, right where it does not."""

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from stx_core.inference import linear as fast
from stx_core.inference import native
from stx_core.inference.linear import OrderedWeights, fast_linear
from stx_core.models import batch_model
from tests.core.models.small import assert_close, model_of, result

CPU = torch.device("cpu")


@pytest.fixture
def calls(monkeypatch):
    """Kernels of AVX-512 BF16, played by torch; counts what runs."""
    seen = []

    def linear(x, ordered, outputs, bias, *, gelu):
        seen.append("gelu" if gelu else "linear")
        output = torch.nn.functional.linear(x, ordered, bias)
        return torch.nn.functional.gelu(output) if gelu else output

    def add_norm(one, other, weight, bias, epsilon):
        seen.append("norm")
        total = one + other
        return total, layer_norm(total, weight.shape, weight, bias, epsilon)

    monkeypatch.setattr(fast, "cpu_class", lambda: "avx512-bf16")
    for name, function in {
        "has_linear": lambda weight: weight.dtype == torch.bfloat16,
        "order_weight": torch.clone,
        "linear": linear,
        "add_norm": add_norm,
        "linear_max": lambda *_: pytest.fail("not for dense models"),
        "_library": lambda: True,
        "has_attention": lambda *_: False,
    }.items():
        monkeypatch.setattr(native, name, function)
    monkeypatch.setattr(batch_model, "WORTH_ORDERING", 1)
    return seen


def test_each_layer_is_computed_once_and_fused(calls):
    expected = result(model_of("dense"))
    model = model_of("dense").to(torch.bfloat16)
    assert model.why_padded() is None
    calls.clear()

    found = result(model)

    # Of each of two layers: query, key, value and two outputs; GELU; two sums. The pooler, the
    # head, and the sum of embeddings.
    assert sorted(calls) == ["gelu"] * 2 + ["linear"] * (2 * 5 + 2) + ["norm"] * (2 * 2 + 1)
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)


def test_in_float32_each_layer_is_computed_once(monkeypatch):
    fused = []
    inner = fast._ordered_linear
    monkeypatch.setattr(
        fast,
        "_ordered_linear",
        lambda *a, **options: fused.append(options.get("fused", False)) or inner(*a, **options),
    )
    monkeypatch.setattr(batch_model, "WORTH_ORDERING", 1)
    model = model_of("dense")
    expected = torch.cat([result(model, [text]) for text in ("a b c", "d")])
    fused.clear()

    assert_close(result(model, ["a b c", "d"]), expected)
    assert (fused.count(True), fused.count(False)) == (2, 12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "use",
    [
        lambda output, x: gelu(output) + output,
        lambda output, x: [gelu(output), output.sum()][1],
        lambda output, x: gelu(output.clone()),
        lambda output, x: gelu(output, approximate="tanh"),
        lambda output, x: torch.from_numpy(output.float().numpy() + 1),
        lambda output, x: gelu(output.mul_(2)) + x,
        lambda output, x: (output + x) * 2,
        lambda output, x: layer_norm(output + x, (32,), torch.ones(32, dtype=x.dtype)),
        lambda output, x: output,
        lambda output, x: torch.stack([gelu(output), gelu(output)]),
        lambda output, x: output.view(-1).tolist() and gelu(output),
    ],
)  # fmt: skip
def test_deferred_outputs_are_computed_before_anything_reads_them(use, dtype, calls):
    torch.manual_seed(0)
    layer = torch.nn.Linear(32, 32).to(dtype)
    x = torch.randn(3, 32).to(dtype)
    with torch.inference_mode():
        expected = use(layer(x), x)
        with fast_linear(dtype, CPU, OrderedWeights()):
            found = use(layer(x), x)

    close = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(found, expected, atol=close, rtol=close)


def test_outputs_kept_beside_their_gelu_are_computed(calls):
    layer = torch.nn.Linear(32, 32)
    x = torch.randn(3, 32)
    with torch.inference_mode():
        with fast_linear(torch.float32, CPU, OrderedWeights()):
            kept = layer(x)
            activated = gelu(kept)
        expected = layer(x)

    torch.testing.assert_close(kept, expected)
    torch.testing.assert_close(activated, gelu(expected), atol=1e-5, rtol=1e-5)


def test_transforms_and_gradients_run_on_torch_s_layers():
    layer = torch.nn.Linear(32, 32)
    x = torch.randn(3, 32)
    with fast_linear(torch.float32, CPU, OrderedWeights()):
        layer(x).sum().backward()
        with torch.inference_mode():
            mapped = torch.vmap(layer)(x)

    assert layer.weight.grad is not None
    torch.testing.assert_close(mapped, layer(x))
