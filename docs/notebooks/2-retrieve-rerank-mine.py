# %% [markdown]
# # Retrieve, rerank, mine
#
# From questions with known answers to training rows with hard negatives, in four steps: embed both
# sides, rank the documents of each question, let a cross-encoder judge them again, and keep those
# that look right and are not.

# %% tags=["parameters"]
MODEL = "sentence-transformers/all-MiniLM-L6-v2"  # a hub name or a folder
RERANKER = "cross-encoder/ms-marco-MiniLM-L6-v2"  # likewise; a cross-encoder with one label

# %% [markdown]
# ## Documents, questions, judgements
#
# The judgements (qrels) say which document answers which question. The documents have neighbours
# on purpose: three are about bread, three about bicycles.

# %%
import json
from pathlib import Path

import stx

documents = {
    "d01": "Bread rises because yeast turns sugar into gas, which the dough holds.",
    "d02": "Bread stays fresh for three days in a wooden box, and dries out in the fridge.",
    "d03": "A hot stone and some steam in the oven give bread a crisp crust.",
    "d04": "A flat tyre is mended by a patch glued over the hole in the inner tube.",
    "d05": "A bicycle chain lasts longer when it is cleaned and oiled every month.",
    "d06": "Bicycle brakes squeal when the rim is greasy or the pads are worn.",
    "d07": "Tomatoes want six hours of sun and water at their roots, not on their leaves.",
    "d08": "Roses are cut back in spring, above a bud that points outwards.",
    "d09": "Slugs leave lettuce alone where a ring of copper surrounds the bed.",
    "d10": "A slow computer often has too many programs that start with it.",
    "d11": "Photos are safe when a second copy of them lies in another house.",
    "d12": "A password of four random words is easy to remember and hard to guess.",
}
questions = {
    "q1": "how should I store bread so that it does not go stale",
    "q2": "how do I fix a puncture",
    "q3": "what keeps snails off my salad",
    "q4": "how can I protect my pictures from being lost",
}
answers = {"q1": "d02", "q2": "d04", "q3": "d09", "q4": "d11"}


def write_rows(path, texts):
    lines = [json.dumps({"id": id, "text": text}) for id, text in texts.items()]
    Path(path).write_text("\n".join(lines) + "\n")


write_rows("documents.jsonl", documents)
write_rows("questions.jsonl", questions)
qrels = ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t1" for q, d in answers.items())]
Path("qrels.tsv").write_text("\n".join(qrels) + "\n")

# %% [markdown]
# ## Retrieve
#
# Both sides are encoded by the same model; `task` chooses the prompt or the route of queries where
# a model has one. Every question is then compared with every document.

# %%
LOCAL = {"runner": "local", "supervised": False}

stx.encode(inputs="documents.jsonl", models={"dense": MODEL}, output="corpus", resources=LOCAL)
stx.encode(
    inputs="questions.jsonl",
    models={"dense": {"model": MODEL, "task": "query"}},
    output="queries",
    resources=LOCAL,
)
stx.retrieve(queries="queries", corpus="corpus", k=6, output="ranking", resources=LOCAL)

ranking = stx.open("ranking", output="dense").to_arrow(["query_id", "doc_id", "rank", "score"])
for row in ranking.to_pylist():
    if row["rank"] <= 2:
        print(f"{row['query_id']} {row['rank']} {row['doc_id']} {row['score']:.2f}")

# %% [markdown]
# ## Rerank
#
# A cross-encoder reads question and document together: slower and better, so it sees only what was
# retrieved. The judged pairs are scored as well (`positives`), whatever their rank: mining compares
# with them.

# %%
stx.rerank(
    candidates={"path": "ranking", "output": "dense"},
    queries="questions.jsonl",
    documents="documents.jsonl",
    rerankers={"judge": RERANKER},
    positives="qrels.tsv",
    output="reranked",
    resources=LOCAL,
)
reranked = stx.open("reranked", output="judge")
columns = ["query_id", "doc_id", "rank", "before_rank", "score"]
for row in reranked.to_arrow(columns).to_pylist():
    if row["rank"] == 1:
        print(f"{row['query_id']} {row['doc_id']} was {row['before_rank']}, {row['score']:.2f}")

# %% [markdown]
# ## Mine
#
# The candidates are the reranked documents; the positives are left out. What the cross-encoder
# scores above the answer itself may be an answer that nobody judged: `absolute_margin` rejects it.
# No model runs, so trying other rules costs only a pass over the ranking.

# %%
stx.mine(
    candidates={"judge": {"path": "reranked"}},
    positives="qrels.tsv",
    queries="questions.jsonl",
    documents="documents.jsonl",
    rules={"num_negatives": 2, "absolute_margin": 0, "same_content": True},
    formats=["triplet"],
    output="mined",
    resources=LOCAL,
)
triplets = stx.open("mined", output="triplet").to_arrow().to_pylist()
for row in triplets:
    print(f"{row['query']}\n  + {row['positive']}\n  - {row['negative']}")

# %% [markdown]
# Every candidate is kept with the reason why it was not chosen.

# %%
judged = stx.open("mined", output="candidates").to_arrow(["query_id", "doc_id", "reason"])
for row in judged.to_pylist():
    if row["query_id"] == "q1":
        print(row["doc_id"], row["reason"] or "negative")

# %% [markdown]
# Next: [evaluate and compare](3-evaluate-and-compare.md). All keys of these jobs are explained in
# [Retrieve and rerank](../retrieval.md) and [Hard negatives](../mining.md).
