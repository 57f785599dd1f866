import torch

from stx_core.models.modules.dropout import Dropout
from stx_core.models.modules.module import LoadOptions


def test_dropout_is_the_identity_at_inference_and_not_in_training(tmp_path):
    Dropout(0.9).save(tmp_path)
    module = Dropout.from_folder(tmp_path, LoadOptions())
    embedding = torch.ones(4, 64)

    inference = module.eval()({"sentence_embedding": embedding})["sentence_embedding"]
    training = module.train()({"sentence_embedding": embedding})["sentence_embedding"]

    assert module.dropout == 0.9
    assert torch.equal(inference, embedding)
    assert not torch.equal(training, embedding)
