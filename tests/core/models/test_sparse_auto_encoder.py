import pytest
import torch
from safetensors.torch import load_file, save_file

from stx_core.errors import ModelError
from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.sparse_auto_encoder import SparseAutoEncoder


@pytest.fixture
def module() -> SparseAutoEncoder:
    torch.manual_seed(0)
    module = SparseAutoEncoder(4, hidden_dim=12, k=3)
    with torch.no_grad():
        module.pre_bias.normal_()
        module.latent_bias.normal_()
    return module


def encode(module: SparseAutoEncoder, x: torch.Tensor, **features: int) -> torch.Tensor:
    return module({"sentence_embedding": x, **features})["sentence_embedding"]


def by_hand(module: SparseAutoEncoder, x: torch.Tensor, k: int) -> torch.Tensor:
    latents = (x - module.pre_bias) @ module.encoder.weight.T + module.latent_bias
    smallest_kept = latents.sort(descending=True).values[:, k - 1 : k]
    return torch.where(latents >= smallest_kept, latents, 0).clamp(min=0)


def test_the_k_highest_latents_stay_and_negative_ones_become_zero(module):
    x = torch.randn(6, 4)

    torch.testing.assert_close(encode(module, x), by_hand(module, x, 3))


def test_the_active_dimensions_of_a_call_go_before_those_of_the_model(module):
    x = torch.randn(6, 4)

    torch.testing.assert_close(encode(module, x, max_active_dims=5), by_hand(module, x, 5))
    torch.testing.assert_close(encode(module, x, max_active_dims=99), by_hand(module, x, 12))


def test_normalising_uses_the_unbiased_deviation_with_epsilon_outside(module):
    module.normalize = True
    x = torch.randn(6, 4) * 1e-4

    centred = x - x.mean(1, keepdim=True)
    deviation = (centred.square().sum(1, keepdim=True) / 3).sqrt()

    torch.testing.assert_close(encode(module, x), by_hand(module, centred / (deviation + 1e-5), 3))


def test_the_tied_matrix_is_saved_once_under_the_decoder_name(module, tmp_path):
    module.save(tmp_path)

    weights = load_file(tmp_path / "model.safetensors")
    again = SparseAutoEncoder.from_folder(tmp_path, LoadOptions())

    assert set(weights) == {
        "pre_bias",
        "latent_bias",
        "stats_last_nonzero",
        "decoder.linear.weight",
    }
    assert torch.equal(again.encoder.weight, module.encoder.weight)
    assert again.get_config_dict() == module.get_config_dict()


@pytest.mark.parametrize("names", [["encoder.weight"], ["encoder.weight", "decoder.linear.weight"]])
def test_a_file_with_the_encoder_name_or_both_loads_too(module, tmp_path, names):
    module.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    matrix = weights.pop("decoder.linear.weight")
    save_file(weights | {name: matrix.clone() for name in names}, tmp_path / "model.safetensors")

    again = SparseAutoEncoder.from_folder(tmp_path, LoadOptions())

    assert torch.equal(again.encoder.weight, module.encoder.weight)


def test_two_different_matrices_are_refused(module, tmp_path):
    module.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["encoder.weight"] = weights["decoder.linear.weight"] + 1
    save_file(weights, tmp_path / "model.safetensors")

    with pytest.raises(ModelError, match="must be equal, and differ"):
        SparseAutoEncoder.from_folder(tmp_path, LoadOptions())


def test_a_file_without_the_matrix_is_refused(module, tmp_path):
    module.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["decoder.linear.weight"]
    save_file(weights, tmp_path / "model.safetensors")

    with pytest.raises(ModelError, match=r"'decoder\.linear\.weight' or 'encoder\.weight'"):
        SparseAutoEncoder.from_folder(tmp_path, LoadOptions())


def test_weights_of_another_width_are_refused(module, tmp_path):
    module.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"pre_bias": torch.zeros(5)}, tmp_path / "model.safetensors")

    with pytest.raises(ModelError, match=r"(?s)weights do not fit SparseAutoEncoder.*pre_bias"):
        SparseAutoEncoder.from_folder(tmp_path, LoadOptions())
