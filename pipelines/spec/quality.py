"""Thresholds of the checks that a snapshot has to pass before it is committed."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from stx.pipelines.spec.parts import Part

LOW_IS_BAD = ("neighbour_overlap",)
# Bad above the threshold; others already at it.
ABOVE = ("rows_lost",)


class Limits(Part):
    """From which value on a check warns, and from which it refuses the snapshot; None: never."""

    warn: Annotated[float, Field(ge=0)] | None = None
    """The value from which on the run commits, and warns."""
    refuse: Annotated[float, Field(ge=0)] | None = None
    """The value from which on nothing is committed: the command ends with exit code 5."""


class EmptyQuality(Part):
    """The check of each output before it is committed, see docs/quality.md."""

    accept: bool = False
    """Commit what the checks refuse; they only warn then."""
    no_rows: Limits = Limits(refuse=1.0)
    """1 when the snapshot would have no row of the output: the input or what its filters leave is
    empty, or every row was quarantined; else 0. Judged for any number of rows."""

    @model_validator(mode="after")
    def _warns_first(self) -> Self:
        for name, limits in self.limits.items():
            warn, refuse = limits.warn, limits.refuse
            if warn is None or refuse is None or warn == refuse:
                continue
            if (warn < refuse) != (name not in LOW_IS_BAD):
                raise ValueError(f"{name}: refuse at {refuse:g} comes before warn at {warn:g}")
        return self

    @property
    def limits(self) -> dict[str, Limits]:
        """Thresholds by check."""
        return {name: value for name, value in self if isinstance(value, Limits)}


class Quality(EmptyQuality):
    """Checks of each output before it is committed, see docs/quality.md.

    A check that is named has only the thresholds that are given with it.
    """

    min_rows: Annotated[int, Field(ge=1)] = 100
    """Shares and shifts of fewer new rows are not judged."""
    sample: Annotated[int, Field(ge=0, le=4096)] = 512
    """Rows whose neighbours are compared; 0: none."""
    not_finite: Limits = Limits(warn=0.01)
    """Share of the new rows that were quarantined because their vector has NaN or infinity."""
    zero_vectors: Limits = Limits(warn=0.01)
    """Share of the new vectors that are all zero."""
    quarantined: Limits = Limits(warn=0.5)
    """Share of the new rows that were quarantined, for whatever reason."""
    duplicate_texts: Limits = Limits(warn=0.5)
    """Share of all rows with a text that another row has too; estimated."""
    duplicate_vectors: Limits = Limits(warn=0.5)
    """Share of the new texts with the vector of another text of their unit."""
    norm_drift: Limits = Limits(warn=0.5)
    """Change of the mean norm, or of its spread, as a share of the mean norm before."""
    neighbour_overlap: Limits = Limits(warn=0.2)
    """Share of the ten nearest neighbours that stayed the same; low is bad."""
    text_shift: Limits = Limits(warn=1.0)
    """Population stability index of text lengths or scripts: above 0.25 is a shift."""
    rows_lost: Limits = Limits(refuse=0.5)
    """Share of the rows of the version before that the snapshot would have less; refused above the
    threshold, not at it. Judged for any number of rows."""
    rows_change: Limits = Limits(warn=0.5)
    """Rows of the smaller of the old and the new snapshot that the other has more: 0.5 is half
    of them lost, or twice as many."""
