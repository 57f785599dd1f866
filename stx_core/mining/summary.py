"""Lines that `mine_hard_negatives` logs at its end."""

from collections.abc import Iterator

import pyarrow as pa

from stx_core.mining.pairs import Pairs
from stx_core.mining.rules import REASONS, MiningRules
from stx_core.mining.shortage import reason_codes
from stx_core.mining.statistics import score_table


def summary_lines(
    judged: pa.Table,
    negatives: pa.Table,
    rules: MiningRules,
    *,
    layout: str,
    n_rows: int,
    pairs: Pairs,
) -> Iterator[str]:
    """The score table, what each rule rejected and how many rows are missing, as the reference.

    Unlike it, min_score counts only what no other rule rejected, and all rules are named.
    """
    n = rules.num_negatives
    yield "{:<6} {:>14} {:>14} {:>14}".format("Metric", "Positive", "Negative", "Difference")
    for row in score_table(negatives, n if layout == "n-tuple" else None).to_pylist():
        values = [row[side] for side in ("positive", "negative", "difference")]
        cells = [f"{value:.4f}" for value in values]
        if row["measure"] == "Count":
            cells = [f"{int(values[0]):,}", f"{int(values[1]):,}", ""]
        yield "{:<6} {:>14} {:>14} {:>14}".format(row["measure"], *cells)
    codes = reason_codes(judged)
    slots = len(negatives) * ((rules.range_max or 0) + pairs.max_positives)
    for index, reason in enumerate(REASONS):
        value = getattr(rules, reason, None)
        skipped = int((codes == index).sum())
        if value is None or value is False or not skipped:
            continue
        yield (
            f"Skipped {skipped:,} potential negatives ({skipped / slots:.2%}) "
            f"due to the {reason} of {value}."
        )
        # As there: what one margin rejects is no candidate of the next rule.
        slots -= skipped if reason.endswith("_margin") else 0
    possible = {
        "triplet": len(pairs.query_P) * n,
        "labeled-pair": len(pairs.queries) * n + pairs.n_rows,
    }.get(layout, len(pairs.query_P))
    if possible > n_rows:
        missing = possible - n_rows
        limits = ("absolute_margin", "relative_margin", "positive_share", "max_score", "min_score")
        names = ["range_max", *(["range_min"] if rules.range_min > 0 else [])]
        names += [name for name in limits if getattr(rules, name) is not None]
        settings = "range_max parameter"
        if len(names) > 1:
            settings = f"{', '.join(names[:-1])} and {names[-1]} parameters"
        yield (
            f"Could not find enough negatives for {missing} samples ({missing / possible:.2%}). "
            f"Consider adjusting the {settings}."
        )
