"""BERTopic and KeyBERT, which take a model of their own where they do not recognise one."""

import subprocess
import sys

import numpy as np
import pytest

from stx_core.embedders import bertopic_embedder, keybert_embedder
from tests.clients.conftest import TEXTS

DOCUMENT = (
    "Plants turn light into sugar. Their leaves are green because chlorophyll takes the red and "
    "the blue of the light and leaves the green."
)


def test_keybert_uses_the_model_itself_and_by_its_plug_in_point(model):
    keybert = pytest.importorskip("keybert")

    by_type = keybert.KeyBERT(model=model)
    by_plug_in = keybert.KeyBERT(model=keybert_embedder(model))

    assert by_type.model.embedding_model is by_plug_in.model.embedding_model is model
    keywords = by_type.extract_keywords(DOCUMENT)
    assert keywords == by_plug_in.extract_keywords(DOCUMENT)
    words = [word for word, _ in keywords]
    similarities = model.similarity(model.encode([DOCUMENT]), model.encode(words))[0]
    np.testing.assert_allclose([score for _, score in keywords], similarities, atol=1e-3)


@pytest.mark.parametrize("wrap", [lambda model: model, bertopic_embedder])
def test_bertopic_uses_the_model_itself_and_by_its_plug_in_point(model, expected, wrap):
    bertopic = pytest.importorskip("bertopic")
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    topics = bertopic.BERTopic(
        embedding_model=wrap(model),
        umap_model=PCA(2),
        hdbscan_model=KMeans(2, n_init=1, random_state=0),
    )

    assigned, _ = topics.fit_transform([*TEXTS, *TEXTS])

    assert topics.embedding_model.embedding_model is model
    np.testing.assert_allclose(topics.embedding_model.embed(TEXTS), expected, atol=1e-5)
    # Equal texts are of one topic.
    assert assigned[:3] == assigned[3:]


@pytest.mark.parametrize(
    ("client", "call"),
    [("keybert", "keybert.KeyBERT(model=model)"),
     ("bertopic", "bertopic.backend._utils.select_backend(model)")],
)  # fmt: skip
def test_without_the_stand_in_they_refuse_the_model_aloud(
    client, call, save_static_model, tmp_path
):
    pytest.importorskip(client)
    folder = save_static_model(tmp_path / "model", ["sun"], np.ones((2, 4), np.float32))
    script = (
        f"import {client}\n"
        + ("import bertopic.backend._utils\n" if client == "bertopic" else "")
        + "from stx_core import SentenceTransformer\n"
        f"model = SentenceTransformer({str(folder)!r})\n"
        f"print('took', {call})"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert done.returncode == 1
    assert "took" not in done.stdout
    # Whether Sentence Transformers is installed, as here, or not.
    assert "select a correct SentenceTransformers model" in done.stderr
