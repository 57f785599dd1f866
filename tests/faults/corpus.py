"""The corpus of the fault tests: small, with a few rows that belong into the quarantine."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WORDS = ["plants", "eat", "light", "rivers", "carry", "sand", "glass", "is", "made", "of", "stars"]
N_SHARDS, ROWS_PER_SHARD, ROWS_PER_UNIT = 3, 64, 16
N_UNITS = N_SHARDS * ROWS_PER_SHARD // ROWS_PER_UNIT


def shard(first: int, n_rows: int = ROWS_PER_SHARD, seed: int | None = None) -> pa.Table:
    """Rows with ids d<first>…; every 32nd has no text, so the quarantine is never empty."""
    random = np.random.default_rng(first if seed is None else seed)
    texts = [" ".join(random.choice(WORDS, random.integers(1, 9))) for _ in range(n_rows)]
    texts[5::32] = [None] * len(texts[5::32])
    return pa.table({"id": [f"d{first + i}" for i in range(n_rows)], "text": texts})


def write_corpus(folder: Path) -> Path:
    """Write the shards ``part-0.parquet`` … into a new folder."""
    folder.mkdir()
    for number in range(N_SHARDS):
        table = shard(number * ROWS_PER_SHARD)
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=ROWS_PER_UNIT)
    return folder
