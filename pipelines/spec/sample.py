"""Spec of the sample job."""

from typing import Annotated

from pydantic import Field

from stx.pipelines.spec.alerts import Alerts
from stx.pipelines.spec.parts import Dataset, Name, Part, Resources, Store
from stx.pipelines.spec.quality import EmptyQuality
from stx.pipelines.spec.retrieval import Snapshot


class SampleSpec(Part):
    """The ``sample`` job: some rows of a dataset, chosen by chance, as a dataset."""

    sampled: Snapshot
    """Dataset whose rows are chosen."""
    output_of: Name | None = None
    """Which output; needed when there are several."""
    rows: Annotated[int, Field(ge=1)]
    """How many."""
    by: str | None = None
    """A column whose values have the share of the sample that they have of all rows."""
    seed: int = 0
    """Another one gives other rows."""
    output: Dataset
    """Dataset that it commits to."""
    resources: Resources = Resources()
    """Where it runs and how large."""
    quality: EmptyQuality = EmptyQuality()
    """Checks that the result has to pass before it is committed."""
    store: Store = Store()
    """How `s3://` is reached."""
    alerts: Alerts = Alerts()
    """Whom to tell how the job ended."""
