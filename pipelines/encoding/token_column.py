"""Tokens as a column of a unit's table, between the stage that tokenises and the one that encodes.

N rows of the unit, D distinct texts.
"""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from stx.pipelines.running import unit_table

if TYPE_CHECKING:
    from stx_core.inference.tokens import Tokens

TOKENS = pa.struct(
    [("ids", pa.list_(pa.int32())), ("type_ids", pa.list_(pa.int32())), ("truncated", pa.bool_())]
)
"""Tokens that a model reads of a text; ``type_ids`` are empty for models without."""


def name(output: str) -> str:
    """Of the column of an output."""
    return f"{output}.tokens"


def to_column(tokens: "Tokens", rows: pa.Array) -> pa.StructArray:
    """The tokens of D texts for N rows.

    Args:
        tokens: of D inputs.
        rows: (N,) which input a row has, null for none.
    """
    offsets = pa.array(tokens.offsets, pa.int32())
    no_types = tokens.type_ids is None
    columns = [
        pa.ListArray.from_arrays(offsets, pa.array(tokens.ids, pa.int32())),
        pa.ListArray.from_arrays(
            pa.array(np.zeros(len(offsets), np.int32)) if no_types else offsets,
            pa.array([] if no_types else tokens.type_ids, pa.int32()),
        ),
        pa.array(tokens.truncated),
    ]
    return pa.StructArray.from_arrays(columns, fields=list(TOKENS)).take(rows)


def tokens_of(table: pa.Table, output: str, task: str, rows: np.ndarray) -> "Tokens | None":
    """The tokens of chosen rows, none of them null; None for a unit that was not tokenised."""
    if name(output) not in table.column_names:
        return None
    from stx_core.inference.tokens import Tokens

    chosen = table[name(output)].take(pa.array(rows)).combine_chunks()
    ids, types = (chosen.field(part) for part in ("ids", "type_ids"))
    offsets = ids.offsets.to_numpy().astype(np.int64)
    values = types.flatten().to_numpy()
    return Tokens(
        ids.flatten().to_numpy(),
        offsets - offsets[0],
        chosen.field("truncated").to_numpy(zero_copy_only=False),
        type_ids=values if len(values) else None,
        prompt_length=unit_table.notes(table)["prompt_lengths"][output],
        task=task,
    )
