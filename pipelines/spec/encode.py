"""Spec of the encode job."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from stx.pipelines.spec.alerts import Alerts
from stx.pipelines.spec.checks import filters_from_lists
from stx.pipelines.spec.parts import (
    Filter,
    Inputs,
    Model,
    Name,
    Output,
    Part,
    Resources,
    Store,
)
from stx.pipelines.spec.quality import Quality


class Backfill(Part):
    """The part of the corpus to bring up to date; the rest of the dataset stays as it is."""

    partitions: tuple[Filter, ...] = ()
    """Conditions on hive partition columns: shards that pass are in."""
    ids: str | tuple[str | int, ...] | None = None
    """Ids, or a file with a column of them: shards that hold one are in, whole."""

    _filters = field_validator("partitions", mode="before")(filters_from_lists)

    @model_validator(mode="after")
    def _names_a_part(self) -> Self:
        if not self.partitions and self.ids is None:
            raise ValueError("name the part: partitions, ids, or both")
        return self


class EncodeSpec(Part):
    """The ``encode`` job: corpus in, one or more outputs of vectors out."""

    inputs: Inputs
    """The corpus."""
    models: dict[Name, Model] = Field(min_length=1)
    """Models by name, which is the name of the output; all in one pass over the texts."""
    output: Output
    """Dataset that it commits to, and what happens to rows that cannot be encoded."""
    backfill: Backfill | None = None
    """Bring only a part of the corpus up to date; null: all of it."""
    resources: Resources = Resources()
    """Where it runs and how large."""
    store: Store = Store()
    """How `s3://` is reached."""
    quality: Quality = Quality()
    """Checks that the result has to pass before it is committed."""
    alerts: Alerts = Alerts()
    """Whom to tell how the job ended."""
