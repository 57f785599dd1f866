"""Programs that others wrote, given models of stx. `make test-clients` installs and runs them."""

import numpy as np
import pytest

TEXTS = ["how do plants eat light", "rivers carry sand to the sea", "the stadium was full"]


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/clients/" in item.path.as_posix():
            item.add_marker(pytest.mark.clients)


@pytest.fixture(scope="session", autouse=True)
def package():
    """What these programs import as sentence_transformers."""
    from stx_core import as_sentence_transformers

    return as_sentence_transformers()


@pytest.fixture(scope="session")
def model(minilm):
    from stx_core import SentenceTransformer

    return SentenceTransformer(str(minilm), device="cpu")


@pytest.fixture(scope="session")
def expected(model):
    """(3, 384) float32, the embeddings of TEXTS."""
    return model.encode(TEXTS)


@pytest.fixture(scope="session")
def cross_encoder(tiny_tokenizer, tmp_path_factory):
    """A folder with a tiny random cross-encoder of one label."""
    import shutil

    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("cross")
    config = BertConfig(
        vocab_size=256,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    shutil.copytree(tiny_tokenizer, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def same(expected):
    """Compares embeddings with those of TEXTS, in their order."""

    def compare(actual, wanted=expected):
        np.testing.assert_allclose(np.asarray(actual, np.float32), wanted, atol=1e-5)

    return compare
