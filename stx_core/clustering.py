"""Communities: groups of embeddings that lie around one of them."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from stx_core.choices import check_count
from stx_core.search.exact import check_finite
from stx_core.similarity import Embeddings, as_matrix, normalize_embeddings

# Columns of similarities at a time; with 1024 rows, 64 MB.
_COLUMNS = 1 << 14
# Members of communities looked up at a time, some 200 MB.
_MEMBERS = 1 << 23


def community_detection(
    embeddings: Embeddings,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Find rows that have enough others near them, and share out their neighbours, largest first.

    A candidate is a row with at least `min_community_size` rows (itself among them) of a cosine of
    at least `threshold`. Candidates are visited by number of such rows, of equal ones the lower row
    first; one whose centre or too many members went to an earlier community is dropped.

    Memory grows with the number of rows, not with its square: sizes are counted in a first pass,
    and members are looked up for the centres that come to their turn.

    Args:
        embeddings: (N, D).
        threshold: lowest cosine of a member to the centre.
        min_community_size: smallest community.
        batch_size: rows compared with the others at a time.
        show_progress_bar: show one for the first pass.

    Returns:
        Communities, largest first, each a list of rows: the centre, then the others by cosine,
        equal ones by row.

    Raises:
        ValueError: a value or the threshold is not finite, or a size is below 1.
    """
    check_count("min_community_size", min_community_size)
    check_count("batch_size", batch_size)
    if math.isnan(threshold):
        raise ValueError("threshold is NaN; give a cosine, such as 0.75")
    given = as_matrix(embeddings).detach()
    check_finite(given, 0, "embeddings")
    rows = normalize_embeddings(given).to_dense()
    if len(rows) < min_community_size:
        return []
    sizes = np.zeros(len(rows), np.int64)
    starts = range(0, len(rows), batch_size)
    for start in tqdm(starts, desc="Finding clusters", disable=not show_progress_bar):
        batch = torch.arange(start, min(start + batch_size, len(rows)), device=rows.device)
        for _, cosines in _cosines(rows, batch):
            near = cosines >= threshold
            sizes[start : start + batch_size] += near.sum(dim=1).cpu().numpy()
    candidates = np.flatnonzero(sizes >= min_community_size)
    candidates = candidates[np.argsort(-sizes[candidates], kind="stable")]
    communities: list[list[int]] = []
    used = np.zeros(len(rows), bool)
    for centres in _batches(candidates, sizes, used, batch_size):
        for centre, members in _members(rows, centres, threshold):
            free = members[~used[members]]
            if not used[centre] and len(free) >= min_community_size:
                used[free] = used[centre] = True
                communities.append([centre, *free[free != centre].tolist()])
    return sorted(communities, key=len, reverse=True)


def _batches(
    candidates: np.ndarray, sizes: np.ndarray, used: np.ndarray, batch_size: int
) -> Iterator[np.ndarray]:
    """The candidates that are still free when it is their turn, in batches of bounded members."""
    start = 0
    while start < len(candidates):
        batch = candidates[start : start + batch_size]
        count = int(np.searchsorted(sizes[batch].cumsum(), _MEMBERS, side="right"))
        batch = batch[: max(1, count)]
        start += len(batch)
        free = batch[~used[batch]]
        if len(free):
            yield free


def _members(
    rows: Tensor, centres: np.ndarray, threshold: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Each centre with its neighbours (M,), by cosine descending, equal ones by row."""
    blocks = []
    for first, cosines in _cosines(rows, torch.from_numpy(centres).to(rows.device)):
        near, columns = (cosines >= threshold).nonzero(as_tuple=True)
        blocks.append((near, columns + first, cosines[near, columns]))
    owners, members, scores = (
        torch.cat(parts).cpu().numpy() for parts in zip(*blocks, strict=True)
    )
    order = np.lexsort((members, -scores, owners))
    ends = np.searchsorted(owners[order], np.arange(len(centres)), side="right")
    return zip(centres.tolist(), np.split(members[order], ends[:-1]), strict=True)


def _cosines(rows: Tensor, centres: Tensor) -> Iterator[tuple[int, Tensor]]:
    """First column and cosines (B, C) of some rows to a block of all rows."""
    centre_rows = rows[centres]
    for first in range(0, len(rows), _COLUMNS):
        yield first, centre_rows @ rows[first : first + _COLUMNS].T
