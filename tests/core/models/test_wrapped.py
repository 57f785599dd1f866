"""Backbones inside of adapters, compiled modules and wrappers get their inputs."""

import peft
import pytest
import torch

from stx_core.models.modules.lengths import position_limit
from tests.core.models.small import TEXTS, assert_close, model_of, result

# What peft asks of transformers, which has another name for it.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


class PassesOn(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


class Narrow(PassesOn):
    def forward(self, input_ids, attention_mask, token_type_ids=None):
        return self.inner(input_ids, attention_mask, token_type_ids)


class GivesATuple(PassesOn):
    def forward(self, input_ids, attention_mask, token_type_ids=None, return_dict=None):
        return self.inner(input_ids, attention_mask, token_type_ids, return_dict=False)


class GivesATensor(PassesOn):
    def forward(self, input_ids, attention_mask, token_type_ids=None):
        return self.inner(input_ids, attention_mask, token_type_ids)[0]


def compiled(module):
    return torch.compile(module, backend="eager")


def compiled_in_place(module):
    module.compile(backend="eager")
    return module


def adapted(module):
    config = peft.LoraConfig(r=2, target_modules=["query", "value"])  # adds zero until trained
    return peft.get_peft_model(module, config)


WRAPPERS = [
    PassesOn,
    Narrow,
    GivesATuple,
    GivesATensor,
    torch.nn.DataParallel,
    compiled,
    compiled_in_place,
    adapted,
    lambda module: PassesOn(Narrow(module)),
    lambda module: PassesOn(adapted(module)),
    lambda module: compiled(adapted(module)),
]


@pytest.mark.parametrize(
    ("kind", "wrap"),
    [("dense", wrap) for wrap in WRAPPERS]
    + [("cross", Narrow), ("cross", adapted), ("sparse", PassesOn), ("sparse", adapted)],
)
def test_a_wrapped_backbone_gives_what_it_gives_alone(kind, wrap):
    model = model_of(kind)
    expected, limit = result(model), model.max_seq_length
    model[0].model = wrap(model[0].model)
    model.eval()

    assert_close(result(model), expected)
    assert model.max_seq_length == limit
    assert position_limit(model[0].model) == 64


@pytest.mark.parametrize("kind", ["dense", "cross"])
def test_a_compiled_model_gives_what_it_gives_otherwise(kind):
    model = model_of(kind)
    expected = result(model)
    model.compile(backend="eager")

    assert_close(result(model), expected)
    assert "compiled" in model.why_padded()


def test_an_adapter_counts_and_runs_packed():
    model = model_of("dense")
    config = peft.LoraConfig(r=2, target_modules=["query", "dense"], init_lora_weights=False)
    model[0].model = peft.get_peft_model(model[0].model, config).eval()

    assert model.why_padded() is None
    found = result(model)
    alone = torch.cat([result(model, [text]) for text in TEXTS])
    assert_close(found, alone)
    with model[0].model.disable_adapter():
        assert_close(result(model), result(model_of("dense")))
    assert (result(model) - result(model_of("dense"))).abs().max() > 0.01


def test_hooks_of_the_backbone_see_what_it_gives():
    model = model_of("dense")
    model[0].model.register_forward_hook(lambda _, __, output: output[0].zero_())

    found = result(model)

    assert_close(found, found[:1].expand_as(found))
