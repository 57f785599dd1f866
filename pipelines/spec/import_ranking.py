"""Spec of the import job: it is made of options, no file holds it."""

from typing import ClassVar, Literal

from stx.pipelines.spec.parts import Dataset, Name, Part, Resources, Store
from stx.pipelines.spec.quality import EmptyQuality


class ImportSpec(Part):
    """The ``import`` job: a ranking of another engine as a dataset."""

    source: str
    """File, folder or glob of a ranking: TREC run, MS MARCO, Parquet, JSONL, ``top_ranked``."""
    path: str
    """The dataset to write."""
    name: Name = "ranking"
    """Of its output."""
    format: str | None = None
    """Of the files; None: told by them."""
    ids: Literal["string", "int64"] = "string"
    """Type of the ids: that of the datasets it shall be used with."""
    store: Store = Store()
    """How `s3://` is reached."""
    resources: ClassVar[Resources] = Resources(runner="local")
    """This process: where the file was read."""
    quality: ClassVar[EmptyQuality] = EmptyQuality()
    """No checks: a shorter ranking is what its engine gave."""

    @property
    def output(self) -> Dataset:
        """The dataset, as other jobs have it."""
        return Dataset(path=self.path)
