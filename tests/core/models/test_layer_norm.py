import torch

from stx_core.models.modules.layer_norm import LayerNorm
from stx_core.models.modules.module import LoadOptions


def test_the_embedding_is_normalised_scaled_and_shifted(tmp_path):
    module = LayerNorm(2)
    with torch.no_grad():
        module.norm.weight.copy_(torch.tensor([2.0, 1.0]))
        module.norm.bias.copy_(torch.tensor([0.0, 5.0]))
    module.save(tmp_path)

    again = LayerNorm.from_folder(tmp_path, LoadOptions())
    embedding = again({"sentence_embedding": torch.tensor([[3.0, 5.0]])})["sentence_embedding"]

    # 3 and 5 have mean 4 and deviation 1.
    torch.testing.assert_close(embedding, torch.tensor([[-2.0, 6.0]]), atol=1e-4, rtol=0)
