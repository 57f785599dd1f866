"""Published numbers of the Sentence Transformers quickstart beside ours.

    python benchmarks/quickstart_numbers.py                       # models from the hub or its cache
    python benchmarks/quickstart_numbers.py --dense ./all-MiniLM-L6-v2 --only dense

Sources: the quickstart and index pages of www.sbert.net (5.1), and, for the four planet documents,
the fp32 scores of the project's own slow tests (commit 72e75f78), which allow 0.01.
Exit code 0: at least one model was loaded, and every loaded one agrees.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stx_core import CrossEncoder, ModelError, SentenceTransformer, SparseEncoder

WEATHER = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
]
PASTA = "A man is eating pasta."
PASTA_DOCUMENTS = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a horse.",
    "A woman is playing violin.",
    "Two men pushed carts through the woods.",
    "A man is riding a white horse on an enclosed ground.",
    "A monkey is playing drums.",
    "A cheetah is running behind its prey.",
]
BERLIN = "How many people live in Berlin?"
BERLIN_DOCUMENTS = [
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square "
    "kilometers.",
    "Berlin has a yearly total of about 135 million day visitors, making it one of the most "
    "visited cities in the European Union.",
    "In 2013 around 600,000 Berliners were registered in one of the more than 2,300 sport and "
    "fitness clubs.",
]
PLANET = "Which planet is known as the Red Planet?"
PLANET_DOCUMENTS = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
]


@dataclass(frozen=True)
class Fact:
    """One published number, or row of numbers, and ours."""

    what: str
    published: Any
    ours: Any
    tolerance: float

    @property
    def agrees(self) -> bool:
        published, ours = np.asarray(self.published), np.asarray(self.ours)
        return published.shape == ours.shape and np.allclose(
            published, ours, rtol=0, atol=self.tolerance
        )


def dense_facts(model: SentenceTransformer) -> Iterator[Fact]:
    embeddings = model.encode(WEATHER)
    cosines = model.similarity(embeddings, embeddings)
    yield Fact("shape", (3, 384), embeddings.shape, 0)
    yield Fact("diagonal of the cosines", [1, 1, 1], cosines.diagonal(), 5e-5)
    published = [0.6660, 0.1046, 0.1411]
    yield Fact("cosines 1-2, 1-3, 2-3", published, cosines[[0, 0, 1], [1, 2, 2]], 5e-5)
    yield planet_fact(model, [0.46469, 0.81146, 0.72792, 0.75019])


def sparse_facts(model: SparseEncoder) -> Iterator[Fact]:
    embeddings = model.encode(WEATHER)
    published = [[35.629, 9.154, 0.098], [9.154, 27.478, 0.019], [0.098, 0.019, 29.553]]
    yield Fact("shape", (3, 30522), embeddings.shape, 0)
    yield Fact("dot products", published, model.similarity(embeddings, embeddings), 5e-3)
    yield Fact("sparsity", 0.9984, model.sparsity(embeddings)["sparsity_ratio"], 5e-5)
    yield planet_fact(model, [8.3984, 22.53437, 17.49611, 17.43306])


def planet_fact(model: SentenceTransformer | SparseEncoder, published: list[float]) -> Fact:
    query = model.encode_query([PLANET])
    documents = model.encode_document(PLANET_DOCUMENTS)
    return Fact("planet documents", published, model.similarity(query, documents)[0], 0.01)


def similarity_facts(model: CrossEncoder) -> Iterator[Fact]:
    published = [0.6732372, 0.34102544, 0.00542465, 0.07569341, 0.00525378]
    published += [0.00536814, 0.06676237, 0.00534825, 0.00516717]
    yield Fact("scores", published, scores(model, PASTA, PASTA_DOCUMENTS), 5e-4)
    yield Fact("rank", [0, 1, 3, 6, 2, 5, 7, 4, 8], rank(model, PASTA, PASTA_DOCUMENTS), 0)
    planets = [0.09564, 0.60424, 0.49345, 0.47718]
    yield Fact("planet documents", planets, scores(model, PLANET, PLANET_DOCUMENTS), 0.01)


def rerank_facts(model: CrossEncoder) -> Iterator[Fact]:
    published = [8.607139, 5.506266, 6.352977]
    yield Fact("scores", published, scores(model, BERLIN, BERLIN_DOCUMENTS), 5e-3)
    yield Fact("rank", [0, 2, 1], rank(model, BERLIN, BERLIN_DOCUMENTS), 0)
    planets = [-6.52474, 9.69094, 6.92376, 6.66822]
    yield Fact("planet documents", planets, scores(model, PLANET, PLANET_DOCUMENTS), 0.01)


def scores(model: CrossEncoder, query: str, documents: list[str]) -> np.ndarray:
    return model.predict([(query, document) for document in documents])


def rank(model: CrossEncoder, query: str, documents: list[str]) -> list[int]:
    return [row["corpus_id"] for row in model.rank(query, documents)]


@dataclass(frozen=True)
class Check:
    name: str
    load: type
    facts: Callable[[Any], Iterator[Fact]]


CHECKS = {
    "dense": Check("sentence-transformers/all-MiniLM-L6-v2", SentenceTransformer, dense_facts),
    "sparse": Check("naver/splade-cocondenser-ensembledistil", SparseEncoder, sparse_facts),
    "similarity": Check("cross-encoder/stsb-distilroberta-base", CrossEncoder, similarity_facts),
    "rerank": Check("cross-encoder/ms-marco-MiniLM-L6-v2", CrossEncoder, rerank_facts),
}


def compare(check: Check, name_or_folder: str, device: str) -> bool | None:
    """Print one model's facts. None when it cannot be loaded, else whether all agree."""
    print(f"\n{check.name}")
    try:
        model = check.load(name_or_folder, device=device, model_kwargs={"dtype": "float32"})
    except ModelError as error:
        print(f"  CANNOT BE LOADED, nothing compared: {error}")
        return None
    facts = list(check.facts(model))
    for fact in facts:
        print(f"  {'ok' if fact.agrees else 'DIFFERS'}  {fact.what} (within {fact.tolerance})")
        print(f"    published {np.asarray(fact.published).tolist()}")
        print(f"    ours      {np.asarray(fact.ours, float).round(7).tolist()}")
    return all(fact.agrees for fact in facts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for key, check in CHECKS.items():
        parser.add_argument(f"--{key}", default=check.name, metavar="FOLDER", help=check.name)
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    outcomes = [
        compare(CHECKS[key], getattr(arguments, key), arguments.device) for key in arguments.only
    ]
    loaded = [outcome for outcome in outcomes if outcome is not None]
    print(f"\n{len(loaded)} of {len(outcomes)} models loaded, {sum(loaded)} agree")
    return 0 if loaded and all(loaded) else 1


if __name__ == "__main__":
    sys.exit(main())
