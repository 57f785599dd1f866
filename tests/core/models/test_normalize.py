import torch

from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.normalize import Normalize


def test_rows_have_length_one_and_a_zero_row_stays_zero():
    features = Normalize()({"sentence_embedding": torch.tensor([[3.0, 4.0], [0.0, 0.0]])})

    torch.testing.assert_close(
        features["sentence_embedding"], torch.tensor([[0.6, 0.8], [0.0, 0.0]])
    )


def test_other_features_can_be_read_and_written(tmp_path):
    Normalize("token_embeddings", "unit").save(tmp_path)

    features = Normalize.from_folder(tmp_path, LoadOptions())(
        {"token_embeddings": torch.ones(1, 4)}
    )

    torch.testing.assert_close(features["unit"], torch.full((1, 4), 0.5))
    torch.testing.assert_close(features["token_embeddings"], torch.ones(1, 4))
