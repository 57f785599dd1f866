# %% [markdown]
# # Embed and search
#
# A small file becomes a dataset of embeddings, which is searched, changed, and opened at an older
# version. The calls are those for a whole lake: only paths and `resources` differ.

# %% tags=["parameters"]
MODEL = "sentence-transformers/all-MiniLM-L6-v2"  # a hub name or a folder

# %% [markdown]
# ## A corpus
#
# Parquet, JSONL or CSV with a column of ids and one of texts. Here it also has a column `topic`.

# %%
import json
from pathlib import Path

import stx
from stx_core import SentenceTransformer

passages = [
    ("p01", "plants", "Leaves catch sunlight and turn water and carbon dioxide into sugar."),
    ("p02", "plants", "Roots take up water and minerals from the soil."),
    ("p03", "plants", "Bees carry pollen from one blossom to the next, so that fruit can grow."),
    ("p04", "sky", "The moon pulls at the sea, and the water rises and falls twice a day."),
    ("p05", "sky", "Rain falls when drops in a cloud have become too heavy to float."),
    ("p06", "sky", "Lightning heats the air so fast that we hear it as thunder."),
    ("p07", "house", "A thermostat turns the heating off when the room is warm enough."),
    ("p08", "house", "Double windows keep a flat quiet, and keep its warmth inside."),
    ("p09", "house", "Vinegar removes the white crust that hard water leaves in a kettle."),
    ("p10", "travel", "The night train leaves at ten and arrives before breakfast."),
    ("p11", "travel", "A passport must be valid for six more months at the border."),
    ("p12", "travel", "Trams run every five minutes and stop at the market."),
]


def write_corpus(rows):
    lines = [json.dumps({"id": id, "topic": topic, "text": text}) for id, topic, text in rows]
    Path("passages.jsonl").write_text("\n".join(lines) + "\n")


write_corpus(passages)

# %% [markdown]
# ## Embed
#
# Keywords are the keys of [specs](../spec.md). For a dozen rows the work is done in this process,
# without Ray. Every run that commits makes one new, immutable version.


# %%
def encode():
    return stx.encode(
        inputs={"path": "passages.jsonl", "columns": ["topic"]},
        models={"dense": MODEL},
        output="embeddings",
        resources={"runner": "local", "supervised": False},
    )


report = encode()
print("version", report.version, "committed:", report.committed)

# %% [markdown]
# ## Search
#
# Exact, by the model that wrote the dataset: rows with `id`, `score` and copied columns,
# best first.

# %%
documents = stx.open("embeddings")
questions = ["how do plants eat", "why are there tides", "when does my train go"]
results = documents.search(questions, top_k=2)
for question, rows in zip(questions, results, strict=True):
    print(question)
    for row in rows:
        print(f"  {row['score']:.2f} {row['id']} {row['topic']}")

# %% [markdown]
# The vectors are there as a matrix, and as a table with the ids. The model gives the same without
# a dataset: `stx_core` has the classes of Sentence Transformers, and needs no Ray.

# %%
vectors = documents.to_numpy()
ids = documents.to_arrow(["id"])["id"].to_pylist()
model = SentenceTransformer(MODEL)
by_hand = model.encode([passages[0][2]])
similarity = float(model.similarity(by_hand, vectors[[ids.index("p01")]])[0, 0])
print(vectors.shape, vectors.dtype, f"similarity to the same text: {similarity:.3f}")

# %% [markdown]
# ## Change a row
#
# A second run over the same files has nothing to do. When a text changes, only that row is encoded.

# %%
again = encode()
print("nothing changed, committed:", again.committed)

changed = [(*row[:2], "The night bus to the coast was cancelled.") if row[0] == "p10" else row
           for row in passages]  # fmt: skip
write_corpus(changed)
updated = encode()
print("version", updated.version, "committed:", updated.committed)

# %% [markdown]
# What was opened stays the version that it was, and older versions can be opened by their number.

# %%
newest, first = stx.open("embeddings"), stx.open("embeddings", version=report.version)
question = "is the bus to the sea running"
for snapshot in (first, newest):
    best = snapshot.search(question, top_k=1)[0]
    print(f"version {snapshot.version}: {best['id']}, {best['score']:.2f}")

# %% [markdown]
# Next: [retrieve, rerank, mine](2-retrieve-rerank-mine.md). More on datasets in
# [Concepts](../concepts.md), on large runs in [Operations](../operations.md).
