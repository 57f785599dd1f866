# %% [markdown]
# # Evaluate and compare
#
# Is it enough to embed titles, or is it worth the time to embed whole texts? Two datasets, two
# rankings, one table. Needs `pip install 'stx[eval]'`.

# %% tags=["parameters"]
MODEL = "sentence-transformers/all-MiniLM-L6-v2"  # a hub name or a folder

# %% [markdown]
# ## A collection with judgements
#
# Titles such as those of a magazine: some say what the text is about, some do not.

# %%
import json
from pathlib import Path

import stx

articles = {
    "a01": ("White gold", "Salt was won from the sea in shallow ponds that dried in the sun."),
    "a02": ("A long way home", "Salmon find the river of their birth by its smell."),
    "a03": ("Working at night", "Owls hear a mouse under the snow and catch it in the dark."),
    "a04": ("Small builders", "Ants dig tunnels and store seeds in chambers under the ground."),
    "a05": ("Growing tomatoes", "They want sun, a stick to climb, and water every evening."),
    "a06": ("How glass is made", "Sand, soda and lime melt in a furnace and cool slowly."),
    "a07": ("On thin ice", "A lake bears a person when it is frozen ten centimetres deep."),
    "a08": ("The silent giant", "A windmill of today feeds four thousand homes with power."),
    "a09": ("Red sky", "Dust scatters blue light, so that the sun looks red in the evening."),
    "a10": ("Choosing a violin", "Play it in a large room, and let a friend listen far away."),
    "a11": ("Patience pays", "Cheese ripens for a year in a cool cellar, turned every week."),
    "a12": ("Against the clock", "Couriers on bicycles bring blood from one hospital to another."),
}
questions = {
    "q1": ("how did people get salt", ["a01"]),
    "q2": ("how do fish find their way", ["a02"]),
    "q3": ("how do birds hunt in the dark", ["a03"]),
    "q4": ("where do insects keep their food", ["a04"]),
    "q5": ("how to grow vegetables", ["a05"]),
    "q6": ("what is glass made of", ["a06"]),
    "q7": ("when is it safe to skate on a pond", ["a07"]),
    "q8": ("how much electricity does a wind turbine give", ["a08"]),
    "q9": ("why are sunsets red", ["a09"]),
    "q10": ("what to look for when buying an instrument", ["a10"]),
    "q11": ("how long does cheese age", ["a11"]),
    "q12": ("who carries medical goods through the city", ["a12"]),
}


def write_rows(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


write_rows(
    "articles.jsonl",
    [{"id": id, "title": title, "text": text} for id, (title, text) in articles.items()],
)
write_rows("questions.jsonl", [{"id": id, "text": text} for id, (text, _) in questions.items()])
qrels = [f"{id}\t{answer}\t1" for id, (_, answers) in questions.items() for answer in answers]
Path("qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *qrels]) + "\n")

# %% [markdown]
# ## Two ways to embed it, two rankings

# %%
LOCAL = {"runner": "local", "supervised": False}
QUERY = {"model": MODEL, "task": "query"}

stx.encode(inputs="questions.jsonl", models={"dense": QUERY}, output="queries", resources=LOCAL)
for name, columns in {"titles": ["title"], "texts": ["title", "text"]}.items():
    stx.encode(
        inputs={"path": "articles.jsonl", "id_column": "id", "text_column": columns},
        models={"dense": MODEL},
        output=f"corpus-{name}",
        resources=LOCAL,
    )
    stx.retrieve(
        queries="queries",
        corpus=f"corpus-{name}",
        k=10,
        output=f"ranking-{name}",
        resources=LOCAL,
    )

# %% [markdown]
# ## Evaluate one
#
# Measures have the names of [ir_measures](https://ir-measur.es). `values` has those of each query,
# too.

# %%
alone = stx.evaluate(ranking="ranking-titles", qrels="qrels.tsv", measures=["nDCG@10", "RR@10"])
print(alone.markdown)

# %% [markdown]
# ## Compare both
#
# For each measure the difference of the means, with a 95 % interval and a p-value of a paired
# bootstrap over queries. Where the interval holds 0, more queries are needed to say which
# is better.

# %%
compared = stx.evaluate(
    ranking="ranking-texts",
    qrels="qrels.tsv",
    measures=["nDCG@10", "RR@10"],
    against="ranking-titles",
)
print(compared.markdown)

# %% [markdown]
# ## Which queries gain
#
# The means hide them. Here are the questions whose answer only the texts put first.


# %%
def first_places(dataset):
    rows = stx.open(dataset).to_arrow(["query_id", "doc_id", "rank"]).to_pylist()
    return {row["query_id"]: row["doc_id"] for row in rows if row["rank"] == 1}


by_title, by_text = first_places("ranking-titles"), first_places("ranking-texts")
gained = [
    id
    for id, (_, answers) in questions.items()
    if by_text[id] in answers and by_title[id] not in answers
]
for id in gained:
    answer = questions[id][1][0]
    print(f"{questions[id][0]}: {articles[answer][0]!r}")

# %% [markdown]
# The same two rankings can be files of other engines: TREC runs, Parquet or JSONL. See
# [Evaluation](../evaluation.md); for checks before a commit, so that a worse result is never read,
# [Quality](../quality.md).
