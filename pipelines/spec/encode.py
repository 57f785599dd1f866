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
    models: dict[Name, Model] = Field(min_length=1)
    output: Output
    backfill: Backfill | None = None
    resources: Resources = Resources()
    store: Store = Store()
    quality: Quality = Quality()
    alerts: Alerts = Alerts()
