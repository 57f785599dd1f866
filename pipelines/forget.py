"""Rows of a dataset deleted for good by their ids, as `stx forget` does it."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import yaml

from stx.pipelines.planning.scope import read_ids
from stx.pipelines.quality.statistics import without_texts
from stx.pipelines.spec.yaml_text import load_yaml
from stx_core.errors import InputError, SpecError
from stx_core.store.corpus.readers import format_of
from stx_core.store.files.filesystem import list_objects, read_bytes, write_over
from stx_core.store.files.urls import join, redact
from stx_core.store.forget import Forgotten, forget

logger = logging.getLogger(__name__)


def run_forget(
    root: str,
    ids: Sequence[str] = (),
    *,
    ids_file: str | None = None,
    column: str = "id",
    dry_run: bool = False,
) -> Forgotten:
    """Delete the rows of some ids from a dataset, see `store.forget.forget`.

    Args:
        root: the dataset.
        ids: some of them.
        ids_file: more of them: a Parquet, JSONL or CSV file with a column of ids, or a text file
            with one on each line.
        column: of the file.
        dry_run: only look.

    Raises:
        SpecError: no ids are given, or they are not of the type that the dataset's have.
        InputError: the file has no such column.
        StxError: as `store.forget.forget`.
    """
    both = pa.array([*ids, *(_ids_of(ids_file, column) if ids_file else ())], pa.string())
    both = both.drop_null()
    if not len(both):
        raise SpecError("no ids are given: name some, or a file with them (--ids-file)")
    if not dry_run:
        _clean_specs(root, set(both.to_pylist()))
    return forget(root, both, without_texts, dry_run=dry_run)


def _ids_of(url: str, column: str) -> list[str]:
    try:
        format_of(url)
    except InputError:
        lines = read_bytes(url).decode().splitlines()
        return [line.strip() for line in lines if line.strip()]
    ids: list[str] = read_ids(url, pa.string(), column).to_pylist()
    return ids


def _clean_specs(root: str, ids: Collection[str]) -> None:
    """Take ids out of the specs that runs left, where they are named to be done or left out."""
    folder = join(root, "_stx/runs")
    for file in list_objects(folder):
        if not file.name.endswith("/spec.yaml"):
            continue
        url = join(folder, file.name)
        try:
            values = load_yaml(read_bytes(url), redact(url))
        except SpecError as error:
            logger.warning("left as it is: %s", error)
            continue
        cleaned = _without_ids(values, ids)
        if cleaned != values:
            write_over(url, yaml.safe_dump(cleaned, sort_keys=False, allow_unicode=True).encode())


def _without_ids(values: Any, ids: Collection[str]) -> Any:  # noqa: ANN401  (YAML)
    """A spec without ids in ``backfill.ids`` and in filters of the id column."""

    def rest(part: Any) -> Any:  # noqa: ANN401
        return [v for v in part if str(v) not in ids] if isinstance(part, list) else part

    if not isinstance(values, Mapping):
        return values
    new = dict(values)
    if isinstance(backfill := values.get("backfill"), Mapping):
        new["backfill"] = {**backfill, "ids": rest(backfill.get("ids"))}
    inputs = values.get("inputs")
    if isinstance(inputs, Mapping) and inputs.get("filter"):
        name = inputs.get("id_column")
        rules = [
            {**rule, "value": rest(rule["value"])} if rule["column"] == name else rule
            for rule in inputs["filter"]
            # One that compares with a single id says nothing any more.
            if rule["column"] != name or str(rule["value"]) not in ids
        ]
        new["inputs"] = {**inputs, "filter": rules}
    return new
