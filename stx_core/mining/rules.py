"""The rules by which candidates become hard negatives, and the reasons for which they do not."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from stx_core.errors import SpecError

Against = Literal["min", "mean", "max"]
Sampling = Literal["top", "random"]

# Why a candidate is no negative, in the order in which the rules look at it: the first one counts.
REASONS = (
    "positive",  # a known positive of this query
    "unscored",  # the judge gave no score: another retriever found it
    "same_id",  # the document has the id of the query
    "same_content",  # the text of a positive of this query, or of the query
    "absolute_margin",
    "relative_margin",
    "positive_share",
    "max_score",
    "min_score",
    "near_duplicate",  # almost the text of a positive of this query, or of the query
    "repeated_content",  # the text of a better candidate of this query
    "before_range",
    "after_range",
    "not_sampled",
)


@dataclass(frozen=True)
class MiningRules:
    """Definition of a hard negative. All scores are of one judge, higher is better, of either sign.

    Names and meaning are those of `mine_hard_negatives` in Sentence Transformers 6.2; the fields
    from `positive_share` on are additions that change nothing by default.

    Attributes:
        num_negatives: negatives per query at most.
        range_min: the best candidates to skip, counted among those that the other rules let pass.
        range_max: how many of the passing candidates to look at, the skipped ones included.
        max_score: reject scores above it.
        min_score: reject scores below it.
        absolute_margin: reject scores above `positive - absolute_margin`.
        relative_margin: reject scores above `positive - |positive| * relative_margin`.
        sampling_strategy: the best candidates of the range, or random ones of it.
        include_positives: let known positives pass as candidates, to build reranking data.
        positive_share: reject scores above this share of the positive's (NV-Retriever,
            arXiv 2407.15831, takes 0.95): `positive - |positive| * (1 - positive_share)`, so that
            it also holds for negative scores.
        margin_against: which positive of a query the margins and the share are measured against:
            the lowest, as in the reference, the mean or the highest score.
        seed: of random sampling. A query's sample depends on the seed, its id and its passing
            candidates, not on other queries.
        same_id: reject a document that has the query's own id.
        same_content: reject the text of a positive or of the query, and repeated texts.
        near_duplicate: reject texts at least this alike (0 to 1) to a positive or to the query.
    """

    num_negatives: int = 3
    range_min: int = 0
    range_max: int | None = None
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling_strategy: Sampling = "top"
    include_positives: bool = False
    positive_share: float | None = None
    margin_against: Against = "min"
    seed: int = 0
    same_id: bool = False
    same_content: bool = False
    near_duplicate: float | None = None

    def __post_init__(self) -> None:
        """Refuse rules that cannot be meant, one line each.

        Raises:
            SpecError: a number out of its range, or an unknown choice.
        """
        n, low, high = self.num_negatives, self.range_min, self.range_max
        if n < 1:
            raise SpecError(f"num_negatives must be at least 1, got {n}")
        if low < 0:
            raise SpecError(f"range_min must not be negative, got {low}")
        if high is not None and low >= high:
            raise SpecError(
                f"range_min must be below range_max, got range_min={low}, range_max={high}"
            )
        if high is not None and n > high - low:
            raise SpecError(
                f"num_negatives={n} do not fit between range_min={low} and "
                f"range_max={high}; lower num_negatives or raise range_max"
            )
        for name, choices in (
            ("sampling_strategy", get_args(Sampling)),
            ("margin_against", get_args(Against)),
        ):
            if (value := getattr(self, name)) not in choices:
                raise SpecError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        for name in ("max_score", "min_score", "absolute_margin", "relative_margin"):
            value = getattr(self, name)
            if value is not None and math.isnan(value):
                raise SpecError(f"{name} is NaN; give a number or leave it out")
        if self.positive_share is not None and not 0 < self.positive_share <= 1:
            raise SpecError(
                f"positive_share is a share in (0, 1], such as 0.95, got {self.positive_share}"
            )
        if self.near_duplicate is not None and not 0 < self.near_duplicate <= 1:
            raise SpecError(f"near_duplicate is a likeness in (0, 1], got {self.near_duplicate}")

    @property
    def needs_scores(self) -> bool:
        """Tell whether a rule looks at scores, beyond their order."""
        return any(
            value is not None
            for value in (
                self.absolute_margin,
                self.relative_margin,
                self.positive_share,
                self.max_score,
                self.min_score,
            )
        )

    @property
    def needs_texts(self) -> bool:
        """Tell whether a rule looks at texts or content hashes."""
        return self.same_content or self.near_duplicate is not None
