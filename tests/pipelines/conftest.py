import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.spec.file import parse_spec

WORDS = ["plants", "eat", "light", "rivers", "carry", "sand", "glass", "is", "made", "of", "stars"]


@pytest.fixture(scope="session")
def static_model(tmp_path_factory, save_static_model):
    """A real StaticEmbedding folder with random vectors: loads and encodes in milliseconds."""
    weights = np.random.default_rng(0).standard_normal((len(WORDS) + 1, 8)).astype(np.float32)
    return save_static_model(tmp_path_factory.mktemp("model"), WORDS, weights)


def texts(n_rows, seed=0):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, 9))) for _ in range(n_rows)]


@pytest.fixture
def corpus(tmp_path):
    """Three Parquet shards: 250 rows, row groups of 40."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    table = pa.table(
        {
            "id": [f"d{i}" for i in range(250)],
            "text": texts(250),
            "lang": ["en" if i % 3 else "de" for i in range(250)],
        }
    )
    for shard, (start, length) in enumerate(((0, 100), (100, 90), (190, 60))):
        path = folder / f"part-{shard}.parquet"
        pq.write_table(table.slice(start, length), path, row_group_size=40)
    return folder


@pytest.fixture
def spec_of(static_model, tmp_path):
    """Builds a spec for the local runner and the static model; keywords override parts of it."""

    def build(path, **parts):
        values = {
            "inputs": {"path": str(path)},
            "models": {"dense": {"model": str(static_model)}},
            "output": {"path": str(tmp_path / "out")},
            # Without children: each would load torch for seconds.
            "resources": {"runner": "local", "rows_per_unit": 64, "supervised": False},
        }
        for name, part in parts.items():
            values[name] = values.get(name, {}) | part
        return parse_spec(values)

    return build


@pytest.fixture(autouse=True)
def float32_on_every_machine(monkeypatch):
    """``dtype: auto`` is what the machine is fast at; results of tests must not depend on that."""
    from stx.pipelines.planning import dtype

    monkeypatch.setattr(dtype, "cpu_class", lambda: "other")
