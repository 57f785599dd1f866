"""Records of finished units: a unit is done when a valid record exists, and not before."""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import count
from typing import Any

from stx_core import failpoints
from stx_core.errors import StoreError
from stx_core.store.create import create
from stx_core.store.filesystem import list_sizes, read_bytes
from stx_core.store.sealed import decode, is_whole, seal
from stx_core.store.units import HASH_MODULUS, Unit
from stx_core.store.urls import join, redact

logger = logging.getLogger(__name__)

# Records are small and far away: read many at once.
_THREADS = 32


@dataclass(frozen=True)
class Record:
    """A finished unit of one output.

    Attributes:
        key: see `unit_key`.
        output: name of the output.
        url: the shard.
        identity: of the shard.
        start: first row of the shard.
        stop: behind the last row.
        file: data file relative to the dataset; empty when no row is left.
        quarantine_file: likewise; empty when no row was bad.
        rows_in: rows that passed the filters, bad ones counted: those written and quarantined.
        rows_filtered: rows that a filter left out.
        rows_out: rows in the file.
        rows_quarantined: rows in the quarantine file.
        reasons: quarantined rows by reason.
        id_hash_in: `id_hash` of the rows in, 32 hexadecimal digits.
        id_hash_out: of the rows out.
        id_hash_quarantined: of the rows quarantined.
        n_tokens: tokens that the encoder read.
        n_truncated: rows that were longer than the encoder reads.
        size: of the data file, bytes.
        checksum: of the data file's bytes, xxh3_128 in hex; empty when there is none.
        seconds: duration by stage.
        run: the run that wrote it.
        epoch: the start of the run that wrote it.
    """

    key: str
    output: str
    url: str
    identity: str
    start: int
    stop: int
    file: str
    quarantine_file: str
    rows_in: int
    rows_filtered: int
    rows_out: int
    rows_quarantined: int
    reasons: dict[str, int]
    id_hash_in: str
    id_hash_out: str
    id_hash_quarantined: str
    n_tokens: int
    n_truncated: int
    size: int
    checksum: str
    seconds: dict[str, float]
    run: str
    epoch: int


_FIELDS = {field.name: field.type for field in fields(Record)}


def record(root: str, run: str, new: Record) -> Record:
    """Make a unit done; the first valid record wins.

    Returns:
        The winner: the new record, or that of another attempt, whose file is then the one to use.

    Raises:
        ValueError: the counts or id hashes of the record do not add up.
        StoreError: from the store.
    """
    if problem := find_problem(new):
        raise ValueError(f"record of unit {new.key}: {problem}")
    failpoints.hit("ledger.before")
    for attempt in count():
        created = create(_url(root, run, new.key, attempt), seal(asdict(new)))
        winner = new if created.won else _parse(created.body, new.key)
        if winner is not None:
            failpoints.hit("ledger.after")
            return winner
        logger.warning("unit %s: record %d is damaged, writing the next", new.key, attempt)
    raise AssertionError("count() has no end")


def find(root: str, run: str, key: str) -> Record | None:
    """Read the valid record of a unit, or None if the unit is not done."""
    for attempt in count():
        url = _url(root, run, key, attempt)
        try:
            data = read_bytes(url)
        except FileNotFoundError:
            return None
        if found := _parse(decode(data), key):
            return found
        logger.warning("%s: damaged record ignored", redact(url))
    raise AssertionError("count() has no end")


def load_all(root: str, run: str) -> dict[str, Record]:
    """Read the valid records of a run, by unit key."""
    names = list_sizes(_folder(root, run))
    keys = sorted({name.rsplit("/", 1)[-1].split(".")[0] for name in names})
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda key: find(root, run, key), keys)
        return {item.key: item for item in found if item is not None}


def find_problem(item: Record) -> str | None:
    """Say which counts or id hashes of a record contradict each other, if any."""
    if item.rows_in + item.rows_filtered != item.stop - item.start:
        return (
            f"{item.rows_in} rows in and {item.rows_filtered} filtered, but the unit has "
            f"{item.stop - item.start}"
        )
    if item.rows_in != item.rows_out + item.rows_quarantined:
        return (
            f"{item.rows_in} rows in, but {item.rows_out} out and "
            f"{item.rows_quarantined} quarantined"
        )
    if sum(item.reasons.values()) != item.rows_quarantined:
        return f"reasons {item.reasons}, but {item.rows_quarantined} rows quarantined"
    parts = int(item.id_hash_out, 16) + int(item.id_hash_quarantined, 16)
    if int(item.id_hash_in, 16) != parts % HASH_MODULUS:
        return "the ids written and quarantined are not the ids read"
    if bool(item.file) != bool(item.rows_out):
        return f"{item.rows_out} rows out, file {item.file!r}"
    if bool(item.quarantine_file) != bool(item.rows_quarantined):
        return f"{item.rows_quarantined} rows quarantined, file {item.quarantine_file!r}"
    return None


def check_unit(item: Record, unit: Unit) -> None:
    """Refuse a record that speaks of another row range than its unit.

    Raises:
        StoreError: names both.
    """
    said = (item.url, item.identity, item.start, item.stop)
    planned = (unit.url, unit.identity, unit.start, unit.stop)
    if said != planned:
        raise StoreError(f"record of unit {item.key} is of {said}, but {planned} was planned")


def _folder(root: str, run: str) -> str:
    return join(root, "_stx", "runs", run, "units")


def _url(root: str, run: str, key: str, attempt: int) -> str:
    # Two characters of the key as a folder: object stores spread load over prefixes.
    return join(_folder(root, run), key[:2], f"{key}.{attempt}.json")


def _parse(body: Mapping[str, Any], key: str) -> Record | None:
    if not is_whole(body) or body.get("key") != key or not _FIELDS.keys() <= body.keys():
        return None
    found = Record(**{name: body[name] for name in _FIELDS})
    return None if find_problem(found) else found
