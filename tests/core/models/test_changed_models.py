"""A model that was used and then changed gives what a new model gives with the same changes."""

import random

import numpy as np
import peft
import pytest
import torch
from torch.nn.utils import parametrize, prune

from stx_core.models import batch_model
from stx_core.models.modules.normalize import Normalize
from stx_core.models.modules.pooling import Pooling
from tests.core.models.small import WIDTH, assert_close, model_of, result

# What peft asks of transformers, which has another name for it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, .*:UserWarning"),
]


@pytest.fixture(autouse=True)
def ordered_weights(monkeypatch):
    """Kernels that copy weights run for few tokens, too."""
    monkeypatch.setattr(batch_model, "WORTH_ORDERING", 1)


def layer_of(model, number=0):
    return model[0].backbone.base_model.encoder.layer[number]


def by_copy(model):
    weight = layer_of(model).output.dense.weight
    weight.data.copy_(weight.data.flip(0))


def by_multiplying(model):
    with torch.no_grad():
        layer_of(model).intermediate.dense.weight.mul_(-1.5)


def by_numpy(model):
    layer_of(model, -1).intermediate.dense.weight.detach().numpy()[:] *= 0.5


def by_loading(model):
    model.load_state_dict({name: value * 0.9 for name, value in model.state_dict().items()})


def by_half_and_back(model):
    model.to(torch.bfloat16)
    model.float()


def another_norm(model):
    layer_of(model).output.LayerNorm.weight.data[::2] = 2.0


def another_layer(model):
    torch.manual_seed(5)
    layer_of(model, -1).intermediate.dense = torch.nn.Linear(WIDTH, 64)


def one_layer_less(model):
    model[0].backbone.base_model.encoder.layer = model[0].backbone.base_model.encoder.layer[:1]


def a_hook_behind_a_layer(model):
    layer_of(model).intermediate.dense.register_forward_hook(lambda _, __, out: out * 1.5)


def a_hook_before_a_layer(model):
    layer_of(model, -1).output.register_forward_pre_hook(
        lambda _, inputs: (inputs[0] + 1, inputs[1])
    )


def pruned(model):
    prune.l1_unstructured(layer_of(model).output.dense, "weight", 0.4)


class _Doubled(torch.nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrized(model):
    if not parametrize.is_parametrized(layer_of(model, -1).output.dense):
        parametrize.register_parametrization(layer_of(model, -1).output.dense, "weight", _Doubled())


def quantised(model):
    linear = {torch.nn.Linear}
    torch.ao.quantization.quantize_dynamic(model[0], linear, inplace=True)


def other_padding(model):
    sides = {"right": "left", "left": "right"}
    model.tokenizer.padding_side = sides[model.tokenizer.padding_side]


def other_truncation(model):
    model.tokenizer.truncation_side = "left"
    model.max_seq_length = 7


def more_tokens(model):
    model.tokenizer.add_tokens(["abc"])


def other_pooling(model):
    model[1].pooling_mode = "lasttoken" if model[1].pooling_mode != "lasttoken" else ["max", "mean"]
    model[2].linear = torch.nn.Linear(model[1].get_embedding_dimension(), 16, bias=False)
    torch.nn.init.constant_(model[2].linear.weight, 0.5)


def another_pooling(model):
    model[1] = Pooling(model[1].embedding_dimension, model[1].pooling_mode)


class _ReadsPadding(torch.nn.Module):
    def forward(self, features):
        features["token_embeddings"] = features["token_embeddings"] * 2
        features["attention_mask"] = features["attention_mask"] * 1
        return features


def a_module_that_reads_padding(model):
    model.insert(1, _ReadsPadding())


def one_more_module(model):
    model.append(Normalize())


def other_settings(model):
    model[0].do_lower_case = True
    model.truncate_dim = 5
    model.prompts = {"p": "e e "}
    model.default_prompt_name = "p"
    model[1].include_prompt = False


def eager_attention(model):
    model[0].backbone.set_attn_implementation("eager")


def adapted(model):
    config = peft.LoraConfig(r=2, target_modules=["query", "dense"], init_lora_weights=False)
    torch.manual_seed(6)
    model[0].model = peft.get_peft_model(model[0].model, config).eval()


def merged(model):
    adapter = model[0].model
    if isinstance(adapter, peft.PeftModel):
        adapter.unmerge_adapter() if adapter.get_model_status().merged_adapters else (
            adapter.merge_adapter()
        )


def without_adapter(model):
    if isinstance(model[0].model, peft.PeftModel):
        model[0].model.base_model.disable_adapter_layers()


ANY_TIME = [
    by_copy, by_multiplying, by_numpy, by_loading, by_half_and_back, another_norm, eager_attention,
    other_padding, other_truncation, more_tokens, other_pooling, another_pooling, other_settings,
    a_hook_behind_a_layer, a_hook_before_a_layer, one_more_module, merged, without_adapter,
]  # fmt: skip
TEXTS = ["a b c", "D e f g h i j abc a b c d e f g h", "k", "a b c d", "A B"] * 2


def assert_like_new(changes):
    used, new = model_of("dense"), model_of("dense")
    result(used, TEXTS)
    for change in changes:
        change(used)
        change(new)
        found = result(used, TEXTS)
    assert_close(found, result(new, TEXTS))
    assert (used.why_padded() is None) == (new.why_padded() is None)
    return found


@pytest.mark.parametrize(
    "change",
    [*ANY_TIME[:-2], another_layer, one_layer_less, pruned, parametrized, quantised, adapted,
     a_module_that_reads_padding],
)  # fmt: skip
def test_a_change_after_a_run_takes_effect(change):
    assert_like_new([change])


@pytest.mark.parametrize("first", [adapted, parametrized, pruned])
def test_a_second_change_of_the_same_layer_takes_effect(first):
    assert_like_new([first, by_numpy, merged, by_copy, merged, without_adapter])


@pytest.mark.parametrize("seed", range(12))
def test_sequences_of_changes_take_effect(seed):
    chosen = random.Random(seed)
    changes = chosen.choices(ANY_TIME, k=5)
    at = chosen.randrange(5)
    changes[at:at] = [chosen.choice([adapted, another_layer, one_layer_less])]

    assert_like_new(changes)


@pytest.mark.parametrize("kind", ["sparse", "cross"])
@pytest.mark.parametrize("change", [by_copy, by_numpy, other_padding, quantised, adapted, pruned])
def test_changes_of_sparse_and_cross_encoders_take_effect(kind, change):
    used, new = model_of(kind), model_of(kind)
    result(used, TEXTS)
    change(used)
    change(new)

    assert_close(result(used, TEXTS), result(new, TEXTS))


def test_a_hook_sees_what_a_layer_gives():
    model = model_of("dense")
    result(model)
    seen = []
    layer_of(model).intermediate.dense.register_forward_hook(lambda *given: seen.append(given[2]))
    result(model, ["a b", "c"])

    (output,) = seen
    assert output.shape == (2, 4, 64)
    assert output.min() < -0.5  # GELU gives nothing below -0.17


def test_global_hooks_see_what_a_layer_gives():
    model = model_of("dense")
    result(model)
    seen = []
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, output: seen.append(output) if type(module) is torch.nn.Linear else None
    )
    with hook:
        result(model, ["a b", "c"])

    assert min(output.min() for output in seen) < -0.5


def test_short_trials_do_not_decide_for_long_texts():
    model = model_of("dense")
    model.max_seq_length = 2
    model.tokenizer.padding_side = "left"
    result(model)
    model.max_seq_length = 60

    assert "results differ" in model.why_padded()


def test_all_zero_weights_do_not_decide_on_packing():
    model, other = model_of("dense"), model_of("dense")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.data.zero_()
    result(model)
    model.load_state_dict(state)

    assert model.why_padded() is None
    np.testing.assert_allclose(result(model), result(other), atol=1e-5)
