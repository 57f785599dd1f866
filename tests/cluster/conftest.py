import json

import numpy as np
import pytest

from tests.cluster.nodes import Nodes
from tests.faults.corpus import ROWS_PER_UNIT, WORDS, write_corpus


@pytest.fixture(scope="session")
def word_model(tmp_path_factory, save_static_model):
    """A static model of a few words: loads and encodes in milliseconds."""
    weights = np.random.default_rng(0).standard_normal((len(WORDS) + 1, 8)).astype(np.float32)
    return save_static_model(tmp_path_factory.mktemp("models") / "static", WORDS, weights)


@pytest.fixture
def values(word_model, tmp_path):
    """The spec of a job over three shards of four units each; every 32nd row has no text."""
    return {
        "inputs": {"path": str(write_corpus(tmp_path / "corpus"))},
        "models": {"dense": {"model": str(word_model)}},
        "output": {"path": str(tmp_path / "out")},
        "resources": {"runner": "local", "supervised": False, "rows_per_unit": ROWS_PER_UNIT},
    }


@pytest.fixture
def spec_file(values, tmp_path):
    """The spec in a folder of its own."""
    (tmp_path / "specs").mkdir()
    path = tmp_path / "specs/encode.yaml"
    path.write_text(json.dumps(values))
    return path


@pytest.fixture(scope="module")
def nodes():
    """Starts nodes of one cluster, and ends what is left of them."""
    started = Nodes()
    yield started
    started.close()
