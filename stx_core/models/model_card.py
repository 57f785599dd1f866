"""The README of a saved model: what it is, and how it is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import yaml

README = "README.md"

_TASKS = {
    "SentenceTransformer": ("sentence-similarity", ["sentence-similarity", "feature-extraction"]),
    "SparseEncoder": ("feature-extraction", ["sparse-encoder", "sparse", "feature-extraction"]),
    "CrossEncoder": ("text-ranking", ["cross-encoder", "reranker"]),
}
_CALLS = {
    "SentenceTransformer": 'embeddings = model.encode(["The weather is lovely today."])',
    "SparseEncoder": 'embeddings = model.encode(["The weather is lovely today."])',
    "CrossEncoder": 'scores = model.predict([("How do plants eat?", "By photosynthesis.")])',
}


class Typed(Protocol):
    """A model, of which the card knows the type."""

    model_type: ClassVar[str]


@dataclass
class ModelCardData:
    """Facts that the card of a model tells beside its modules; fields as in Sentence Transformers.

    Attributes:
        language: codes such as "en".
        license: its identifier, such as "apache-2.0".
        model_name: title of the card.
        model_id: name on the hub, ``organisation/name``.
        train_datasets: each with ``name``, ``id`` or both.
        eval_datasets: in the same form.
        task_name: what the model is for.
        tags: of the hub; default: by the type of the model.
        local_files_only: kept for readers of the field; nothing is ever looked up on the hub.
        generate_widget_examples: kept for readers of the field.
        base_model: name on the hub that the model was loaded from, if it was.
        base_model_revision: branch, tag or commit of it.
    """

    language: str | list[str] | None = field(default_factory=list)
    license: str | None = None
    model_name: str | None = None
    model_id: str | None = None
    train_datasets: list[dict[str, str]] = field(default_factory=list)
    eval_datasets: list[dict[str, str]] = field(default_factory=list)
    task_name: str | None = None
    tags: list[str] = field(default_factory=list)
    local_files_only: bool = False
    generate_widget_examples: bool = True
    base_model: str | None = field(default=None, init=False)
    base_model_revision: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.set_language(self.language or [])

    def set_language(self, language: str | list[str]) -> None:
        """Set one language, or several."""
        self.language = [language] if isinstance(language, str) else list(language)

    def set_license(self, license: str) -> None:  # noqa: A002  (the name callers know)
        """Set the identifier of the licence."""
        self.license = license

    def set_model_id(self, model_id: str) -> None:
        """Set the name on the hub."""
        self.model_id = model_id

    def set_base_model(self, model_id: str, revision: str | None = None) -> bool:
        """Set what the model was made from. True: nothing is looked up."""
        self.base_model, self.base_model_revision = model_id, revision
        return True

    def add_tags(self, tags: str | list[str]) -> None:
        """Add tags that are not there yet."""
        new = [tags] if isinstance(tags, str) else tags
        self.tags += [tag for tag in new if tag not in self.tags]

    def register_model(self, model: Typed) -> None:
        """Take the tags of the model's type, unless there are some."""
        self.tags = self.tags or ["sentence-transformers", *_TASKS[model.model_type][1]]

    def to_dict(self, model_type: str = "SentenceTransformer") -> dict[str, str | list[str]]:
        """Metadata of the hub; what is not known is left out."""
        ids = [dataset["id"] for dataset in self.train_datasets if "id" in dataset]
        facts = {
            "language": self.language,
            "license": self.license,
            "library_name": "sentence-transformers",
            "pipeline_tag": _TASKS[model_type][0],
            "tags": self.tags,
            "base_model": self.base_model,
            "datasets": ids,
        }
        return {key: value for key, value in facts.items() if value}


def model_card(
    data: ModelCardData,
    *,
    model_type: str,
    modules: Mapping[str, object],
    max_seq_length: int | None,
    model_name: str | None,
    train_datasets: Sequence[str],
) -> str:
    """A short card in Markdown, with metadata of the hub as YAML before it.

    Args:
        data: what the author knows of the model.
        model_type: its class, such as ``SentenceTransformer``.
        modules: by name, in order.
        max_seq_length: tokens that it reads of an input.
        model_name: name on the hub, unless `data` has one.
        train_datasets: names of data sets that it was trained on.
    """
    name = data.model_id or model_name or "path/of/this/folder"
    metadata = data.to_dict(model_type)
    datasets = [dataset.get("name") or dataset.get("id", "") for dataset in data.train_datasets]
    trained = ", ".join(filter(None, [*datasets, *train_datasets]))
    parts = [f"- `{key}`: {type(part).__name__}" for key, part in modules.items()]
    facts = {
        "Maximum length": f"{max_seq_length} tokens",
        "Trained on": trained,
        "Made from": data.base_model,
        "Languages": ", ".join(data.language or []),
        "Licence": data.license,
    }
    listed = "\n".join(f"- {what}: {fact}" for what, fact in facts.items() if fact)
    return (
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n"
        f"# {data.model_name or model_type}\n\n{data.task_name or ''}\n\n{listed}\n\n"
        f"```python\nfrom sentence_transformers import {model_type}\n\n"
        f"model = {model_type}({name!r})\n{_CALLS[model_type]}\n```\n\n## Modules\n\n"
        + "\n".join(parts)
        + "\n"
    ).replace("\n\n\n", "\n\n")
